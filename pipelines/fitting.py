"""One seed of a cell, trained: what the stages `train` and `sensitivity` share."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from befa import checkpoints, resuming
from befa.building import build, load_problem, load_valid
from befa.cells import Cell
from befa.paths import Layout
from befa.problem import Problem
from befa.resuming import Saved
from befa.training import Fitted, Row, fit
from pipelines.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What is kept of one seed's training."""

    data_sha256: str
    """Of what it was given (see befa/checkpoints.py)."""
    fitted: Fitted
    seconds: float
    """Of wall time, of the epochs that were trained here, their validation included."""
    epochs: int
    """How many these are: fewer than the history has where an earlier process trained some of them."""


def train(
    layout: Layout, cell: Cell, seed: int, device: str, saved: Callable[[str], Saved], what: str | None = None
) -> tuple[nn.Module, Problem, Training]:
    """Trains a cell from `seed`, taking up what `saved` (called with the training's identity) holds of it.

    The model has the best epoch's parameters; the problem is without its content, of which the model has what it needs.
    Progress is shown as of `what`; None: of model and adapter.
    """
    what = what or f"{cell.model}+{cell.adapter}"
    problem = load_problem(layout, cell, seed, device)
    valid = load_valid(layout, cell, problem.n_users)
    data_sha256 = checkpoints.data_sha256(problem, valid)
    monitor, start, here = cell.training.monitor, time.monotonic(), 0
    with progress(f"{what} seed {seed} epochs") as report:

        def on_epoch(row: Row, best: Row, end: int) -> None:
            nonlocal here
            here += 1
            # The total is a forecast: training ends there unless a better epoch comes first.
            note = f"best {monitor} {best[monitor]:.4f} in epoch {best['epoch']}; a better one moves the end"
            report(row["epoch"] + 1, end, note)

        model = build(problem, cell, seed)
        problem = replace(problem, contents={})  # the model has tables of its own: Adam's moments take their place
        kept = saved(resuming.identity(data_sha256, cell, seed, device))
        fitting = time.monotonic()
        fitted = fit(model, problem, valid, cell, seed, on_epoch, kept)
        seconds = time.monotonic() - fitting
    best, epochs = fitted.history[fitted.best_epoch][monitor], len(fitted.history)
    told = f"{what} seed {seed}, best epoch {fitted.best_epoch} of {epochs}: {monitor} {best:.4f}"
    log.info("%s (%.1f s)", told, time.monotonic() - start)
    return model, problem, Training(data_sha256, fitted, seconds, here)
