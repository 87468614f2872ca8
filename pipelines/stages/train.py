"""Stage `train@<dataset>-<encoder>-<model>-<adapter>`: one cell's checkpoints, one per seed."""

import csv
import logging
import os
import shutil
import time
from pathlib import Path

import torch

from befa import checkpoints, config, resuming, splits, tables
from befa.cells import Cell, build, load_problem
from befa.metrics import Interactions
from befa.paths import Layout
from befa.resuming import Saved
from befa.training import Fitted, Row, fit
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Trains a cell and writes its checkpoints, history.csv and config.json; timing.json is beside them.

    What was reached is saved now and then in the folder `training` beside these: a killed run is taken up there.
    """
    cell = Cell.from_params(config.read_params(layout.params), dataset, encoder, model, adapter)
    into = layout.run(dataset, encoder, model, adapter)
    torch.set_num_threads(cell.training.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA has no deterministic products
    torch.use_deterministic_algorithms(True)
    # That mode also fills every new tensor with NaN before it is written: work that no result depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False
    start = time.monotonic()
    found = {seed: _fitted(layout, into, cell, seed, device) for seed in cell.training.seeds}
    (into / "config.json").unlink(missing_ok=True)  # never beside checkpoints of another configuration
    for seed, (fitted, about) in found.items():
        checkpoints.write(layout.checkpoint(into, seed), fitted.state, about)
    history = [{"seed": seed, **row} for seed, (fitted, _) in found.items() for row in fitted.history]
    _write_history(into / "history.csv", history)
    cell.write(into / "config.json")
    _tidy(layout, into, cell.training.seeds)
    # Not an output of the stage: it differs from run to run.
    timing = {
        "seconds": time.monotonic() - start,
        "epochs": len(history),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device,
    }
    tables.write_json(into / "timing.json", timing)


def _fitted(layout: Layout, into: Path, cell: Cell, seed: int, device: str) -> tuple[Fitted, dict[str, object]]:
    """One seed's training, and what its checkpoint says of itself."""
    problem = load_problem(layout, cell, seed, device)
    valid = Interactions.of(*splits.read(layout.split(cell.dataset), "valid"), problem.n_users)
    data_sha256 = checkpoints.data_sha256(problem)
    made_of = resuming.identity(data_sha256, valid, cell, seed, device)
    saved = Saved(layout.training(into) / f"{seed}.safetensors", made_of)
    monitor, start = cell.training.monitor, time.monotonic()
    with progress(f"{cell.model}+{cell.adapter} seed {seed} epochs") as report:

        def on_epoch(row: Row, best: Row, end: int) -> None:
            # The total is a forecast: training ends there unless a better epoch comes first.
            report(row["epoch"] + 1, end, f"best {monitor} {best[monitor]:.4f} in epoch {best['epoch']}")

        fitted = fit(build(problem, cell, seed), problem, valid, cell, seed, on_epoch, saved)
    best, epochs = fitted.history[fitted.best_epoch][monitor], len(fitted.history)
    shown = f"seed {seed}, best epoch {fitted.best_epoch} of {epochs}: {monitor} {best:.4f}"
    log.info("%s (%.1f s)", shown, time.monotonic() - start)
    return fitted, {"seed": seed, "data_sha256": data_sha256}


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
