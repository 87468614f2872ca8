"""Progress of long work: a live bar with rate and estimate on a terminal, a line now and then in a log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from befa.progress import Progress

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(what: str, unit: str = "") -> Iterator[Progress]:
    """Yields the function to call as work goes on; work is counted in `unit`s ("bytes" are shown as MB and GB).

    Nothing is shown before the first call.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, unit)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        *(TextColumn(f"{{task.fields[{f}]}}") for f in ("done", "rate")),
    ]
    note_column = TextColumn("{task.fields[note]}")
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), note_column, console=console) as bar:
        task, rate = bar.add_task(what, total=None, visible=False, done="", rate="", note=""), _Rate()

        def report(done: int, total: int | None, note: str = "") -> None:
            shown = _share(done, total, unit)
            speed = f"{_amount(rate(done), _short(unit))}/s"
            bar.update(task, completed=done, total=total, visible=True, done=shown, rate=speed, note=note)

        yield report


class _Rate:
    """Work a second, counted from the first report: what an earlier run had done is not this one's speed."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        return (done - self._start[1]) / max(now - self._start[0], 1e-9)


def _amount(number: float, unit: str) -> str:
    if unit == "bytes":
        return decimal(int(number))
    text = f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
    return f"{text} {unit}".rstrip()


def _short(unit: str) -> str:
    return unit if unit == "bytes" else ""


def _share(done: int, total: int | None, unit: str) -> str:
    if total is None:
        return _amount(done, unit)
    return f"{decimal(done)} of {decimal(total)}" if unit == "bytes" else f"{done:,} of {_amount(total, unit)}"


def _lines(what: str, unit: str) -> Progress:
    last, rate = time.monotonic(), _Rate()

    def report(done: int, total: int | None, note: str = "") -> None:
        nonlocal last
        speed, now = rate(done), time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        shown = _share(done, total, unit)
        left = "" if total is None or speed == 0 else f"{(total - done) / speed:.0f} s left"
        log.info(
            "%s",
            ", ".join(part for part in (f"{what}: {shown}", f"{_amount(speed, _short(unit))}/s", left, note) if part),
        )

    return report
