"""Who is nearest to whom by cosine, exactly: for the item graphs and the reports; befa/search.py shares its ordering.

Candidates are proposed in float32 (by faiss on the CPU, if it is installed; else by torch), their cosines taken again
in float64 and rounded to steps of 2^-24, the finest that float32 holds below 1; of equal ones the lower row is nearer.
Answers thus do not depend on the device, the block size or who proposes, but for a cosine that the rounding of float64
(2^-53) puts on the other side of half a step. Where float32 cannot tell that no other row
belongs among the k (many equal vectors, a shop's placeholder picture, say), the query meets every row in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from befa.blocks import at_once

STEPS = 2**24
"""Cosines are multiples of 1 / STEPS."""

SPARE = 16
"""Candidates beyond k that are asked for, so that float32 noise at the k-th place is seen to be harmless."""

SMALL = 2000
"""Rows up to which comparing all with all in float64 is quicker than proposing candidates first."""

BLOCK = 2**22
"""Similarities held at once (32 MB in float64; see `at_once`): bounded, whatever the number of rows."""

COLUMNS = 4096
"""Rows that are held in float64 at once to be compared with others."""

GATHERED = 2**19
"""Numbers of candidates that are held in float64 at once (4 MB, which a core's cache holds; see `at_once`)."""

TINY = torch.finfo(torch.float64).tiny


def nearest(
    values_Nc: Float[Tensor, "N c"], k: int, *, queries_Q: Int64[Tensor, " Q"] | None = None, block: int | None = None
) -> Int64[Tensor, "Q k"]:
    """The `k` rows nearest to each of the rows `queries_Q` (to every row if None), nearest first.

    A row is among its own: where `k` equal ones stand before it, it takes the last one's place. `k` is capped at N. A
    row of norm 0 has cosine 0 with all. Beyond a float32 copy of the rows, memory does not grow with N but for the
    answer: no more than `block` similarities (None: `at_once` of BLOCK), or one row of them, are held at once.
    """
    values_Nc = values_Nc.detach()
    block = at_once(BLOCK, values_Nc.device) if block is None else block
    n, k = len(values_Nc), min(k, len(values_Nc))
    queries_Q = torch.arange(n, device=values_Nc.device) if queries_Q is None else queries_Q
    if n <= max(SMALL, k + SPARE):
        return _with_own(_among_all(values_Nc, queries_Q, k, block), queries_Q)
    norms_N, unit_Nc = _directions(values_Nc)
    rough_Qp, rows_Qp = _proposed(unit_Nc, queries_Q, k + SPARE, block)
    cosines_Qk, rows_Qk = ranked(_cosines(values_Nc, norms_N, queries_Q, rows_Qp), rows_Qp, k)
    unsure = (~certain(rough_Qp, cosines_Qk, values_Nc.shape[1])).nonzero().squeeze(1)
    if len(unsure):
        rows_Qk[unsure] = _among_all(values_Nc, queries_Q[unsure], k, block)
    return _with_own(rows_Qk, queries_Q)


def nearest_others(
    values_Nc: Float[Tensor, "N c"], k: int, *, queries_Q: Int64[Tensor, " Q"] | None = None
) -> Int64[Tensor, "Q k"]:
    """As `nearest`, without the row itself; `k` is capped at N - 1."""
    queries_Q = torch.arange(len(values_Nc), device=values_Nc.device) if queries_Q is None else queries_Q
    rows_Qk = nearest(values_Nc, k + 1, queries_Q=queries_Q)
    own_Qk = rows_Qk == queries_Q[:, None]
    return rows_Qk[~own_Qk].view(len(rows_Qk), max(rows_Qk.shape[1] - 1, 0))


def shared(one_QK: Int64[Tensor, "Q K"], other_QK: Int64[Tensor, "Q K"]) -> float:
    """Which share of their neighbours queries have in both, in any order: 1 where all are the same."""
    return float((one_QK[:, :, None] == other_QK[:, None, :]).any(2).double().mean())


def ranked(
    cosines_Qp: Float[Tensor, "Q p"], rows_Qp: Int64[Tensor, "Q p"], k: int
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """The best `k` of the candidates, or as many as there are: cosines in steps, falling, then rows, rising."""
    rows_Qp, by_row_Qp = rows_Qp.sort(dim=1)
    steps_Qp = (cosines_Qp.gather(1, by_row_Qp) * STEPS).round_()
    best_Qk = steps_Qp.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return (steps_Qp.gather(1, best_Qk) / STEPS).clamp_(-1, 1), rows_Qp.gather(1, best_Qk)


def certain(rough_Qp: Float[Tensor, "Q p"], cosines_Qk: Float[Tensor, "Q k"], width: int) -> Bool[Tensor, " Q"]:
    """Whether no row beyond the candidates can be among the best k: `rough_Qp` are the candidates' float32 cosines.

    A sum of `width` products in float32 (not TF32) and the half of a step are what it can be wrong by.
    """
    return rough_Qp.amin(1) < cosines_Qk[:, -1] - (width + 4) / STEPS


@contextmanager
def threads(faiss: ModuleType, count: int) -> Iterator[None]:
    """faiss on so many cores; it takes all of them otherwise."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _with_own(rows_Qk: Int64[Tensor, "Q k"], queries_Q: Int64[Tensor, " Q"]) -> Int64[Tensor, "Q k"]:
    """Each query among its own, in the last place where more than k equal rows hid it."""
    hidden_Q1 = (rows_Qk != queries_Q[:, None]).all(1, keepdim=True)
    rows_Qk[:, -1:] = torch.where(hidden_Q1, queries_Q[:, None], rows_Qk[:, -1:])
    return rows_Qk


def _directions(values_Nc: Float[Tensor, "N c"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N c"]]:
    """Lengths in float64, and rows of length 1 in float32; float64 rows exist for a block at a time."""
    norms_N = values_Nc.new_empty(len(values_Nc), dtype=torch.float64)
    unit_Nc = torch.empty_like(values_Nc, dtype=torch.float32)
    for start in range(0, len(values_Nc), COLUMNS):
        part, exact_nc = slice(start, start + COLUMNS), values_Nc[start : start + COLUMNS].double()
        norms_N[part] = exact_nc.norm(dim=1)
        unit_Nc[part] = exact_nc / norms_N[part, None].clamp(min=TINY)
    return norms_N, unit_Nc


def _proposed(
    unit_Nc: Float[Tensor, "N c"], queries_Q: Int64[Tensor, " Q"], candidates: int, block: int
) -> tuple[Float[Tensor, "Q p"], Int64[Tensor, "Q p"]]:
    """Float32 cosines and rows of the nearest, in any order."""
    faiss = _faiss() if unit_Nc.device.type == "cpu" else None
    size = COLUMNS if faiss is not None else max(1, block // len(unit_Nc))
    # Allocated first: small results kept between large passing blocks would scatter the memory.
    rough_Qp = unit_Nc.new_empty(len(queries_Q), candidates)
    rows_Qp = torch.empty_like(rough_Qp, dtype=torch.int64)
    for start in range(0, len(queries_Q), size):
        part = slice(start, start + size)
        unit_qc = unit_Nc[queries_Q[part]]
        if faiss is not None:
            rough_Qp[part], rows_Qp[part] = _by_faiss(faiss, unit_qc, unit_Nc, candidates)
        else:
            rough_Qp[part], rows_Qp[part] = (unit_qc @ unit_Nc.T).topk(candidates, sorted=False)
    return rough_Qp, rows_Qp


def _by_faiss(
    faiss: ModuleType, unit_qc: Float[Tensor, "q c"], unit_Nc: Float[Tensor, "N c"], candidates: int
) -> tuple[Float[Tensor, "q p"], Int64[Tensor, "q p"]]:
    with threads(faiss, torch.get_num_threads()):
        found = faiss.knn(unit_qc.numpy(), unit_Nc.numpy(), candidates, metric=faiss.METRIC_INNER_PRODUCT)
    rough_qp, rows_qp = map(torch.from_numpy, found)
    # Where values are not finite faiss finds too few, and says -1: such a query is never certain.
    return rough_qp.masked_fill_(rows_qp < 0, torch.inf), rows_qp.clamp_(min=0)


def _cosines(
    values_Nc: Float[Tensor, "N c"],
    norms_N: Float[Tensor, " N"],
    queries_Q: Int64[Tensor, " Q"],
    rows_Qp: Int64[Tensor, "Q p"],
) -> Float[Tensor, "Q p"]:
    """In float64, each pair by itself, so that on a CPU its sum has the same order in every block."""
    dots_Qp = torch.empty_like(rows_Qp, dtype=torch.float64)  # first, as in _proposed
    size = max(1, at_once(GATHERED, values_Nc.device) // max(1, rows_Qp.shape[1] * values_Nc.shape[1]))
    for start in range(0, len(rows_Qp), size):
        part = slice(start, start + size)
        products_qpc = F.embedding(rows_Qp[part], values_Nc).double()
        torch.sum(products_qpc.mul_(values_Nc[queries_Q[part]].double()[:, None]), 2, out=dots_Qp[part])
    return dots_Qp / (norms_N[queries_Q, None] * norms_N[rows_Qp]).clamp_(min=TINY)


def _among_all(
    values_Nc: Float[Tensor, "N c"], queries_Q: Int64[Tensor, " Q"], k: int, block: int
) -> Int64[Tensor, "Q k"]:
    """`nearest` by all cosines in float64, a block of queries against a block of rows at a time."""
    n, nearest_Qk = len(values_Nc), queries_Q.new_empty(len(queries_Q), k)
    size = max(1, block // max(1, min(n, COLUMNS)))
    for rows_q, answer_qk in zip(queries_Q.split(size), nearest_Qk.split(size), strict=True):
        scaled_qc = STEPS * _unit(values_Nc[rows_q])
        best_qk, nearest_qk = scaled_qc.new_zeros(len(rows_q), 0), rows_q.new_zeros(len(rows_q), 0)
        for start in range(0, n, COLUMNS):
            lower_first_n = torch.arange(n - 1 - start, max(-1, n - 1 - start - COLUMNS), -1, device=rows_q.device)
            steps_qn = (scaled_qc @ _unit(values_Nc[start : start + COLUMNS]).T).round_()
            # Integers below 2^53 in float64: the cosine in steps first, then the row.
            found = steps_qn.mul_(n).add_(lower_first_n).topk(min(k, len(lower_first_n)))
            best_qk, kept = torch.cat([best_qk, found.values], 1).topk(min(k, start + len(lower_first_n)))
            nearest_qk = torch.cat([nearest_qk, start + found.indices], 1).gather(1, kept)
        answer_qk.copy_(nearest_qk)
    return nearest_Qk


def _unit(values_nc: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    return F.normalize(values_nc.double(), eps=TINY)


def _faiss() -> ModuleType | None:
    try:
        import faiss  # here: it is an extra, and takes a while to load
    except ImportError:
        return None
    return faiss
