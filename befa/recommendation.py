"""What a trained cell recommends: the best items of any user, and the vectors behind the scores."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from befa import tables
from befa.building import load_valid
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.errors import ConfigError, DataError, TrainingError, nearest_id
from befa.metrics import Interactions
from befa.paths import Layout
from befa.problem import Problem
from befa.ranking import Scorer, best, chunks, masks, scorer

log = logging.getLogger(__name__)

SCHEMA = pa.schema([("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())])
"""Of what `TrainedRun.recommend` gives; ranks count from 1."""


@dataclass(frozen=True)
class TrainedRun:
    """One seed of a trained cell, and the raw ids that its rows stand for."""

    cell: Cell
    seed: int
    checkpoint_sha256: str
    model: nn.Module
    problem: Problem
    users: pa.Array = field(repr=False)
    """Raw ids by dense id."""
    items: pa.Array = field(repr=False)
    """Raw ids by dense id."""
    valid: Interactions = field(repr=False)

    @classmethod
    def open(cls, layout: Layout, folder: Path, seed: int | None = None) -> "TrainedRun":
        """The run in `folder` (None: its first seed). Raises ConfigError for a seed it has not; see `load_trained`."""
        cell = Cell.read(layout.configuration(folder))
        seeds = cell.training.seeds
        seed = seeds[0] if seed is None else seed
        if seed not in seeds:
            raise ConfigError(f"no seed {seed}", where=folder, mend=f"known: {', '.join(map(str, seeds))}")
        model, problem = load_trained(layout, folder, cell, seed)
        sha256 = tables.sha256_of(layout.checkpoint(folder, seed))
        users = tables.read_table(layout.users(cell.dataset), ["user"])["user"].combine_chunks()
        items = tables.read_table(layout.items(cell.dataset), ["item"])["item"].combine_chunks()
        return cls(cell, seed, sha256, model, problem, users, items, load_valid(layout, cell, problem.n_users))

    @property
    def about(self) -> dict[str, str]:
        """What made the answers, for the metadata of files."""
        cell = self.cell
        names = {"dataset": cell.dataset, "encoder": cell.encoder, "model": cell.model, "adapter": cell.adapter}
        return names | {"seed": str(self.seed), "checkpoint_sha256": self.checkpoint_sha256}

    @cached_property
    def known_users(self) -> Int[np.ndarray, " B"]:
        """Dense ids of the users that training has seen; of the others a model knows nothing."""
        unknown = self.problem.n_users - int((self.problem.train.counts > 0).sum())
        if unknown:
            log.info("%d users without a training interaction are left out", unknown)
        return np.flatnonzero(self.problem.train.counts > 0)

    def rows(self, users: Sequence[str]) -> Int[np.ndarray, " B"]:
        """Dense ids of raw ones. Raises DataError for a user who is unknown, or has no training interaction."""
        rows = pc.index_in(pa.array(users, pa.string()), value_set=self.users.cast(pa.string())).to_pylist()
        for user, row in zip(users, rows, strict=True):
            if row is None:
                mend = nearest_id(user, self.users.to_pylist())
                raise DataError(f"unknown user {user!r}", where=f"the users of {self.cell.dataset}", mend=mend)
            if self.problem.train.counts[row] == 0:
                what = f"user {user!r} has no training interaction: the model knows nothing of them"
                raise DataError(what, mend="ask for another user, or change the split")
        return np.array(rows, dtype=np.int64)

    def recommend(self, users_B: Int[np.ndarray, " B"], k: int, *, include_known: bool = False) -> Iterator[pa.Table]:
        """The `k` best items of each user, or as many as there are, in tables of SCHEMA of some users each.

        Left out, unless `include_known`, are what the test leaves out: the user's training items and, under `protocol:
        clean`, the validation items. Equal scores are in the order of dense ids. Raises ConfigError for k < 1.
        """
        if k < 1:
            raise ConfigError(f"{k} items are asked for", mend="ask for one at least")
        masked = [] if include_known else masks(self.cell.protocol, self.problem.train, self.valid)
        for part in chunks(users_B, self.problem.n_items):
            yield self._best(part, k, masked)

    def vectors(self) -> tuple[pa.Table, pa.Table]:
        """Users (those that training has seen) and items, each with a `vector`; a score is the dot product of two.

        Vectors are fixed-size lists of float32. Raises TrainingError for a model whose scores are no such product,
        and where one is not finite.
        """
        if hasattr(self.model, "scores"):
            what = f"{self.cell.model} scores pairs without vectors of users and items"
            raise TrainingError(what, mend="use `recommend`, or export another model's")
        users_Ud, items_Id = self.model.user_item_vectors()
        if not (users_Ud.isfinite().all() and items_Id.isfinite().all()):
            raise TrainingError("vectors are not finite", mend="training has diverged: lower the learning rate")
        known = torch.from_numpy(self.known_users).to(users_Ud.device)
        users = self.users.take(pa.array(self.known_users))
        return (
            pa.table({"user": users, "vector": _lists(users_Ud[known])}),
            pa.table({"item": self.items, "vector": _lists(items_Id)}),
        )

    @cached_property
    def _score(self) -> Scorer:
        return scorer(self.model)

    def _best(self, users_B: Int[np.ndarray, " B"], k: int, masked: Sequence[Interactions]) -> pa.Table:
        best_BK, top_BK = (found.cpu().numpy() for found in best(self._score, users_B, masked, k))
        row_n, place_n = np.nonzero(best_BK > -np.inf)  # where no candidate is left, there is nothing to recommend
        top_n = top_BK[row_n, place_n]
        columns = [
            self.users.take(pa.array(users_B[row_n])),
            pa.array(place_n + 1, pa.int32()),
            self.items.take(pa.array(top_n)),
            pa.array(best_BK[row_n, place_n]),
        ]
        return pa.table(columns, schema=SCHEMA)


def _lists(x_nd: Float[Tensor, "n d"]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(x_nd.cpu().numpy().ravel()), x_nd.shape[1])
