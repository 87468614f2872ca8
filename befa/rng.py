"""Randomness is an argument: one named stream per use, torch's global generator is never touched."""

from contextlib import AbstractContextManager
from hashlib import sha256

import numpy as np
import torch


def _seed(seed: int, names: tuple[str, ...]) -> int:
    digest = sha256(repr((seed, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, *names: str) -> torch.Generator:
    """A torch generator (CPU) for one named use; different names give independent streams."""
    return torch.Generator().manual_seed(_seed(seed, names))


def numpy_stream(seed: int, *names: str) -> np.random.Generator:
    """A NumPy generator for one named use; different names give independent streams."""
    return np.random.default_rng(_seed(seed, names))


class global_seed(AbstractContextManager):  # noqa: N801 - reads as a statement: with global_seed(...)
    """For libraries that draw from torch's global generator: seeded inside the block, restored after it."""

    def __init__(self, seed: int, *names: str) -> None:
        self._seed = _seed(seed, names)
        self._fork = torch.random.fork_rng(devices=range(torch.cuda.device_count()))

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *raised: object) -> None:
        self._fork.__exit__(*raised)
