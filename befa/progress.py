"""How long work says how far it is."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called as work goes on; `pipelines/progress.py` makes bars and lines of a log of it."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Work done and in all (None: not known) in one unit, bytes or rows, say, and a word on what is at hand."""
        ...
