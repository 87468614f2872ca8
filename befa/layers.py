"""Layers whose randomness is an argument: torch's own draw from the global generator."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn


def linear(width_in: int, width_out: int, *, rng: Generator, bias: bool = True, xavier: bool = False) -> nn.Linear:
    """An `nn.Linear` initialised from `rng`.

    Default: torch's own initialisation, U(-1/sqrt(width_in), 1/sqrt(width_in)) for weight and bias.
    `xavier`: Xavier normal weight (Glorot & Bengio 2010), the bias as by default.
    """
    # Not nn.utils.skip_init: it goes by torch's meta device, whose machinery takes 1.5 s to load.
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(width_in, width_out, bias=bias)
    bound = 1 / math.sqrt(width_in)
    if xavier:
        nn.init.xavier_normal_(layer.weight, generator=rng)
    else:
        nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
    if bias:
        nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
    return layer


def table(rows: int, width: int, *, rng: Generator) -> nn.Parameter:
    """A trainable id table [rows, width], Xavier uniform."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width), generator=rng))


def dropout(x: Float[Tensor, "*shape"], p: float, *, rng: Generator, training: bool) -> Float[Tensor, "*shape"]:
    """Inverted dropout: zero with probability `p` in [0, 1), the rest divided by 1 - p; identity outside training."""
    if not training or p == 0.0:
        return x
    # rand and compare: half the time of bernoulli_ on a CPU.
    keep = torch.rand(x.shape, generator=rng, device=rng.device) >= p
    return x * keep.to(x.device, x.dtype).div_(1 - p)
