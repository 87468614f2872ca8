"""Full ranking: all items by score, equal scores by id."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from befa.blocks import at_once
from befa.errors import TrainingError
from befa.metrics import CUTOFFS, Interactions
from befa.problem import ProtocolName

Scorer = Callable[[Tensor], Tensor]
"""From users [B] to their scores of all items [B, I], a tensor of the caller's own."""

SCORES_PER_CHUNK = 4_000_000
"""Scores held at a time (16 MB of float32, which a cache holds; see `at_once`): memory does not grow with the users."""

GROUP = 16
"""Items in a group, of which the largest score decides whether the others are looked at."""


def top_items(scores_BI: Float[Tensor, "B I"], k: int) -> Int[Tensor, "B K"]:
    """The `k` best items of each row, best first, equal scores in the order of item ids.

    torch.topk leaves the order of ties open, and with it the metrics; here they are the same on every device. With
    fewer than `k` items, all of them.
    """
    k = min(k, scores_BI.shape[1])
    values_BK, items_BK = _largest(scores_BI, min(k + 1, scores_BI.shape[1]))
    # A tie across the border: topk may have taken any of the equal items, so these rows are sorted whole.
    undecided_B = (values_BK[:, k - 1 : k] == values_BK[:, k:]).any(1)
    items_BK = items_BK[:, :k]
    if undecided_B.any():
        items_BK[undecided_B] = scores_BI[undecided_B].argsort(dim=1, descending=True, stable=True)[:, :k]
    items_BK = items_BK.sort(dim=1).values
    order_BK = scores_BI.gather(1, items_BK).argsort(dim=1, descending=True, stable=True)
    return items_BK.gather(1, order_BK)


def _largest(scores_BI: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest scores of each row, descending, and their items: torch.topk, quicker where items are many.

    Items are taken in groups of 16. A score among a row's `k` largest is at most its group's maximum, so its group is
    among the `k` with the largest maxima: only those groups are looked into, and the up to 15 items left over.

    Groups lie across memory, which makes the maxima quick: of G groups, group g has the items g, G + g, 2 G + g, ...,
    and all maxima are the elementwise maximum of 16 runs of G neighbouring scores.
    """
    n_items = scores_BI.shape[1]
    n_groups = n_items // GROUP
    if n_groups < 2 * k:
        return scores_BI.topk(k, dim=1)
    grouped = n_groups * GROUP
    maxima_BG = scores_BI[:, :grouped].unflatten(1, (GROUP, n_groups)).amax(1)
    groups_BK = maxima_BG.topk(k, dim=1, sorted=False).indices
    runs_R = torch.arange(0, grouped, n_groups, device=scores_BI.device)
    rest_R = torch.arange(grouped, n_items, device=scores_BI.device)
    candidates_BC = torch.cat([(groups_BK[:, :, None] + runs_R).flatten(1), rest_R.expand(len(scores_BI), -1)], dim=1)
    values_BK, places_BK = scores_BI.gather(1, candidates_BC).topk(k, dim=1)
    return values_BK, candidates_BC.gather(1, places_BK)


def scorer(model: nn.Module) -> Scorer:
    """The scores of a Recommender or a ScoringRecommender (problem.py), for its parameters as they are now."""
    if hasattr(model, "scores"):
        return model.scores
    return products(*model.user_item_vectors())


def products(user_vectors: Float[Tensor, "U k"], item_vectors: Float[Tensor, "I k"]) -> Scorer:
    """Scores that are dot products."""
    n_items = len(item_vectors)
    # Each row of scores begins at a multiple of 64 bytes: without, the product takes twice as long for 14,079 items.
    padded = F.pad(item_vectors, (0, 0, 0, -n_items % 16))
    return lambda users_B: (user_vectors[users_B.to(user_vectors.device)] @ padded.T)[:, :n_items]


def rank(
    score: Scorer,
    n_items: int,
    users_B: Int[np.ndarray, " B"],
    masked: Sequence[Interactions],
    k: int = max(CUTOFFS),
    device: torch.device | str = "cpu",
) -> Int[np.ndarray, "B K"]:
    """The top `k` of all items for `users_B`, without the items that `masked` gives them; chunked over users.

    `device`: where scores are made, which decides how many users are taken at once. A place that no candidate is left
    for, or one of score -inf, holds -1. Raises TrainingError where a best score is NaN or inf.
    """
    return np.concatenate([_ranked(score, part, masked, k) for part in chunks(users_B, n_items, device)])


def _ranked(score: Scorer, users_B: np.ndarray, masked: Sequence[Interactions], k: int) -> np.ndarray:
    best_BK, top_BK = best(score, users_B, masked, k)
    return torch.where(best_BK.isneginf(), -1, top_BK).cpu().numpy()


def best(
    score: Scorer, users_B: Int[np.ndarray, " B"], masked: Sequence[Interactions], k: int
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Scores and items of the top `k` of all items for `users_B`, -inf for what `masked` gives them; all at once.

    Raises TrainingError where a best score is NaN or inf.
    """
    scores_BI = score(torch.from_numpy(users_B))
    for interactions in masked:
        rows, items = interactions.rows(users_B)
        scores_BI[torch.from_numpy(rows), torch.from_numpy(items)] = -torch.inf
    top_BK = top_items(scores_BI, k)
    best_BK = scores_BI.gather(1, top_BK)
    # What is no number stands before all others, so it is looked for among the best alone.
    if (best_BK.isnan() | best_BK.isposinf()).any():
        raise TrainingError("scores are not finite", mend="training has diverged: lower the learning rate")
    return best_BK, top_BK


def masks(protocol: ProtocolName, train: Interactions, valid: Interactions) -> list[Interactions]:
    """What is no candidate where a trained model is tested or used (docs/protocols.md)."""
    return [train] if protocol == "mmrec" else [train, valid]


def chunks(
    users_B: Int[np.ndarray, " B"], n_items: int, device: torch.device | str = "cpu"
) -> Iterator[Int[np.ndarray, " b"]]:
    """As many users at a time as SCORES_PER_CHUNK allows; one empty chunk for no users: results then have a shape."""
    size = max(1, at_once(SCORES_PER_CHUNK, device) // n_items)
    for start in range(0, max(1, len(users_B)), size):
        yield users_B[start : start + size]
