"""Control: BeFA in front of feature tables that training does not change."""

from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.adapters.befa import BeFA, BeFAConfig


class BeFAFixed(nn.Module):
    """BeFA on fixed feature tables: its gain over `NoneFixed` owes nothing to fine-tuning the features themselves."""

    Config = BeFAConfig
    features: ClassVar[FeatureUse] = "fixed"

    def __init__(self, config: BeFAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.befa = BeFA(config, width, rng=rng)

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """As BeFA."""
        return self.befa(x_nd, id_nd, rng=rng)
