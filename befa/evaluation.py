"""The test: a trained cell's metrics on the part of the split that nothing else reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
from torch import nn

from befa import splits, tables
from befa.building import load_valid
from befa.cells import Cell
from befa.errors import DataError
from befa.metrics import TEST, Interactions, means, metrics_per_user
from befa.paths import Layout
from befa.problem import Problem
from befa.ranking import masks, rank, scorer
from befa.training import validate


@dataclass(frozen=True)
class Evaluation:
    """A cell's result."""

    metrics: dict[str, Any]
    """`test` and `valid`: metric -> mean over users; `users`: how many the test has; `left_out`: users whom training
    does not know. Of several seeds: see `over_seeds`."""
    per_user: pa.Table
    """user (raw id), positives (number of test items), one column per metric (float64); `metrics.TEST` in the schema's
    metadata."""


def evaluate(model: nn.Module, problem: Problem, layout: Layout, cell: Cell) -> Evaluation:
    """Ranks all items for every test user and scores the ranking.

    Masked are a user's training items and, under `protocol: clean`, validation items too; under `protocol: mmrec`
    validation items stay candidates and count as misses, as in the field's reference code. Users without a training
    interaction are left out. Raises DataError when no user is left.
    """
    train = problem.train
    valid = load_valid(layout, cell, problem.n_users)
    test = Interactions.of(*splits.read(layout.split(cell.dataset), "test"), problem.n_users)
    users = np.flatnonzero((test.counts > 0) & (train.counts > 0))
    if len(users) == 0:
        raise DataError("no test interaction of a known user", where=layout.split(cell.dataset), mend="split again")
    masked, device = masks(cell.protocol, train, valid), problem.users_E.device
    top = rank(scorer(model), problem.n_items, users, masked, device=device)
    per_user = metrics_per_user(top, users, test)
    metrics = {
        "test": means(per_user),
        "valid": validate(model, problem, valid),
        "users": len(users),
        "left_out": int((test.counts > 0).sum()) - len(users),
    }
    names = tables.read_table(layout.users(cell.dataset), ["user"])["user"]
    columns = {"user": names.take(pa.array(users)), "positives": pa.array(test.counts[users]), **per_user}
    return Evaluation(metrics, pa.table(columns, metadata={TEST: test.sha256}))


def over_seeds(results: Mapping[int, Evaluation]) -> Evaluation:
    """A cell's result from those of its seeds.

    `test` and `valid` become means over the seeds; `seeds` holds each one's own, and `deviation` the sample standard
    deviations where there are at least two. `per_user` gets a column `seed` in front.
    """
    found = [result.metrics for result in results.values()]
    metrics = {**found[0], **_each(found, fmean)}
    if len(found) > 1:
        metrics["deviation"] = _each(found, stdev)
    metrics["seeds"] = {str(seed): _parts(result.metrics) for seed, result in results.items()}
    rows = [
        result.per_user.add_column(0, "seed", pa.array([seed] * len(result.per_user), pa.int64()))
        for seed, result in results.items()
    ]
    return Evaluation(metrics, pa.concat_tables(rows))


def _parts(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {part: metrics[part] for part in ("test", "valid")}


def _each(found: Sequence[Mapping[str, Any]], take: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """`take` of each metric's values."""
    return {
        part: {name: take([metrics[part][name] for metrics in found]) for name in names}
        for part, names in _parts(found[0]).items()
    }
