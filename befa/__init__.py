"""BeFA, behaviour-driven feature adaptation for multimodal recommendation, and the parts around it.

The library imports neither DVC nor Prefect nor the command line (those live in `pipelines`); its mends name stages.
"""

import os
from pathlib import Path


def _flags() -> set[str]:
    """What the first CPU can do, by Linux's names; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return set()
    with cpuinfo.open(encoding="utf-8") as file:  # not read whole: it is long where there are hundreds
        return next((set(line.split()) for line in file if line.startswith("flags")), set())


# torch and oneDNN add up in the order of a CPU's widest registers: the same inputs gave other bytes on a CPU with
# AVX-512 than on one without, and DVC ran everything behind them anew. Held to AVX2 they give the same, and are no
# slower (docs/performance.md). Not so on an Intel beside an AMD: MKL, in which products are, chooses by maker, and its
# MKL_CBWR=COMPATIBLE takes twice as long. To be set before torch is used; what a user has set stands.
if "avx512f" in _flags():
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# CUDA has no deterministic products without it; torch looks for it once, at the first product of the process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
