"""Which device a wish for one means on this machine, and how its memory is used."""

import ctypes
from typing import Literal

import torch

from befa.errors import ConfigError


def device_for(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device that `wanted` means here. Raises ConfigError when it is cuda and there is none."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("no CUDA device is available", mend="take device auto or cpu, or look at `nvidia-smi`")
    return "cuda" if there and wanted != "cpu" else "cpu"


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """From here on this process keeps the memory it frees, for its next tensors: for processes that train.

    glibc gives large blocks back to the system at once and asks anew for the next batch's; the system clears them
    page by page, which took a quarter of BM3's training. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
