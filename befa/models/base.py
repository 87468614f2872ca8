"""What the recommenders share beside their layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Generator]:
    """Inside: no gradient and no dropout in `model`; after it, every module is in the mode it was in.

    Gives a generator for the calls that ask for one; nothing draws from it.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield Generator()
    finally:
        for module, training in modes.items():
            module.training = training
