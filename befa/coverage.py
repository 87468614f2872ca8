"""What a feature store holds: how many items have a vector and why others have none, and how the vectors lie."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float, Int
from scipy.stats import skew

from befa import tables
from befa.feature_store import metadata_of
from befa.rng import numpy_stream

NEIGHBOURS = 10
QUERIES = 5_000
"""Items whose neighbours are looked for; of larger catalogues a fixed sample."""
BLOCK = 128


def report(path: Path) -> dict[str, Any]:
    """Counts by status and reason, duplicates, and the geometry of the present vectors of the store at `path`.

    - `mean_cosine`: over all pairs of items; 0 is isotropic, 1 a single direction (anisotropy).
    - `hubness`: skewness of how often an item is among the 10 nearest of others (Radovanovic et al., JMLR 2010); near 0
      without hubs. `largest_hub` and `never_a_neighbour` are shares: of the items that have it as neighbour, and of
      items that nobody has.

    The last three, over at most 5,000 items' neighbours, are null where fewer than 12 items are present.
    """
    table = tables.read_table(path)
    status, digests = table["status"], table["source_sha256"].filter(pc.equal(table["status"], "ok"))
    counts = {name: status.to_pylist().count(name) for name in ("ok", "missing", "corrupt")}
    reasons = Counter(reason for reason in table["reason"].to_pylist() if reason is not None)
    result: dict[str, Any] = {"items": len(table), **counts}
    if "truncated" in table.column_names:
        result["truncated"] = int(pc.sum(table["truncated"]).as_py() or 0)
    result["duplicates"] = len(digests) - len(pc.unique(digests))
    result["reasons"] = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    present = table["vector"].combine_chunks().drop_null()
    width = int(metadata_of(table)["dimension"])
    return result | geometry(present.flatten().to_numpy(zero_copy_only=False).reshape(-1, width))


def geometry(x_Id: Float[np.ndarray, "I d"]) -> dict[str, float | None]:
    """`mean_cosine`, `hubness`, `largest_hub` and `never_a_neighbour` of vectors; see `report`. Rounded to 6 digits."""
    unit_Id = x_Id.astype(np.float64)
    unit_Id /= np.linalg.norm(unit_Id, axis=1, keepdims=True)
    n = len(unit_Id)
    if n < NEIGHBOURS + 2:
        return dict.fromkeys(("mean_cosine", "hubness", "largest_hub", "never_a_neighbour"))
    # The squared length of the sum is the sum of all cosines, own ones (n of 1) included.
    mean = ((unit_Id.sum(0) ** 2).sum() - n) / (n * (n - 1))
    queries = np.sort(numpy_stream(1, "coverage").permutation(n)[:QUERIES])
    times_I = np.bincount(_neighbours(unit_Id, queries).ravel(), minlength=n)
    hubness = skew(times_I) if np.ptp(times_I) else 0.0
    values = (mean, hubness, times_I.max() / len(queries), (times_I == 0).mean())
    names = ("mean_cosine", "hubness", "largest_hub", "never_a_neighbour")
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}


def overlap(first: Path, second: Path) -> dict[str, float | int | None]:
    """How far two stores agree on who is near whom: the mean share of common items among the 10 nearest.

    Over the items present in both (at most 5,000 items' neighbours); 1 is the same neighbours, about 10 / items chance.
    """
    stores = []
    for path in (first, second):
        table = tables.read_table(path, ["item", "vector"])
        table = table.filter(table["vector"].is_valid())
        values = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        stores.append(dict(zip(table["item"].to_pylist(), values, strict=True)))
    common = sorted(set(stores[0]) & set(stores[1]))
    if len(common) < NEIGHBOURS + 2:
        return {"items": len(common), "neighbour_overlap": None}
    queries = np.sort(numpy_stream(1, "coverage").permutation(len(common))[:QUERIES])
    near = []
    for store in stores:
        unit_Id = np.stack([store[item] for item in common]).astype(np.float64)
        near.append(_neighbours(unit_Id / np.linalg.norm(unit_Id, axis=1, keepdims=True), queries))
    shares = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*(n.tolist() for n in near), strict=True)]
    return {"items": len(common), "neighbour_overlap": round(float(np.mean(shares)), 6)}


def _neighbours(unit_Id: Float[np.ndarray, "I d"], queries_Q: Int[np.ndarray, " Q"]) -> Int[np.ndarray, "Q k"]:
    """The 10 nearest others of every query, in blocks: memory does not grow with items times items."""
    found = []
    for start in range(0, len(queries_Q), BLOCK):
        rows_B = queries_Q[start : start + BLOCK]
        # Rounded, so that sums in another order do not change who is near.
        cosine_BI = np.round(unit_Id[rows_B] @ unit_Id.T, 9)
        cosine_BI[np.arange(len(rows_B)), rows_B] = -np.inf
        best_BK = np.argpartition(-cosine_BI, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        found.append(best_BK)
    return np.concatenate(found)
