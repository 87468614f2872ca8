"""LightGCN: propagation over the user-item graph and nothing else (arXiv 2002.02126)."""

from collections.abc import Mapping
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.graphs import adjacency_of, propagate
from befa.layers import table
from befa.losses import bpr, embedding_norms
from befa.models.base import batch_rows, evaluating
from befa.problem import Batch, Problem


@configuration
class LightGCNConfig:
    """Defaults: of MMRec's grids (layers 1 to 4, reg_weight 1e-2 to 1e-6) the paper's 3 layers and the middle."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids."""
    layers: Annotated[int, Field(ge=0)] = 3
    """Propagation layers over the user-item graph."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.0001
    """Weight of `embedding_norms` of the batch's id rows, before propagation."""


class LightGCN(nn.Module):
    """Scores a pair by the product of its propagated ids: what behaviour and its graph give without content.

    (u, i) = mean of the layers of the symmetric adjacency (eq. 4, 6-7); e the id tables:
        BPR(u, i, j) + reg_weight * norms(e_u, e_i, e_j)
    Reads no content: adapters are taken and left, and are no part of the model.

    Departs from the paper: the regulariser is `embedding_norms` of the batch's rows and 1e-7 is added to the degrees,
    as in the reference code (MMRec e775373). Departs from that: -log sigmoid without the 1e-10 inside the logarithm.
    """

    Config = LightGCNConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: LightGCNConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.adjacency = adjacency_of(problem, epsilon=1e-7)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        norms = embedding_norms(*batch_rows(batch, self.users, self.items))
        return bpr(*batch_rows(batch, *self._propagated())) + self.config.reg_weight * norms

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """Propagated users and items."""
        with evaluating(self):
            return self._propagated()

    def _propagated(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        return propagate(self.adjacency, self.users, self.items, self.config.layers)
