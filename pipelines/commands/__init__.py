"""The commands of `python -m pipelines`. What a command calls is imported when it runs: torch, DVC and Prefect take
seconds to load."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For imports: what they make stays, so the garbage collector does not look through it, now or later.

    It did so again and again while torch was loaded, a sixth of the time of a stage's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # for the last collection: nanobind (triton's) reports what stays as leaked
