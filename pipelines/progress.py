"""Progress of long work: a live bar with rate and estimate on a terminal, a line now and then in a log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Report(Protocol):
    """Called as work goes on."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Work done, work in all, and a word on how it goes."""
        ...


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yields the function to call as work goes on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    note_column = TextColumn("{task.fields[note]}")
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), note_column, console=console) as bar:
        task, start = bar.add_task(what, total=None, rate="", note=""), time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.1f}/s", note=note)

        yield report


def _lines(what: str) -> Report:
    start = last = time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last, rate = now, done / max(now - start, 1e-9)
        left = f"{(total - done) / rate:.0f} s left"
        log.info(
            "%s", ", ".join(part for part in (f"{what}: {done:,} of {total:,}", f"{rate:.1f}/s", left, note) if part)
        )

    return report
