"""What a model is given and what it must offer: Problem, Batch, Recommender or ScoringRecommender.

Axis letters: see shapes.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from befa.errors import DataError
from befa.metrics import Interactions

ProtocolName = Literal["clean", "mmrec"]
"""`clean`: this project's protocol. `mmrec`: masking, rounding, patience and momentum of the field's reference code
(docs/protocols.md)."""


MEND = "make the problem by problem_of of befa/arrays.py"


@dataclass(frozen=True)
class Content:
    """One modality's item features. Rows of absent items are zero and must be left out by `present_I`.

    Zero is a placeholder that cannot poison arithmetic as NaN would; it is no feature. Whoever builds a
    graph or a loss from `values_Ic` looks at the mask.
    """

    values_Ic: Float[Tensor, "I c"]
    """float32."""
    present_I: Bool[Tensor, " I"]

    def check(self, name: str, n_items: int) -> None:
        """Raises DataError unless it is of `n_items`, of the types above, and finite; `name` says whose it is."""
        values_Ic, present_I = self.values_Ic, self.present_I
        shape, types = tuple(values_Ic.shape), (values_Ic.dtype, present_I.dtype)
        fits = values_Ic.ndim == 2 and shape[0] == n_items and shape[1] > 0 and present_I.shape == (n_items,)
        if not fits or types != (torch.float32, torch.bool):
            mask = f"{tuple(present_I.shape)} of {types[1]}"
            what = f"{name} content is {shape} of {types[0]}, its mask {mask}, for {n_items} items"
            raise DataError(what, mend="give each item a row of float32 and a bool")
        if n_items and not all(extreme.isfinite() for extreme in values_Ic.aminmax()):
            row = (~values_Ic.isfinite()).any(1).nonzero()[0].item()
            raise DataError(
                f"row {row} of {name} is not finite", mend="make absent rows zero, and mark them in the mask"
            )


@dataclass(frozen=True)
class Problem:
    """The training data as a model sees it: interactions by dense id, content by modality."""

    n_users: int
    n_items: int
    users_E: Int[Tensor, " E"]
    """Users of the training interactions, int64 in [0, n_users)."""
    items_E: Int[Tensor, " E"]
    """Items of the training interactions, int64 in [0, n_items); pairs are unique and sorted by user, then item."""
    contents: Mapping[str, Content] = field(default_factory=dict)
    """By modality name ("image", "text"), in a fixed order; any number of them."""

    def __post_init__(self) -> None:
        """Raises DataError for ids out of range, which a sparse matrix would take for another pair's; for pairs that
        stand there twice or out of order; and for content as `Content.check` does."""
        if self.users_E.shape != self.items_E.shape or {self.users_E.dtype, self.items_E.dtype} != {torch.int64}:
            types = f"{self.users_E.dtype} and {self.items_E.dtype}"
            what = f"{len(self.users_E)} users and {len(self.items_E)} items, of {types}, are no pairs of int64"
            raise DataError(what, mend=MEND)
        for name, ids_E, count in (("user", self.users_E, self.n_users), ("item", self.items_E, self.n_items)):
            if len(ids_E) and not 0 <= int(ids_E.min()) <= int(ids_E.max()) < count:
                what = f"{name} ids from {int(ids_E.min())} to {int(ids_E.max())}, of {count} {name}s"
                raise DataError(what, mend=f"ids count {name}s from 0, without gaps")
        pairs_E = self.users_E * self.n_items + self.items_E
        if not (pairs_E[1:] > pairs_E[:-1]).all():
            raise DataError("training pairs are not unique and sorted by user, then item", mend=MEND)
        for modality, content in self.contents.items():
            content.check(modality, self.n_items)

    @cached_property
    def train(self) -> Interactions:
        """The training interactions by user, on the CPU."""
        return Interactions.of(self.users_E.cpu().numpy(), self.items_E.cpu().numpy(), self.n_users)


@dataclass(frozen=True)
class Batch:
    """One training step: positives and one sampled negative each."""

    users_B: Int[Tensor, " B"]
    positives_B: Int[Tensor, " B"]
    negatives_B: Int[Tensor, " B"]
    starts_epoch: bool = False
    """True for the first batch of an epoch, when models with per-epoch state (LATTICE, FREEDOM) renew it."""


class Recommender(Protocol):
    """A model is two methods. It opens no file, picks no device and runs no loop.

    Constructed as `Model(problem, adapters, config, rng=...)`, with one adapter per modality.
    """

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """The training loss of one batch, to be minimised; dropout and sampling inside draw from `rng`."""
        ...

    def user_item_vectors(self) -> tuple[Float[Tensor, "U k"], Float[Tensor, "I k"]]:
        """Current user and item vectors; the score of a pair is their dot product. No dropout, no gradient."""
        ...


class ScoringRecommender(Protocol):
    """A recommender whose scores are no product of vectors: `scores` in place of `user_item_vectors`."""

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """As in `Recommender`; a model without parameters is never asked."""
        ...

    def scores(self, users_B: Int[Tensor, " B"]) -> Float[Tensor, "B I"]:
        """Current scores of all items for some users, a tensor of the caller's own. No dropout, no gradient."""
        ...
