"""Randomness is an argument: one named stream per use, torch's global generator is never touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

# torch takes seconds to load, and splits and sources need only NumPy: it is imported where it is used.
if TYPE_CHECKING:
    from torch import Generator


def _seed(seed: SupportsIndex, names: tuple[object, ...]) -> int:
    # As Python's own integer: NumPy's is written otherwise, and so was another seed. What is none is a TypeError.
    digest = sha256(repr((int(index(seed)), names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: SupportsIndex, *names: str) -> Generator:
    """A torch generator (CPU) for one named use; different names give independent streams."""
    import torch

    return torch.Generator().manual_seed(_seed(seed, names))


def numpy_stream(seed: SupportsIndex, *names: str) -> np.random.Generator:
    """A NumPy generator for one named use; different names give independent streams."""
    return np.random.default_rng(_seed(seed, names))


@contextmanager
def global_seed(seed: SupportsIndex, *names: str) -> Iterator[None]:
    """For libraries that draw from torch's global generator (CPU): seeded inside the block, restored after it."""
    import torch

    with torch.random.fork_rng(devices=[]):  # the CPU's: the generators of GPUs, which nothing here draws from, stay
        torch.random.default_generator.manual_seed(_seed(seed, names))
        yield
