"""Progress of long work: a live bar with rate and estimate on a terminal, a line now and then in a log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0

Report = Callable[[int, int], None]
"""Called with work done and work in all."""


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yields the function to call as work goes on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task, start = bar.add_task(what, total=None, rate=""), time.monotonic()

        def report(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.1f}/s")

        yield report


def _lines(what: str) -> Report:
    start = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and done < total:
            return
        last, rate = now, done / max(now - start, 1e-9)
        log.info(
            "%s: %s of %s, %.1f/s, %.0f s left", what, f"{done:,}", f"{total:,}", rate, (total - done) / max(rate, 1e-9)
        )

    return report
