"""What the recommenders share beside their layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from befa.problem import Batch


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


def batch_rows(
    batch: Batch, users_Ud: Float[Tensor, "U d"], items_Id: Float[Tensor, "I d"]
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """The vectors of the batch's users, positives and negatives."""
    # Both sides of the items at once: one gradient table less to fill and to add.
    items_rows = F.embedding(torch.cat([batch.positives_B, batch.negatives_B]), items_Id)
    positives_Bd, negatives_Bd = items_rows.chunk(2)
    return F.embedding(batch.users_B, users_Ud), positives_Bd, negatives_Bd
