"""A training that is under way, in one file: what a killed run had reached is taken up by the next."""

import json
import logging
import time
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from befa import checkpoints
from befa.adam import Adam
from befa.cells import Cell
from befa.devices import device_name
from befa.errors import TrainingError

log = logging.getLogger(__name__)

SECONDS_BETWEEN = 30.0
"""A killed run loses about as much. Results do not depend on it."""

LARGEST_SHARE = 0.1
"""Of the time that saving may take: with tables of gigabytes it is done less often."""


def identity(data_sha256: str, cell: Cell, seed: int, device: str) -> str:
    """SHA-256 of all that a training's bits depend on: configuration, seed, data, code, torch's version and processor.

    `data_sha256`: see checkpoints.py. The cell's other seeds are left out, so that one more of them
    does not train those again that had ended.
    """
    config = asdict(cell) | {"training": asdict(cell.training) | {"seeds": [seed]}}
    made_of = [config, data_sha256, torch.__version__, device_name(device), code_sha256()]
    return sha256(json.dumps(made_of).encode()).hexdigest()


@cache
def code_sha256() -> str:
    """Of befa's files, once for a process: those of its start are what it runs, whatever they are by its next seed."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


code_sha256()  # now: a file that is saved while the data are loaded is not what this process runs


class Saved:
    """The state of one seed's training in the file at `path`, valid for what `made_of` (see `identity`) stands for.

    Taken at an epoch's end, when the models keep nothing from the epoch but their parameters: what LATTICE and FREEDOM
    draw once an epoch is drawn again by the next one's first batch.
    """

    def __init__(self, path: Path, made_of: str, *, every: float = SECONDS_BETWEEN) -> None:
        self._path, self._made_of, self._every = path, made_of, every
        self._next = time.monotonic() + every

    def take_up(
        self, model: nn.Module, optimizer: Adam, generators: dict[str, Generator]
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Brings all three to where the file's run was; returns its history and its best epoch's parameters.

        Both are empty, and nothing is touched, where there is no file, it is unreadable, or of another training.
        """
        if not self._path.exists():
            return [], {}
        try:
            tensors, about = checkpoints.read(self._path)
        except TrainingError as error:
            log.warning("%s, training starts over", error)
            return [], {}
        if about.get("made_of") != self._made_of:
            log.info("%s: of another configuration, data, code or processor, training starts over", self._path)
            return [], {}
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "generator": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        model.load_state_dict(parts["model"])
        optimizer.load_state(parts["optimizer"])
        for name, generator in generators.items():
            generator.set_state(parts["generator"][name])
        log.info("taking up training after epoch %d", len(about["history"]) - 1)
        return about["history"], parts["best"]

    @property
    def due(self) -> bool:
        """Whether enough time has gone by since the last save."""
        return time.monotonic() >= self._next

    def save(
        self,
        model: nn.Module,
        optimizer: Adam,
        generators: dict[str, Generator],
        history: list[dict[str, Any]],
        best: dict[str, Tensor],
    ) -> None:
        """Writes the state after an epoch, whole or not at all; a kill leaves the one before.

        One that cannot be written is a warning: training needs no disk before its end.
        """
        start = time.monotonic()
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in best.items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer.state().items()}
        tensors |= {f"generator/{name}": generator.get_state() for name, generator in generators.items()}
        try:
            checkpoints.write(self._path, tensors, {"made_of": self._made_of, "history": history})
        except (TrainingError, OSError) as error:
            log.warning("training goes on, but would not be taken up after a kill: %s", error)
        now = time.monotonic()
        self._next = now + max(self._every, (now - start) / LARGEST_SHARE)

    def remove(self) -> None:
        """Forgets the training: what it led to is stored."""
        self._path.unlink(missing_ok=True)
