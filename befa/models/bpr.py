"""BPR-MF: matrix factorisation by pairwise ranking (arXiv 1205.2618)."""

from collections.abc import Mapping
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.layers import table
from befa.losses import bpr, embedding_norms
from befa.models.base import batch_rows, evaluating
from befa.problem import Batch, Problem


@configuration
class BPRConfig:
    """Defaults: the middle of MMRec's grid (reg_weight 2 to 1e-5)."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of `embedding_norms` of the batch's rows."""


class BPR(nn.Module):
    """Scores a pair by the product of two id vectors, u . i: what behaviour alone gives.

        BPR(u, i, j) + reg_weight * norms(u, i, j)

    Reads no content: adapters are taken and left, and are no part of the model.

    Departs from the paper: the regulariser is `embedding_norms`, as in the reference code (MMRec e775373). Departs
    from that: -log sigmoid without the 1e-10 inside the logarithm, and ids start Xavier uniform as everywhere here,
    where it draws them normal with the same variance.
    """

    Config = BPRConfig

    def __init__(self, problem: Problem, adapters: Mapping[str, Adapter], config: BPRConfig, *, rng: Generator) -> None:
        super().__init__()
        self.config = config
        self.users = table(problem.n_users, config.width, rng=rng)
        self.items = table(problem.n_items, config.width, rng=rng)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        rows = batch_rows(batch, self.users, self.items)
        return bpr(*rows) + self.config.reg_weight * embedding_norms(*rows)

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """The id tables, copied."""
        with evaluating(self):
            return self.users.clone(), self.items.clone()
