"""Work on two cores at a time, in order and without a queue that grows."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

THREADS = 2
"""numpy, Polars and Arrow work outside Python's lock; more threads than these wait for memory."""


def ordered(function: Callable[[A], B], inputs: Iterable[A], threads: int = THREADS) -> Iterator[B]:
    """`function` of every input, in the order of the inputs; at most two more are in memory than there are threads."""
    waiting: list[Future[B]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(function, value))
                del value  # the pool's to keep, and to free
                if len(waiting) > threads + 1:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
