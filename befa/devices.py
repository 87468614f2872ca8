"""Which device a wish for one means on this machine."""

from typing import Literal

import torch

from befa.errors import ConfigError


def device_for(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device that `wanted` means here. Raises ConfigError when it is cuda and there is none."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("no CUDA device is available", mend="take device auto or cpu, or look at `nvidia-smi`")
    return "cuda" if there and wanted != "cpu" else "cpu"
