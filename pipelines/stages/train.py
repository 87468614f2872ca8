"""Stage `train@<dataset>-<encoder>-<model>-<adapter>`: one cell's checkpoints, one per seed."""

import csv
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from befa import checkpoints, config, tables
from befa.cells import Cell
from befa.devices import deterministic, device_name
from befa.paths import Layout
from befa.resuming import Saved
from befa.training import Row
from pipelines.fitting import Training, train

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Trains a cell and writes its checkpoints, history.csv and config.json; timing.json is beside them.

    What was reached is saved now and then in the folder `training` beside these: a killed run is taken up there.
    """
    cell = Cell.from_params(config.read_params(layout.params), dataset, encoder, model, adapter)
    into = layout.run(dataset, encoder, model, adapter)
    tables.check_writable(into)
    deterministic(cell.training.threads)
    log.info("training on %s", device_name(device))
    found = {seed: _train_seed(layout, into, cell, seed, device) for seed in cell.training.seeds}
    layout.configuration(into).unlink(missing_ok=True)  # never beside checkpoints of another configuration
    for seed, one in found.items():
        about = {"seed": seed, "data_sha256": one.data_sha256}
        about["config_sha256"] = checkpoints.config_sha256(asdict(cell), seed)
        checkpoints.write(layout.checkpoint(into, seed), one.fitted.state, about)
    history = [{"seed": seed, **row} for seed, one in found.items() for row in one.fitted.history]
    _write_history(into / "history.csv", history)
    cell.write(layout.configuration(into))
    _tidy(layout, into, cell.training.seeds)
    # Not an output of the stage: it differs from run to run.
    timing = {
        "seconds": sum(one.seconds for one in found.values()),
        "epochs": sum(one.epochs for one in found.values()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device if device == "cpu" else device_name(device),
        "config_sha256": tables.sha256_of(layout.configuration(into)),
    }
    tables.write_json(layout.timing(into), timing)


def _train_seed(layout: Layout, into: Path, cell: Cell, seed: int, device: str) -> Training:
    path = layout.training(into) / f"{seed}.safetensors"
    _, _, found = train(layout, cell, seed, device, lambda made_of: Saved(path, made_of))
    return found


def _write_history(path: Path, history: list[Row]) -> None:
    with tables.whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _tidy(layout: Layout, into: Path, seeds: tuple[int, ...]) -> None:
    """Removes what the trainings had saved on their way, and checkpoints of seeds that are no longer the cell's."""
    shutil.rmtree(layout.training(into), ignore_errors=True)
    ours = {layout.checkpoint(into, seed) for seed in seeds}
    for path in {path for one in ours for path in one.parent.iterdir()} - ours:
        path.unlink()
