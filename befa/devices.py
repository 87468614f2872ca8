"""Which device a wish for one means on this machine, and how its memory is used."""

import ctypes
import logging
import os
import platform
from pathlib import Path
from typing import Literal

import torch

from befa.errors import ConfigError

log = logging.getLogger(__name__)


def device_for(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device that `wanted` means here. Raises ConfigError when it is cuda and there is none that torch can use."""
    if wanted == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        if wanted == "auto":
            return "cpu"
        what = f"no CUDA device is available to torch {torch.__version__}"
        mend = "take device auto or cpu; or see whether `nvidia-smi` shows a GPU and a driver new enough for torch"
        raise ConfigError(what, mend=mend)
    if (problem := _too_old()) is None:
        return "cuda"
    if wanted == "cuda":
        raise ConfigError(problem, mend="take device auto or cpu, or install a torch that was built for it")
    log.warning("%s: the CPU is used", problem)
    return "cpu"


def _too_old() -> str | None:
    """Says so where torch was not built for the GPU: it would find that out by its first computation."""
    major, minor = torch.cuda.get_device_capability()
    built_for = [int(arch.removeprefix("sm_").rstrip("af")) for arch in torch.cuda.get_arch_list() if arch[:3] == "sm_"]
    if built_for and 10 * major + minor < min(built_for):
        name = torch.cuda.get_device_name()
        return f"torch {torch.__version__} was not built for {name} (compute capability {major}.{minor})"
    return None


def device_name(device: str) -> str:
    """The model of the GPU or CPU that `device` stands for: it decides a computation's last bits.

    Of a CPU also the instructions that torch uses on it (`ATEN_CPU_CAPABILITY`), and MKL's mode where it is set.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    mode = os.environ.get("MKL_CBWR")
    return f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}" + (f", MKL_CBWR={mode}" if mode else "")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    first, _, _ = cpuinfo.read_text(encoding="utf-8").partition("\n\n")
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    # The model's name may be of a whole family ("AMD EPYC" in a virtual machine). ARM has other fields.
    return " ".join(fields.get(name, "") for name in ("model name", "cpu family", "model", "CPU part")).strip()


def deterministic(threads: int) -> None:
    """From here on this process computes with `threads` CPU threads, and to the same bits each time on one device.

    Products on CUDA are of float32, not of TF32, whatever the environment wishes. Memory: see `keep_freed_memory`.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would load torch's compiler: 4 s, 150 MB
    # That mode also fills every new tensor with NaN before it is written: work that no result depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False


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
