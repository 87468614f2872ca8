"""Layers whose randomness is an argument: torch's own draw from the global generator."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.autograd import Function


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
    """Inverted dropout: zero with probability `p` in [0, 1), the rest divided by 1 - p; identity outside training.

    16 random bits decide an entry, so `p` is met to 2^-17, and the division is by what is met. On a CPU this takes a
    third of the time of a uniform number for each entry.
    """
    threshold = _threshold(p)
    if not training or threshold == 0:
        return x
    return x * _scaled_mask(x, threshold, rng)


def relu_dropout(x: Float[Tensor, "*shape"], p: float, *, rng: Generator, training: bool) -> Float[Tensor, "*shape"]:
    """`dropout` of relu(x), in place of `x`, which is the output of a linear layer and of no further use.

    Only the result is kept for the backward pass: where it is positive the gradient passes, scaled as the value was.
    """
    threshold = _threshold(p)
    if not training or threshold == 0:
        return torch.relu(x)
    return _ReluDropout.apply(x.contiguous(), threshold, rng)


BITS = 16
BLOCK = 2**17
"""Entries that `relu_dropout` works on at once on a CPU (0.5 MB in float32), so that they stay in a core's cache."""


class _ReluDropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int, rng: Generator) -> Tensor:
        for part in x.view(-1).split(BLOCK if x.device.type == "cpu" else max(1, x.numel())):
            part.clamp_(min=0).mul_(_scaled_mask(part, threshold, rng))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.scale = _scale(threshold)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, kept, 0).mul_(ctx.scale), None, None


def _threshold(p: float) -> int:
    """How many of the 2^16 values of 16 bits make a zero."""
    return min(round(p * 2**BITS), 2**BITS - 1)


def _scale(threshold: int) -> float:
    return 2**BITS / (2**BITS - threshold)


def _scaled_mask(x: Tensor, threshold: int, rng: Generator) -> Tensor:
    """0 with probability threshold / 2^16, else `_scale`; drawn on the generator's device, four entries at a time."""
    # Page-locked where a GPU is to have it: the copy then waits for nothing that the GPU still does.
    pinned = x.is_cuda and rng.device.type == "cpu"
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=rng.device, pin_memory=pinned)
    words = words.random_(-(2**63), None, generator=rng).to(x.device, non_blocking=True)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape).ge_(threshold - 2 ** (BITS - 1))
    return keep.to(x.dtype).mul_(_scale(threshold))
