"""LATTICE: latent item-item structure mined from content (arXiv 2104.09036)."""

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
from befa.graphs import cosine_edges, cosine_graphs, hops, laplacian_values, propagate, row_adjacency
from befa.layers import table
from befa.losses import bpr, squared_norms
from befa.models.base import batch_rows, evaluating
from befa.problem import Batch, Problem
from befa.sparse import SparseMatrix


@configuration
class LatticeConfig:
    """Defaults: CRIPAC-DIG/LATTICE, codes/utility/parser.py."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids and projected content."""
    trainable_features: bool = True
    """Training changes the feature tables, as in the reference code; the frozen graphs keep the encoder's."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Propagation layers over the user-item graph."""
    item_layers: Annotated[int, Field(ge=0)] = 1
    """Propagation layers over the item graph."""
    knn_k: Annotated[int, Field(ge=1)] = 10
    """Neighbours kept per item and modality, itself among them."""
    frozen_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of the frozen graph in the item graph ("lambda"); the learned one has the rest."""
    reg_weight: Annotated[float, Field(ge=0)] = 1e-5
    """Weight of the squared norms of the batch's vectors."""


class Lattice(nn.Module):
    """Adds to LightGCN's item vectors what items learn from their content neighbours, over a graph that is learned.

    h_m adapted content, S_m its k nearest items by cosine, w = softmax of a learned logit per modality, N(.) the
    normalisation D^-1/2 . D^-1/2, L_m = N of the same graph of the encoder's own features, q = G^item_layers e_i:
        G = (1 - frozen_share) N(sum_m w_m S_m) + frozen_share sum_m w_m L_m
        users = layer mean [U], items = layer mean [I] + q / |q|  over D^-1 (A + I)
        BPR(u, i, j) + reg_weight (|u|^2 + |i|^2 + |j|^2) / (2B)
    G is built in the first batch of an epoch, with gradient, and is a constant for the others: content, adapter and
    w have one gradient an epoch, and the adapter's dropout of that batch stays in the epoch's graph. Under `clean` that
    is one step of Adam; under `mmrec` momentum carries them through the other batches too (docs/protocols.md).

    Departs from the reference code (MMRec e775373): nothing dense of I x I, so the normalisation costs I k, not I^3.
    Evaluation builds a graph of its own from the current parameters, without dropout, and leaves the epoch's graph
    as it is. Items absent in m have no edges in S_m and L_m; absent everywhere, q = 0 and q / |q| is taken as 0.
    A node with a negative sum of cosines loses its edges, where the reference gives NaN. B: see `squared_norms`.
    With one modality w = 1 and there is no logit.
    """

    Config = LatticeConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: LatticeConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng)
        self.logits = nn.Parameter(torch.full((len(self.towers),), 0.5)) if len(self.towers) > 1 else None
        self.adjacency = row_adjacency(problem)
        self.frozen = cosine_graphs(problem, config.knn_k)
        self.epoch_graph: SparseMatrix | None = None

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        if batch.starts_epoch or self.epoch_graph is None:
            self.epoch_graph = self._item_graph(rng)
        rows = batch_rows(batch, *self._propagated(self.epoch_graph))
        self.epoch_graph.cut_gradient()
        return bpr(*rows) + self.config.reg_weight * squared_norms(*rows)

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """Users and items propagated over a graph of the current parameters."""
        with evaluating(self) as unused:
            return self._propagated(self._item_graph(unused))

    def _propagated(self, graph: SparseMatrix) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        users_Ud, items_Id = propagate(self.adjacency, self.users, self.items, self.config.layers)
        return users_Ud, items_Id + F.normalize(hops(graph, self.items, self.config.item_layers))

    def _item_graph(self, rng: Generator) -> SparseMatrix:
        """G [I, I], its values with gradient to towers, ids (through the adapter) and logits."""
        share, n_items = self.config.frozen_share, len(self.items)
        weights = [1.0] * len(self.towers) if self.logits is None else self.logits.softmax(0)
        empty, none = self.adjacency.columns.new_zeros(0), self.items.new_zeros(0)
        learned, frozen = [(empty, empty, none)], [(empty, empty, none)]
        for weight, (name, tower) in zip(weights, self.towers.items(), strict=True):
            rows_E, columns_E, cosines_E = cosine_edges(*tower(None, self.items, rng=rng), self.config.knn_k)
            learned.append((rows_E, columns_E, weight * cosines_E))
            graph = self.frozen[name]
            frozen.append((graph.rows, graph.columns, share * weight * graph.values))
        rows, columns, values = map(torch.cat, zip(*learned, strict=True))
        learned = [(rows, columns, (1 - share) * laplacian_values(rows, columns, values, n_items))]
        return SparseMatrix(*map(torch.cat, zip(*learned, *frozen, strict=True)), (n_items, n_items))
