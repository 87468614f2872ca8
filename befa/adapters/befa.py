"""BeFA: behaviour-driven feature adaptation (arXiv 2406.00323)."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.config import configuration
from befa.layers import linear, relu_dropout


@configuration
class BeFAConfig:
    """Defaults: the published network at the size of the paper's Table 4 (+197,760 parameters)."""

    variant: Literal["released", "paper"] = "released"
    """The network of the authors' published code, or that of the paper's equations."""
    width: Annotated[float, Field(gt=0, le=1024)] = 4.0
    """Lambda: width of the decoupling space relative to the host's (Figure 10: about 4 is best)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of a zero after each hidden layer."""


class BeFA(nn.Module):
    """Decouples content, filters it by behaviour, recombines it: [n, d] -> [n, d], section 4 of arXiv 2406.00323.

    With x the host's projected content, e the item's id row (not detached), d1 = max(1, round(lambda d)),
    (.) the elementwise product and drop the dropout:

    `released`, as the published code computes it; the one id product is the last:
        h1 = tanh(drop(relu(W1 x + b1))),  h2 = drop(relu(W2 h1 + b2)),  y = e (.) sigmoid(W3 h2 + b3)

    `paper`, equations 8-10, both id products:
        (8)  a = drop(relu(W1 x + b1))
        (9)  f = e' (.) tanh(W2 a + b2)
        (10) y = e (.) sigmoid(W3 drop(relu(f)) + b3)

    Readings of what the paper leaves open: x is already projected to d (this fits the parameter counts of Table 4);
    "ReLU and Dropout between each transformation layer" stand after (8) and between (9) and (10), none after the
    last; and since e has d entries and (9) needs d1, e' = V e with a learned V [d1, d] without bias, or e' = e where
    d1 = d. All layers start as torch's linear layers do.
    """

    Config = BeFAConfig
    features: ClassVar[FeatureUse] = "given"

    def __init__(self, config: BeFAConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.config = config
        inner = max(1, round(config.width * width))
        self.decouple = linear(width, inner, rng=rng)
        self.filter = linear(inner, inner, rng=rng)
        self.recombine = linear(inner, width, rng=rng)
        learned_id = config.variant == "paper" and inner != width
        self.id_to_inner = linear(width, inner, rng=rng, bias=False) if learned_id else nn.Identity()

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """Content adapted to the behaviour in `id_nd`; dropout, in training only, draws from `rng`.

        Raises ValueError where both are not of one shape, which would be multiplied all the same.
        """
        if x_nd.shape != id_nd.shape:
            raise ValueError(f"content of shape {tuple(x_nd.shape)} and ids of {tuple(id_nd.shape)}")
        dropping = {"p": self.config.dropout, "rng": rng, "training": self.training}
        decoupled = relu_dropout(self.decouple(x_nd), **dropping)
        if self.config.variant == "released":
            kept = relu_dropout(self.filter(torch.tanh(decoupled)), **dropping)
        else:
            kept = relu_dropout(self.id_to_inner(id_nd) * torch.tanh(self.filter(decoupled)), **dropping)
        return id_nd * torch.sigmoid(self.recombine(kept))
