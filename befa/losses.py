"""The loss terms of the recommenders: scalars in natural units, to be minimised."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function

ROWS = 256
"""Of a batch's similarities that are held at once (2 MB with 2,048 rows)."""


def bpr(
    users_Bd: Float[Tensor, "B d"],
    positives_Bd: Float[Tensor, "B d"],
    negatives_Bd: Float[Tensor, "B d"],
    present_B: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Bayesian personalised ranking, in nats: the mean of -log sigmoid(u.i - u.j) (arXiv 1205.2618).

    Departs from the paper: mean for sum, no regulariser (a term of its own). `present_B`: see `masked_mean`.
    """
    margins_B = (users_Bd * (positives_Bd - negatives_Bd)).sum(1)
    return masked_mean(-F.logsigmoid(margins_B), present_B)


def squared_norms(
    users_Bd: Float[Tensor, "B d"], positives_Bd: Float[Tensor, "B d"], negatives_Bd: Float[Tensor, "B d"]
) -> Float[Tensor, ""]:
    """The L2 term of LATTICE and MGCN: (|u|^2 + |i|^2 + |j|^2) / (2B) over the batch's final vectors.

    Departs from the reference code: B is the number of rows, there the configured batch size, which weighs an
    epoch's short last batch less.
    """
    return sum(x_Bd.square().sum() for x_Bd in (users_Bd, positives_Bd, negatives_Bd)) / (2 * len(users_Bd))


def embedding_norms(*tables: Float[Tensor, "_ _"]) -> Float[Tensor, ""]:
    """The "EmbLoss" of RecBole, MMRec and BM3: the tables' Frobenius norms, un-squared, over the last one's rows.

    Neither paper defines it so: the scale depends on the number of rows. Kept, as the published weights assume it.
    """
    return sum(_Norm.apply(x) for x in tables) / len(tables[-1])


class _Norm(Function):
    """The Frobenius norm; its gradient x / |x| is 0 for a table of zeros, which torch's takes another pass for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.norm(x)
        ctx.save_for_backward(x, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, norm = ctx.saved_tensors
        return x * torch.where(norm > 0, grad / norm, 0)


def cosine_distance(
    a_Bd: Float[Tensor, "B d"], b_Bd: Float[Tensor, "B d"], present_B: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, ""]:
    """1 - mean cos(a, b), in [0, 2] (BM3, arXiv 2207.05969). `present_B`: see `masked_mean`."""
    return masked_mean(1 - F.cosine_similarity(a_Bd, b_Bd), present_B)


def info_nce(
    a_nd: Float[Tensor, "n d"],
    b_nd: Float[Tensor, "n d"],
    *,
    temperature: float,
    counts_n: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """In-batch contrast, in nats: the mean of -log(e^(cos_ii / t) / sum_j e^(cos_ij / t)) (MGCN, arXiv 2308.03588).

    `temperature` t > 0, no unit. Rows that stand in the batch twice count as each other's negatives, as in the
    reference code; `counts_n`: how often each row stands there, so that it needs to be given once. Departs from the
    reference code: log-sum-exp for exp-then-log, which overflows float32 for t < 0.011.
    """
    counts_n = a_nd.new_ones(len(a_nd)) if counts_n is None else counts_n.to(a_nd.dtype)
    return _InfoNCE.apply(F.normalize(a_nd) / temperature, F.normalize(b_nd), counts_n)


class _InfoNCE(Function):
    """sum_i w_i (log sum_j n_j e^(a_i . b_j) - a_i . b_i), w = n / sum n, with its gradients, a few rows at a time.

    Never all n x n similarities: forward and backward run through a block while a core's cache holds it.
    """

    @staticmethod
    def forward(ctx: Any, a_nd: Tensor, b_nd: Tensor, counts_n: Tensor) -> Tensor:
        weights_n = counts_n / counts_n.sum()
        counted_b_nd = counts_n[:, None] * b_nd
        loss = -(weights_n * (a_nd * b_nd).sum(1)).sum()
        grad_a_nd, grad_b_nd = torch.empty_like(a_nd), torch.zeros_like(b_nd)
        for start in range(0, len(a_nd), ROWS):
            part = slice(start, start + ROWS)
            a_rd, weights_r = a_nd[part], weights_n[part]
            share_rn = a_rd @ b_nd.T
            largest_r1 = share_rn.amax(1, keepdim=True)
            share_rn.sub_(largest_r1).exp_()
            total_r = share_rn @ counts_n
            loss += weights_r @ (total_r.log() + largest_r1[:, 0])
            # The shares' scale goes to the narrow side of each product, which saves a pass over the n wide one.
            scale_r1 = (weights_r / total_r)[:, None]
            torch.mm(share_rn, counted_b_nd, out=grad_a_nd[part]).mul_(scale_r1)
            grad_b_nd.addmm_(share_rn.T, scale_r1 * a_rd)
        grad_a_nd.addcmul_(weights_n[:, None], b_nd, value=-1)
        grad_b_nd.mul_(counts_n[:, None]).addcmul_(weights_n[:, None], a_nd, value=-1)
        ctx.save_for_backward(grad_a_nd, grad_b_nd)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_a_nd, grad_b_nd = ctx.saved_tensors
        return grad * grad_a_nd, grad * grad_b_nd, None


def masked_mean(values_B: Float[Tensor, " B"], present_B: Bool[Tensor, " B"] | None) -> Float[Tensor, ""]:
    """The mean over the rows that are present, 0 when none is; over all rows without a mask."""
    if present_B is None:
        return values_B.mean()
    return torch.where(present_B, values_B, 0).sum() / present_B.sum().clamp(min=1)
