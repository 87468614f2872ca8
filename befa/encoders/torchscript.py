"""The tensors of a TorchScript archive, which is how OpenAI published CLIP, without running the program in it."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether `path` is a zip that holds a program beside tensors; torch.load reads tensors alone."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by the path of attributes that leads to them, as `state_dict` names them; on the CPU.

    Nothing of the archive is executed: of its pickle only the structure is taken, and any name in it that is not one of
    a module, a tensor or a list of these is refused. Raises pickle.UnpicklingError for such a name, and whatever
    zipfile and pickle raise for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        (structure,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        with archive.open(structure) as file:
            root = _Structure(file, archive, structure.removesuffix("data.pkl")).load()
    if not isinstance(root, _Module):
        raise pickle.UnpicklingError("its root is no module")
    state: dict[str, Tensor] = {}
    _collect(root, "", state)
    return state


class _Module:
    """Stands in for every module of the program: a bag of attributes."""


class _Structure(pickle.Unpickler):
    """Makes modules into bags, and storages into tensors."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a module of tensors needs."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        harmless = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        }
        if (module, name) not in harmless:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return harmless[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """One storage, read once however many tensors share it."""
        _, dtype, key, _, _ = pid  # the last two: the device it was saved from, and its length
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self.storages[key] = values
        return self.storages[key]


def _tensor(storage_N: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage_N, size, stride, offset).clone()


def _collect(module: _Module, prefix: str, state: dict[str, Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            state[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", state)
