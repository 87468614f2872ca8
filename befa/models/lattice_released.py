"""The host in BeFA's published code, there called LATTICE (arXiv 2406.00323; src/models/LATTICE_BeFA.py)."""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.content import content_towers
from befa.graphs import adjacency_of, cosine_graphs, hops, propagate, user_item_block
from befa.layers import table
from befa.losses import bpr, squared_norms
from befa.models.base import batch_rows, evaluating
from befa.problem import Batch, Problem


@configuration
class LatticeReleasedConfig:
    """Defaults: the published file's; it searches reg_weight in {1e-5, 1e-3, 1e-1}, the paper says 1e-4 for all."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids and projected content."""
    trainable_features: bool = True
    """Training changes the feature tables, as in the published code; the item graphs keep the encoder's."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Propagation layers over the user-item graph."""
    item_layers: Annotated[int, Field(ge=0)] = 1
    """Propagation layers over the item graphs."""
    knn_k: Annotated[int, Field(ge=1)] = 10
    """Neighbours kept per item and modality, itself among them."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.0001
    """Weight of the squared norms of the batch's vectors."""


class LatticeReleased(nn.Module):
    """Adds to LightGCN's vectors the mean of the modalities' content, smoothed over frozen item graphs.

    Not LATTICE, which learns its item graph, but MGCN without purifier, fusion, preference gates and contrast.
    y_m adapted content, R the user-item block of the symmetric adjacency, G_m the frozen cosine graph of the
    encoder's features, M the number of modalities:
        C = layer mean of [e_u ; e_i]
        q_m = G_m^item_layers y_m,  S_m = [R q_m ; q_m],  E = C + sum_m S_m / M
        BPR(u, i, j) + reg_weight (|u|^2 + |i|^2 + |j|^2) / (2B), on the rows of E
    Content, and with it the adapter, acts in training and in the score.

    Departs from the published file: the adapter is not part of the model, y_m = adapter(x_m, e_i); with adapter
    `befa` in its `released` variant it is that file. With `none` y_m is the projected content x_m itself, ungated:
    the file's host without BeFA, which its authors do not publish and which is none of the paper's base models.
    What the file defines and never uses (InfoNCE, attention) is left out. An item absent in m has y_m = 0 and no
    edges in G_m; its other modalities are not scaled up. Without content E = C. A node with a negative sum of
    cosines loses its edges, where the file gives NaN. B: see `squared_norms`.
    """

    Config = LatticeReleasedConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: LatticeReleasedConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng)
        self.adjacency = adjacency_of(problem, epsilon=0.0)
        self.user_item = user_item_block(problem)
        self.item_graphs = cosine_graphs(problem, config.knn_k)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        rows = batch_rows(batch, *self._vectors(rng))
        return bpr(*rows) + self.config.reg_weight * squared_norms(*rows)

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """E."""
        with evaluating(self) as unused:
            return self._vectors(unused)

    def _vectors(self, rng: Generator) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        users_Ud, items_Id = propagate(self.adjacency, self.users, self.items, self.config.layers)
        smooth_Id = torch.zeros_like(items_Id)
        for name, tower in self.towers.items():
            y_Id, _ = tower(None, self.items, rng=rng)
            smooth_Id = smooth_Id + hops(self.item_graphs[name], y_Id, self.config.item_layers) / len(self.towers)
        # R is linear, so one product serves the sum over the modalities.
        return users_Ud + self.user_item @ smooth_Id, items_Id + smooth_Id
