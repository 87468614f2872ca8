"""LoRA: a low-rank map (arXiv 2106.09685), the paper's first baseline."""

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.config import configuration


@configuration
class LoRAConfig:
    """Defaults: the size of BeFA's Table 4 (+4,096 parameters at d = 64 with two modalities)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """r, the width of the bottleneck."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the map, in units of r; equal to r it is none."""


class LoRA(nn.Module):
    """Adds a low-rank map of the content: y = x + (alpha / r) x A^T B^T, [n, d] -> [n, d], eq. 3 of arXiv 2106.09685.

    A [r, d] starts at random, B [d, r] at zero: training begins at the base recommender, and A has no gradient before
    the first step.

    Departs from the paper, which adds B A x to a frozen W x: BeFA's Table 4 counts a map behind the host's projection,
    so here W is that projection, which is trained too, and the low rank restrains nothing. The paper leaves the spread
    of A's normal start open; 1 / sqrt(d) keeps the scale of x.
    """

    Config = LoRAConfig
    features: ClassVar[FeatureUse] = "given"

    def __init__(self, config: LoRAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.down_rd = nn.Parameter(torch.randn(config.rank, width, generator=rng) / math.sqrt(width))
        self.up_dr = nn.Parameter(torch.zeros(width, config.rank))

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """`x_nd` and its low-rank map; the ids are not used."""
        return x_nd + self.scale * (x_nd @ self.down_rd.T @ self.up_dr.T)
