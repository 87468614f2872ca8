"""How much is worked on at once."""

import torch

GPU_TIMES = 64
"""Not measured on a GPU: enough that a call's work outweighs the call, and no more than some hundred MB."""


def at_once(cached: int, device: torch.device | str) -> int:
    """How many numbers to hold at once: `cached`, what a CPU core's cache holds, or many times that on a GPU.

    There every call has its price, and caches are shared by thousands of threads.
    """
    return cached if torch.device(device).type == "cpu" else GPU_TIMES * cached
