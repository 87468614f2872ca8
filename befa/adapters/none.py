"""No adapter: the base recommender."""

from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.config import configuration


@configuration
class IdentityConfig:
    """Nothing to choose."""


class Identity(nn.Module):
    """Hands the content on as it is."""

    Config = IdentityConfig
    features: ClassVar[FeatureUse] = "given"

    def __init__(self, config: IdentityConfig, width: int, *, rng: Generator) -> None:
        super().__init__()

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """`x_nd` itself."""
        return x_nd
