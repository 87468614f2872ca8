"""FREEDOM: frozen item graph, denoised user-item graph (arXiv 2211.06924)."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.content import content_towers
from befa.graphs import binary_graph, edge_weights, hops, propagate, symmetric_adjacency
from befa.layers import table
from befa.losses import bpr
from befa.models.base import evaluating
from befa.problem import Batch, Problem
from befa.sparse import SparseMatrix

EPSILON = 1e-7
"""Added to the degrees, as in the reference code."""


@configuration
class FreedomConfig:
    """Defaults: enoche/FREEDOM's configuration; the grid's 0.8 and 1e-3 where it searches."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids and projected content."""
    trainable_features: bool = True
    """Training changes the feature tables, as in the reference code; the item graph keeps the encoder's."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Propagation layers over the user-item graph."""
    item_layers: Annotated[int, Field(ge=0)] = 1
    """Propagation layers over the item graph."""
    knn_k: Annotated[int, Field(ge=1)] = 10
    """Neighbours kept per item, itself among them."""
    image_weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the "image" modality in the item graph; the others share the rest equally."""
    edge_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Share of the interactions left out of an epoch's training graph ("rho")."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the content BPR terms; at 0 neither content nor adapter is trained."""


class Freedom(nn.Module):
    """Propagates over a frozen item graph G = sum_m a_m K-bin(F_m) and, in training, a thinned user-item graph.

    users = layer mean [U], items = layer mean [I] + G^item_layers e_i; h_m adapted content:
        BPR(u, i, j) + reg_weight * sum_m BPR(u, h_m,i, h_m,j)
    Each epoch draws int(E (1 - edge_dropout)) interactions without replacement, with probability proportional to
    1 / sqrt(d_u d_i), and normalises them by their own degrees; evaluation uses all of them.
    Content, and with it the adapter, acts through training only.

    Departs from the reference code (MMRec e775373): the draw is an exponential race, the same distribution without
    torch.multinomial's limit of 2^24 edges; content is projected for the batch's rows only. A single modality has
    share 1, and without one named "image" all share equally. An item that is absent in m has no edges in that
    graph (its other shares are not scaled up), and pairs with an absent item are left out of that modality's BPR,
    which is 0 when none is left.
    """

    Config = FreedomConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: FreedomConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng)
        self.item_graph = _item_graph(problem, config)
        self.register_buffer("users_E", problem.users_E, persistent=False)
        self.register_buffer("items_E", problem.items_E, persistent=False)
        self.adjacency = symmetric_adjacency(*self._edges(), epsilon=EPSILON)
        self.epoch_adjacency: SparseMatrix | None = None

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        if batch.starts_epoch or self.epoch_adjacency is None:
            self.epoch_adjacency = self._thinned(rng)
        users_Ud, items_Id = self._propagated(self.epoch_adjacency)
        user_Bd = F.embedding(batch.users_B, users_Ud)
        loss = bpr(user_Bd, F.embedding(batch.positives_B, items_Id), F.embedding(batch.negatives_B, items_Id))
        if self.config.reg_weight == 0:
            return loss
        rows = torch.cat([batch.positives_B, batch.negatives_B])
        for tower in self.towers.values():
            h_rows, present = tower(rows, self.items, rng=rng)
            (positive_Bd, negative_Bd), (has_positive_B, has_negative_B) = h_rows.chunk(2), present.chunk(2)
            content_loss = bpr(user_Bd, positive_Bd, negative_Bd, has_positive_B & has_negative_B)
            loss = loss + self.config.reg_weight * content_loss
        return loss

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """Users and items propagated over all interactions."""
        with evaluating(self):
            return self._propagated(self.adjacency)

    def _propagated(self, adjacency: SparseMatrix) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        users_Ud, items_Id = propagate(adjacency, self.users, self.items, self.config.layers)
        return users_Ud, items_Id + hops(self.item_graph, self.items, self.config.item_layers)

    def _edges(self) -> tuple[Tensor, Tensor, int, int]:
        return self.users_E, self.items_E, len(self.users), len(self.items)

    def _thinned(self, rng: Generator) -> SparseMatrix:
        if self.config.edge_dropout == 0:
            return self.adjacency
        users_E, items_E, *sizes = self._edges()
        arrival_E = torch.empty(len(users_E), dtype=torch.float64, device=rng.device).exponential_(generator=rng)
        arrival_E = arrival_E.to(users_E.device) / edge_weights(*self._edges(), epsilon=EPSILON)
        kept = arrival_E.argsort()[: int(len(users_E) * (1 - self.config.edge_dropout))]
        thinned = symmetric_adjacency(users_E[kept], items_E[kept], *sizes, epsilon=EPSILON)
        return thinned.to(self.users.dtype)


def _item_graph(problem: Problem, config: FreedomConfig) -> SparseMatrix:
    """sum_m a_m K-bin(F_m), [I, I]; without content it has no edges."""
    graphs = {name: binary_graph(c, config.knn_k, name=name) for name, c in problem.contents.items()}
    shares = _shares(list(graphs), config.image_weight)
    empty = problem.items_E.new_zeros(0)
    rows = torch.cat([empty, *(graph.rows for graph in graphs.values())])
    columns = torch.cat([empty, *(graph.columns for graph in graphs.values())])
    values = torch.cat([empty.float(), *(shares[name] * graph.values for name, graph in graphs.items())])
    return SparseMatrix(rows, columns, values, (problem.n_items, problem.n_items))


def _shares(names: list[str], image_weight: float) -> dict[str, float]:
    if "image" not in names or len(names) == 1:
        return dict.fromkeys(names, 1 / max(len(names), 1))
    rest = (1 - image_weight) / (len(names) - 1)
    return {name: image_weight if name == "image" else rest for name in names}
