"""Training pairs in random order, each with a sampled negative."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from befa.errors import DataError
from befa.problem import Batch, Problem


def batches(problem: Problem, batch_size: int, *, rng: Generator) -> Iterator[Batch]:
    """One epoch: every training pair once, in random order, `batch_size` at a time; the last batch may be shorter.

    Each pair has one negative, uniform over the items of the training interactions that are not among the user's.
    Items of the validation and test parts are not excluded: a model must not know them (so does the reference code).
    Tensors lie on the problem's device; `rng` draws on its own. Raises DataError naming a user who has all items.
    """
    if len(problem.users_E) == 0:
        return
    order_E = torch.randperm(len(problem.users_E), generator=rng, device=rng.device)
    users_E, positives_E = problem.users_E.to(rng.device)[order_E], problem.items_E.to(rng.device)[order_E]
    negatives_E = _negatives(users_E, positives_E, problem.n_items, rng)
    device = problem.users_E.device
    parts = (x.to(device).split(batch_size) for x in (users_E, positives_E, negatives_E))
    for number, (users_B, positives_B, negatives_B) in enumerate(zip(*parts, strict=True)):
        yield Batch(users_B, positives_B, negatives_B, starts_epoch=number == 0)


def _negatives(
    users_E: Int[Tensor, " E"], items_E: Int[Tensor, " E"], n_items: int, rng: Generator
) -> Int[Tensor, " E"]:
    """Rejection sampling of all at once: draw, look up, draw again where the user has the item."""
    catalogue = items_E.unique()
    known = (users_E * n_items + items_E).unique()
    full = torch.bincount(known // n_items) == len(catalogue)
    if full.any():
        raise DataError(
            f"user {full.nonzero()[0].item()} has all {len(catalogue)} items of the training interactions, "
            "so no negative can be drawn",
            mend="drop such users, or filter with a larger core",
        )
    negatives_E = torch.empty_like(items_E)
    open_ = torch.arange(len(items_E), device=items_E.device)
    while len(open_):
        drawn = catalogue[torch.randint(len(catalogue), open_.shape, generator=rng, device=rng.device)]
        negatives_E[open_] = drawn
        open_ = open_[_contains(known, users_E[open_] * n_items + drawn)]
    return negatives_E


def _contains(sorted_: Int[Tensor, " E"], keys: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    place = torch.searchsorted(sorted_, keys).clamp(max=len(sorted_) - 1)
    return sorted_[place] == keys
