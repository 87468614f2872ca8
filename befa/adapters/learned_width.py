"""BeFA that learns the width of its decoupling space in one training run: the paper's stated future work."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from befa.adapters.base import FeatureUse
from befa.config import configuration
from befa.layers import linear, relu_dropout


@configuration
class LearnedWidthConfig:
    """Defaults: the widest and the published width of the paper's Figure 10."""

    widest: Annotated[float, Field(gt=0, le=1024)] = 8.0
    """Lambda of all units: the size of the layers, and more than can be learned (0.7 `softness` if that is small)."""
    start: Annotated[float, Field(gt=0)] = 4.0
    """w / d at the start; at most `widest`, of which 99 % are taken then: beyond that theta would hardly move. Within a
    few `softness` of 0 or of `widest`, `learned_lambda` starts a little further from them."""
    softness: Annotated[float, Field(gt=0)] = 0.125
    """Part of lambda over which the gate falls from open to closed, as a scale of the sigmoid. Units within a few times
    as much from the place where it is half open are those that theta's gradient knows of."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of a zero after each hidden layer."""

    @model_validator(mode="after")
    def _starts_within(self) -> "LearnedWidthConfig":
        if self.start > self.widest:
            raise ValueError(f"start is {self.start}, more than widest, {self.widest}")
        return self


class LearnedWidth(nn.Module):
    """BeFA's published network whose hidden units are switched off from a learned place on: [n, d] -> [n, d].

    With the notation of `BeFA` (variant `released`), j = 0 .. d1 - 1 the hidden units, d1 = max(1, round(widest d)), s
    the `softness` times d and w a learned width in units, w = d1 sigmoid(theta):
        m_j = sigmoid((w - j - 1/2) / s)
        h1 = m (.) tanh(drop(relu(W1 x + b1))),  h2 = m (.) drop(relu(W2 h1 + b2)),  y = e (.) sigmoid(W3 h2 + b3)
    `learned_lambda` is sum_j m_j / d: the units in use over d. As the gate is soft it lies, for s well below d1,
    between s ln 2 / d, where w is 0, and d1 / d - s ln 2 / d, where w is d1: by default from 0.09 to 7.91. Dropout is
    not rescaled by m, so that a closed unit is as if it were not there.

    Nothing but the host's loss acts on theta: there is no price on width, so what is learned is what training finds
    useful, not what would suffice. It is a local search from `start`, at the host's learning rate: Adam moves theta by
    about that much a step, lambda by at most widest / 4 times as much, so that a short training stays near `start`.

    Own construction: the paper (section 5.5) names learning lambda as future work and gives no method.
    """

    Config = LearnedWidthConfig
    features: ClassVar[FeatureUse] = "given"

    def __init__(self, config: LearnedWidthConfig, width: int, *, rng: Generator) -> None:
        super().__init__()
        self.config, self.width = config, width
        inner = max(1, round(config.widest * width))
        self.decouple = linear(width, inner, rng=rng)
        self.filter = linear(inner, inner, rng=rng)
        self.recombine = linear(inner, width, rng=rng)
        self.theta = nn.Parameter(torch.logit(torch.tensor(min(config.start / config.widest, 0.99))))

    @property
    def open_j(self) -> Float[Tensor, " inner"]:
        """How far each hidden unit is open, in (0, 1)."""
        inner = self.filter.in_features
        places_j = torch.arange(inner, device=self.theta.device) + 0.5
        return torch.sigmoid((inner * torch.sigmoid(self.theta) - places_j) / (self.config.softness * self.width))

    @property
    def learned_lambda(self) -> float:
        """Width of the decoupling space over the host's, at most d1 / d."""
        return self.open_j.sum().item() / self.width

    def forward(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """Content adapted to the behaviour in `id_nd`; dropout, in training only, draws from `rng`."""
        dropping = {"p": self.config.dropout, "rng": rng, "training": self.training}
        open_j = self.open_j
        decoupled = open_j * torch.tanh(relu_dropout(self.decouple(x_nd), **dropping))
        kept = open_j * relu_dropout(self.filter(decoupled), **dropping)
        return id_nd * torch.sigmoid(self.recombine(kept))
