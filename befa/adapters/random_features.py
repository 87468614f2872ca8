"""Control: BeFA on features drawn at random."""

from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.adapters.befa import BeFA, BeFAConfig


class RandomFeatures(nn.Module):
    """BeFA on features without meaning: its gain over `ConstantGate` is what telling items apart is worth.

    befa.controls draws the features; with the host's `trainable_features` they are trained like any others. Item
    graphs are made of them too, so in LATTICE (both), FREEDOM and MGCN more than BeFA's content is lost; in BM3 and
    VBPR nothing else.
    """

    Config = BeFAConfig
    features: ClassVar[FeatureUse] = "random"

    def __init__(self, config: BeFAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.befa = BeFA(config, width, rng=rng)

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """As BeFA."""
        return self.befa(x_nd, id_nd, rng=rng)
