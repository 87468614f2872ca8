"""A device that is not the CPU, on a machine that has no other: to see that code puts its tensors where it should.

Tensors of the device "meta" are made to hold numbers, on the CPU, behind a wrapper that tells every operation on two
devices from one on a single device, as CUDA does: the former is an error. It shows neither CUDA's speed nor its
rounding, nor which of its operations are deterministic.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

OTHER = torch.device("meta")
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""What takes indices of the CPU into a tensor of the other device; what is put there must lie on the latter."""


class OtherTensor(Tensor):
    """A tensor that says it lies on the other device."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OtherTensor":
        """Wraps `held`."""
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=OTHER
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Inside, tensors may be made on, and moved to, `OTHER`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OtherTensor)]
    together = tensors
    if func is aten.copy_.default:
        together = []
    elif func in INDEXING and isinstance(args[0], OtherTensor):
        together = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor)]
    if there and any(x.dim() for x in together if not isinstance(x, OtherTensor)):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    asked = kwargs.get("device")
    is_there = bool(there) if asked is None else torch.device(asked) == OTHER
    held_args, held_kwargs = tree_map_only(OtherTensor, lambda x: x.held, (args, kwargs))
    found = func(*held_args, **(held_kwargs if asked is None else {**held_kwargs, "device": "cpu"}))
    if not is_there or func is aten._local_scalar_dense.default:
        return found
    wrappers = {id(x.held): x for x in there}  # an operation in place gives back the tensor it was given
    return tree_map_only(Tensor, lambda x: wrappers[id(x)] if id(x) in wrappers else OtherTensor(x), found)
