"""SoftPrompt: one learned vector (after arXiv 2104.08691), the paper's second baseline."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.config import configuration


@configuration
class SoftPromptConfig:
    """Nothing to choose."""


class SoftPrompt(nn.Module):
    """Adds one learned vector to every item's content: y = x + p, [n, d] -> [n, d].

    A prompt is a vector put before a transformer's input. BeFA's paper does not say what it is where there is no
    transformer; its Table 4 counts one d-vector a modality (+128 at d = 64 with two), and this is what fits.

    The reading is degenerate: x = F W + b has a bias already, p is a second one with the same gradient, and under Adam
    the two together are b at twice its learning rate. It adds no function that the base recommender lacks. In FREEDOM,
    whose content loss is of differences u . (h_i - h_j), p and b cancel: that cell is its base.

    p starts at zero, so that training begins at the base recommender, as LoRA's does. Nothing needs a random start:
    there is one vector, so no symmetry to break, and its gradient vanishes at zero no more than elsewhere.
    """

    Config = SoftPromptConfig
    features: ClassVar[FeatureUse] = "given"

    def __init__(self, config: SoftPromptConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.prompt_d = nn.Parameter(torch.zeros(width))

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """`x_nd` and the prompt; the ids are not used."""
        return x_nd + self.prompt_d
