"""Control: BeFA without content."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.adapters.befa import BeFA, BeFAConfig


class ConstantGate(nn.Module):
    """BeFA on ones in place of content: what its gain is, less this one's, is what content adds to the gate.

    Everything else is BeFA's: the product with the id, which hands the host's content losses to the id table; the
    number of parameters and their start; the noise of dropout. A lone vector c in y = e (.) sigmoid(c) would be the
    simpler control, but it changes size and noise as well, so a difference would not tell which of them made it.
    Without dropout the `released` variant is that gate, c being what the network makes of ones; the `paper` variant's
    gate still knows the ids, by equation 9.

    The projection and the feature table of the host get no gradient through it. The frozen item graphs of LATTICE,
    FREEDOM, MGCN and LATTICE (released), which are made of the features themselves, keep their content; the learned
    graph of LATTICE, which is made of what the adapter gives, becomes one of gated ids.
    """

    Config = BeFAConfig
    features: ClassVar[FeatureUse] = "unused"

    def __init__(self, config: BeFAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.befa = BeFA(config, width, rng=rng)

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """The gated ids; of `x_nd` only the shape is used."""
        return self.befa(torch.ones_like(x_nd), id_nd, rng=rng)
