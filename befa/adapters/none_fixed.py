"""Control: no adapter, and feature tables that training does not change."""

from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.adapters.none import IdentityConfig


class NoneFixed(nn.Module):
    """The base recommender on fixed feature tables, whatever the model's `trainable_features` says.

    What the base with trained tables has over it is what the field's habit of training them is worth.
    """

    Config = IdentityConfig
    features: ClassVar[FeatureUse] = "fixed"

    def __init__(self, config: IdentityConfig, width: int, *, rng: Generator) -> None:
        super().__init__()

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """`x_nd` itself."""
        return x_nd
