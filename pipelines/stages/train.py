"""Stage `train@<dataset>-<encoder>-<model>-<adapter>`: one cell's checkpoint."""

import csv
import logging
import time

import torch
from safetensors.torch import save_file

from befa import config, splits, tables
from befa.cells import Cell, build, load_problem
from befa.metrics import Interactions
from befa.paths import Layout
from befa.training import Row, fit
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout) -> None:
    """Trains a cell and writes checkpoint.safetensors, history.csv and config.json; timing.json is beside them."""
    cell = Cell.from_params(config.read_params(layout.params), dataset, encoder, model, adapter)
    into = layout.run(dataset, encoder, model, adapter)
    torch.set_num_threads(cell.training.threads)
    torch.use_deterministic_algorithms(True)
    problem = load_problem(layout, cell)
    valid = Interactions.of(*splits.read(layout.split(dataset), "valid"), problem.n_users)
    recommender, monitor, start = build(problem, cell), cell.training.monitor, time.monotonic()
    with progress(f"{model}+{adapter} epochs") as report:

        def on_epoch(row: Row, best: Row, end: int) -> None:
            # The total is a forecast: training ends there unless a better epoch comes first.
            report(row["epoch"] + 1, end, f"best {monitor} {best[monitor]:.4f} in epoch {best['epoch']}")

        fitted = fit(recommender, problem, valid, cell, on_epoch)
    seconds = time.monotonic() - start

    with tables.whole(into / "checkpoint.safetensors") as part:
        save_file(fitted.state, part)
    with tables.whole(into / "history.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fitted.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(fitted.history)
    cell.write(into / "config.json")
    # Not an output of the stage: it differs from run to run.
    timing = {
        "seconds": seconds,
        "epochs": len(fitted.history),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    tables.write_json(into / "timing.json", timing)
    best = fitted.history[fitted.best_epoch][monitor]
    log.info("best epoch %d of %d: %s %.4f (%.1f s)", fitted.best_epoch, len(fitted.history), monitor, best, seconds)
