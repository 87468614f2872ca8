"""Control: BeFA on the features of other items."""

from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.adapters.befa import BeFA, BeFAConfig


class ShuffledFeatures(nn.Module):
    """BeFA on real features at the wrong items: BeFA's gain over it is what the match of item and content is worth.

    As `RandomFeatures`, item graphs included; but the features keep their whole distribution, clusters and all, not
    only its mean and spread.
    """

    Config = BeFAConfig
    features: ClassVar[FeatureUse] = "shuffled"

    def __init__(self, config: BeFAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.befa = BeFA(config, width, rng=rng)

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """As BeFA."""
        return self.befa(x_nd, id_nd, rng=rng)
