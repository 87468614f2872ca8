"""The loss terms of the recommenders: scalars in natural units, to be minimised."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


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
    return sum(torch.linalg.norm(x) for x in tables) / len(tables[-1])


def cosine_distance(
    a_Bd: Float[Tensor, "B d"], b_Bd: Float[Tensor, "B d"], present_B: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, ""]:
    """1 - mean cos(a, b), in [0, 2] (BM3, arXiv 2207.05969). `present_B`: see `masked_mean`."""
    return masked_mean(1 - F.cosine_similarity(a_Bd, b_Bd), present_B)


def info_nce(a_Bd: Float[Tensor, "B d"], b_Bd: Float[Tensor, "B d"], *, temperature: float) -> Float[Tensor, ""]:
    """In-batch contrast, in nats: the mean of -log(e^(cos_ii / t) / sum_j e^(cos_ij / t)) (MGCN, arXiv 2308.03588).

    `temperature` t > 0, no unit. Rows that stand in the batch twice count as each other's negatives, as in the
    reference code. Departs from it: log-sum-exp for exp-then-log, which overflows float32 for t < 0.011.
    """
    scaled_similarity_BB = (F.normalize(a_Bd) / temperature) @ F.normalize(b_Bd).T
    return F.cross_entropy(scaled_similarity_BB, torch.arange(len(a_Bd), device=a_Bd.device))


def masked_mean(values_B: Float[Tensor, " B"], present_B: Bool[Tensor, " B"] | None) -> Float[Tensor, ""]:
    """The mean over the rows that are present, 0 when none is; over all rows without a mask."""
    if present_B is None:
        return values_B.mean()
    return torch.where(present_B, values_B, 0).sum() / present_B.sum().clamp(min=1)
