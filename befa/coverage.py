"""What a feature store holds: how many items have a vector and why others have none, and how the vectors lie."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int64
from scipy.stats import skew
from torch import Tensor

from befa import tables
from befa.feature_store import vectors
from befa.neighbours import nearest_others, shared
from befa.rng import numpy_stream

NEIGHBOURS = 10
QUERIES = 20_000
"""Items whose neighbours are looked for; of larger catalogues a fixed sample."""


def report(path: Path) -> dict[str, Any]:
    """Counts by status and reason, duplicates, and the geometry of the present vectors of the store at `path`.

    - `mean_cosine`: over all pairs of items; 0 is isotropic, 1 a single direction (anisotropy).
    - `hubness`: skewness of how often an item is among the 10 nearest of others (Radovanovic et al., JMLR 2010); near 0
      without hubs. `largest_hub` and `never_a_neighbour` are shares: of the items that have it as neighbour, and of
      items that nobody has.

    All four are null where fewer than 12 items are present. Of more than 20,000, only as many, a fixed sample,
    are asked for their neighbours: hubness and `never_a_neighbour` then come out higher than with all of them, and
    are to be compared between stores of the same items alone.
    """
    table = tables.read_table(path)
    status, digests = table["status"], table["source_sha256"].filter(pc.equal(table["status"], "ok"))
    by_status = Counter(status.to_pylist())
    counts = {name: by_status[name] for name in ("ok", "missing", "corrupt")}
    reasons = Counter(reason for reason in table["reason"].to_pylist() if reason is not None)
    result: dict[str, Any] = {"items": len(table), **counts}
    if "truncated" in table.column_names:
        result["truncated"] = int(pc.sum(table["truncated"]).as_py() or 0)
    result["duplicates"] = len(digests) - len(pc.unique(digests))
    result["reasons"] = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    return result | geometry(vectors(table["vector"].filter(table["vector"].is_valid())))


def geometry(x_Id: Float[np.ndarray, "I d"]) -> dict[str, float | None]:
    """`mean_cosine`, `hubness`, `largest_hub` and `never_a_neighbour` of vectors; see `report`. Rounded to 6 digits."""
    names, n = ("mean_cosine", "hubness", "largest_hub", "never_a_neighbour"), len(x_Id)
    if n < NEIGHBOURS + 2:
        return dict.fromkeys(names)
    unit_Id = x_Id.astype(np.float64)
    unit_Id /= np.linalg.norm(unit_Id, axis=1, keepdims=True)
    # The squared length of the sum is the sum of all cosines, own ones (n of 1) included.
    mean = ((unit_Id.sum(0) ** 2).sum() - n) / (n * (n - 1))
    nearest_QK = _neighbours(x_Id).numpy()
    times_I = np.bincount(nearest_QK.ravel(), minlength=n)
    hubness = skew(times_I) if np.ptp(times_I) else 0.0
    values = (mean, hubness, times_I.max() / len(nearest_QK), (times_I == 0).mean())
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}


def overlap(first: Path, second: Path) -> dict[str, float | int | None]:
    """How far two stores agree on who is near whom: the mean share of common items among the 10 nearest.

    Over the items present in both (at most 20,000 items' neighbours); 1 is the same ones, about 10 / items chance.
    """
    stores = []
    for path in (first, second):
        table = tables.read_table(path, ["item", "vector"])
        table = table.filter(table["vector"].is_valid())
        stores.append((table["item"].to_pylist(), vectors(table["vector"])))
    common = sorted(set(stores[0][0]) & set(stores[1][0]))
    if len(common) < NEIGHBOURS + 2:
        return {"items": len(common), "neighbour_overlap": None}
    near = []
    for items, x_Id in stores:
        row = {item: number for number, item in enumerate(items)}
        near.append(_neighbours(x_Id[[row[item] for item in common]]))
    return {"items": len(common), "neighbour_overlap": round(shared(*near), 6)}


def _neighbours(x_Id: Float[np.ndarray, "I d"]) -> Int64[Tensor, "Q K"]:
    """The 10 nearest others of a fixed sample of at most 20,000 items, of all where there are no more."""
    queries_Q = np.sort(numpy_stream(1, "coverage").permutation(len(x_Id))[:QUERIES])
    values_Id = torch.from_numpy(np.require(x_Id, requirements="W"))  # torch takes no read-only array
    return nearest_others(values_Id, NEIGHBOURS, queries_Q=torch.from_numpy(queries_Q))
