"""The training loop: Adam, early stopping on validation, the best epoch's parameters; taken up after a kill."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from befa.adam import Adam
from befa.cells import Cell
from befa.errors import ConfigError, DataError, TrainingError
from befa.metrics import Interactions, means, metrics_per_user
from befa.problem import Problem
from befa.ranking import rank, scorer
from befa.resuming import Saved
from befa.rng import stream
from befa.sampling import batches

Row = dict[str, int | float]
"""One epoch: `epoch` (from 0), `loss` (mean over batches), and every validation metric."""


@dataclass(frozen=True)
class Fitted:
    """What training leaves."""

    state: dict[str, Tensor]
    """Parameters of the best epoch, on the CPU."""
    best_epoch: int
    history: list[Row]


def fit(
    model: nn.Module,
    problem: Problem,
    valid: Interactions,
    cell: Cell,
    seed: int,
    on_epoch: Callable[[Row, Row, int], None] = lambda row, best, end: None,
    saved: Saved | None = None,
) -> Fitted:
    """Trains `model` in place until validation stops improving; ends with the best epoch's parameters loaded.

    Everything random is drawn from `seed`, on the CPU: the same seed gives the same bits on one device. With `saved`,
    a killed run's training is taken up where it was last saved, and ends with the bits of one that was not killed.

    Early stopping compares the unrounded `training.monitor` and stops after `patience` epochs without improvement.
    `protocol: mmrec` rounds to 4 decimals first and stops one epoch later, as the field's reference code does, and
    parameters go on by their momentum in batches that give them no gradient (LATTICE's content), as under its torch.
    A model without parameters is evaluated once: a history of one row, with loss 0, and an empty state.
    `on_epoch` is called with the epoch's row, the best row so far, and the epochs there will be if none is better.
    Raises TrainingError naming epoch and batch when the loss is not finite, ConfigError for two learning rates.
    """
    training = cell.training
    if training.learning_rate is not None:  # here, not in Cell.check: runs of before, which have two, can still be used
        what = f"two learning rates: {training.learning_rate} of training, {cell.optimizer.learning_rate}"
        raise ConfigError(what, mend="a cell's learning rate is its optimizer's")
    _validated_users(problem, valid)  # an error now, not after an epoch
    if next(model.parameters(), None) is None:
        row = {"epoch": 0, "loss": 0.0, **validate(model, problem, valid)}
        on_epoch(row, row, 1)
        return Fitted({}, 0, [row])
    rate = cell.optimizer.learning_rate
    optimizer = Adam(model.parameters(), rate, coasting=cell.protocol == "mmrec")
    generators = {name: stream(seed, name) for name in ("sampling", "noise")}
    history, state = ([], {}) if saved is None else saved.take_up(model, optimizer, generators)
    stopping = EarlyStopping(training.patience, mmrec=cell.protocol == "mmrec")
    for row in history:
        stopping.improved(row[training.monitor])
    while len(history) < training.epochs and not stopping.exhausted:
        epoch = len(history)
        optimizer.learning_rate = rate * cell.optimizer.decay ** (epoch / 50)
        loss = _train_epoch(model, problem, optimizer, training.batch_size, *generators.values(), epoch)
        row = {"epoch": epoch, "loss": loss, **_validated(model, problem, valid, epoch)}
        history.append(row)
        if stopping.improved(row[training.monitor]):
            state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        if saved is not None and saved.due:
            saved.save(model, optimizer, generators, history, state)
        on_epoch(row, history[stopping.best_epoch], min(stopping.end, training.epochs))
    if saved is not None:  # the cell's next seed may be killed
        saved.save(model, optimizer, generators, history, state)
    model.load_state_dict(state)
    return Fitted(state, stopping.best_epoch, history)


class EarlyStopping:
    """Counts evaluations since the best one; the rule of each protocol is in `fit`."""

    def __init__(self, patience: int, *, mmrec: bool) -> None:
        self._allowed = patience + 1 if mmrec else patience
        self._mmrec = mmrec
        self._best = -np.inf
        self._seen = 0
        self.best_epoch = 0

    def improved(self, value: float) -> bool:
        """Takes one evaluation in; True when it beats all before it (an equal value does not)."""
        value = round(value, 4) if self._mmrec else value
        better = value > self._best
        if better:
            self._best, self.best_epoch = value, self._seen
        self._seen += 1
        return better

    @property
    def end(self) -> int:
        """How many evaluations there will be if none is better than the best one."""
        return self.best_epoch + 1 + self._allowed

    @property
    def exhausted(self) -> bool:
        """True when training should stop."""
        return self._seen >= self.end


def validate(model: nn.Module, problem: Problem, valid: Interactions) -> dict[str, float]:
    """All metrics on the validation part: every item is a candidate but the user's training items."""
    users = _validated_users(problem, valid)
    top = rank(scorer(model), problem.n_items, users, [problem.train], device=problem.users_E.device)
    return means(metrics_per_user(top, users, valid))


def _validated_users(problem: Problem, valid: Interactions) -> np.ndarray:
    """Users with both training and validation interactions. Raises DataError where there is none, or others."""
    if len(valid.counts) != problem.n_users or valid.items_E.max(initial=-1) >= problem.n_items:
        what = f"validation of {len(valid.counts)} users, and of items up to {valid.items_E.max(initial=-1)}"
        mend = f"the problem has {problem.n_users} users and {problem.n_items} items"
        raise DataError(what, mend=mend)
    users = np.flatnonzero((valid.counts > 0) & (problem.train.counts > 0))
    if len(users) == 0:
        raise DataError(
            "no user has both training and validation interactions", mend="give some, by the split's shares"
        )
    return users


def _validated(model: nn.Module, problem: Problem, valid: Interactions, epoch: int) -> dict[str, float]:
    """`validate`, whose error names the epoch: the last step may diverge, and no loss is computed after it."""
    try:
        return validate(model, problem, valid)
    except TrainingError as error:
        raise TrainingError(f"{error.what} after epoch {epoch}", mend=error.mend) from None


def _train_epoch(
    model: nn.Module,
    problem: Problem,
    optimizer: Adam,
    batch_size: int,
    sampling: torch.Generator,
    noise: torch.Generator,
    epoch: int,
) -> float:
    """One pass over the training interactions; the mean of the batches' losses."""
    model.train()
    losses = []
    for number, batch in enumerate(batches(problem, batch_size, rng=sampling)):
        loss = model.loss(batch, rng=noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # here, so that no gradient takes memory while validation runs
        losses.append(loss.item())  # now: on a GPU whoever asks before waits for what could be queued meanwhile
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is {losses[-1]} at epoch {epoch}, batch {number}",
                mend="lower the learning rate, or look for extreme values in the features",
            )
    return float(np.mean(losses))
