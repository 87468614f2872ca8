"""The field's metrics of a ranking, vectorised, in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Float, Int

from befa.errors import DataError

CUTOFFS = (5, 10, 20, 50)
METRICS = ("recall", "ndcg", "precision", "map")

TEST = "test_sha256"
"""Entry of per_user.parquet's metadata: which items each user's test has."""


@dataclass(frozen=True)
class Interactions:
    """Pairs in rows by user (CSR): the items of user u are `items_E[offsets[u]:offsets[u + 1]]`, ascending."""

    offsets: Int[np.ndarray, " users_and_one"]
    items_E: Int[np.ndarray, " E"]

    @classmethod
    def of(cls, users_E: Int[np.ndarray, " E"], items_E: Int[np.ndarray, " E"], n_users: int) -> "Interactions":
        """From parallel arrays of dense ids, in any order."""
        order = np.lexsort((items_E, users_E))
        counts = np.bincount(users_E, minlength=n_users)
        return cls(np.concatenate([[0], np.cumsum(counts)]), items_E[order])

    @property
    def counts(self) -> Int[np.ndarray, " U"]:
        """Number of items of each user."""
        return np.diff(self.offsets)

    @property
    def sha256(self) -> str:
        """Of the pairs."""
        return sha256(self.offsets.tobytes() + self.items_E.tobytes()).hexdigest()

    def rows(self, users_B: Int[np.ndarray, " B"]) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """The pairs of some users, as (position in `users_B`, item)."""
        counts_B = self.counts[users_B]
        row = np.repeat(np.arange(len(users_B)), counts_B)
        within = np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        return row, self.items_E[np.repeat(self.offsets[users_B], counts_B) + within]


def metrics_per_user(
    top_BK: Int[np.ndarray, "B K"],
    users_B: Int[np.ndarray, " B"],
    positives: Interactions,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Recall, NDCG, Precision and MAP in [0, 1] per user and cutoff ("recall@20"), in float64.

    With hit_k = 1 when the item at rank k is a positive, and n positives of the user:
    - recall@K = sum_{k<=K} hit_k / n, not capped at K;
    - precision@K = sum_{k<=K} hit_k / K;
    - ndcg@K = sum_{k<=K} hit_k / log2(k+1) over the same sum of min(n, K) hits in a row;
    - map@K = sum_{k<=K} (hits up to k / k) hit_k / min(K, n).
    These are MMRec's definitions; LATTICE's own NDCG is another. Every user has a positive.
    """
    n_B = positives.counts[users_B].astype(np.float64)
    hits_BK = _hits(top_BK, users_B, positives)
    rank_K = np.arange(1, hits_BK.shape[1] + 1)
    discount_K = 1 / np.log2(rank_K + 1)
    cumulative_BK = hits_BK.cumsum(1)
    precision_sum_BK = (cumulative_BK / rank_K * hits_BK).cumsum(1)
    gain_BK = (hits_BK * discount_K).cumsum(1)
    result = {}
    for cutoff in cutoffs:
        last = min(cutoff, len(rank_K)) - 1
        ideal_K = np.cumsum(1 / np.log2(np.arange(2, cutoff + 2)))
        ideal_B = ideal_K[np.minimum(n_B, cutoff).astype(np.int64) - 1]
        result[f"recall@{cutoff}"] = cumulative_BK[:, last] / n_B
        result[f"ndcg@{cutoff}"] = gain_BK[:, last] / ideal_B
        result[f"precision@{cutoff}"] = cumulative_BK[:, last] / cutoff
        result[f"map@{cutoff}"] = precision_sum_BK[:, last] / np.minimum(n_B, cutoff)
    return result


def means(per_user: Mapping[str, Float[np.ndarray, " B"]]) -> dict[str, float]:
    """Means over users, as Python floats. Raises DataError where there is none."""
    if not all(map(len, per_user.values())):
        raise DataError("no user is evaluated", mend="give one both training interactions and some to be found")
    return {name: float(values.mean()) for name, values in per_user.items()}


def _hits(top_BK: np.ndarray, users_B: np.ndarray, positives: Interactions) -> Float[np.ndarray, "B K"]:
    """1.0 where the item at a rank is one of the user's positives."""
    row, items = positives.rows(users_B)
    width = 1 + max(items.max(initial=0), top_BK.max(initial=0))
    known = row * width + items  # ascending, as rows and the items within them are
    asked = np.arange(len(users_B))[:, None] * width + top_BK
    place = np.minimum(np.searchsorted(known, asked), max(0, len(known) - 1))
    return ((known[place] == asked) & (top_BK >= 0)).astype(np.float64)
