"""ItemKNN on content: items that look like what the user has; nothing is trained."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.graphs import cosine_edges
from befa.problem import Batch, Problem
from befa.sparse import SparseMatrix


@configuration
class ItemKNNConfig:
    """Default: as many neighbours as the item graphs of LATTICE, FREEDOM and MGCN keep."""

    width: ClassVar[int] = 1
    """Not a setting: a cell makes its adapters by the model's width before it makes the model, which needs none."""
    knn_k: Annotated[int, Field(ge=1)] = 10
    """Neighbours kept per item and modality, itself among them."""


class ItemKNN(nn.Module):
    """Scores an item by its likeness to the user's items: what the encoder's features give without any training.

    With N_m(i) the k nearest items of i in modality m by cosine (i among them: `cosine_edges`), H_u the user's training
    items, M the number of modalities, the item-based form of Sarwar et al. (WWW 2001, doi 10.1145/371920.372071):
        score(u, i) = (1 / M) sum_m sum_{j in H_u and N_m(i)} cos(F_m,i, F_m,j)      in [-|H_u|, |H_u|]
    Features are the encoder's own: projections and adapters belong to models that train them, so adapters are taken
    and left.

    Departs from the paper: cosines of content in place of co-ratings, and the sum is not divided by the sum of
    cosines, which would let a single neighbour outrank many. An item absent in m has no neighbours there and is
    nobody's, so it gets 0 for m; without content all scores are 0. An item of H_u counts itself; the ranking masks it.
    """

    Config = ItemKNNConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: ItemKNNConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        none = problem.items_E.new_zeros(0)
        edges = [(none, none, none.float())]
        for content in problem.contents.values():
            rows_E, columns_E, cosines_E = cosine_edges(content.values_Ic, content.present_I, config.knn_k)
            edges.append((rows_E, columns_E, cosines_E / len(problem.contents)))
        n_users, n_items = problem.n_users, problem.n_items
        self.likeness = SparseMatrix(*map(torch.cat, zip(*edges, strict=True)), (n_items, n_items))
        ones_E = torch.ones_like(problem.users_E, dtype=torch.float32)
        self.history = SparseMatrix(problem.users_E, problem.items_E, ones_E, (n_users, n_items))

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """0: there is nothing to train."""
        return self.likeness.values.new_zeros(())

    def scores(self, users_B: Int[Tensor, " B"]) -> Float[Tensor, "B I"]:
        """See the class."""
        users_B = users_B.to(self.history.pointers.device)
        count_B = self.history.pointers.diff()[users_B]
        row_n = torch.repeat_interleave(count_B)
        within_n = torch.arange(len(row_n), device=row_n.device) - (count_B.cumsum(0) - count_B)[row_n]
        item_n = self.history.columns[self.history.pointers[users_B][row_n] + within_n]
        history_IB = self.likeness.values.new_zeros(self.likeness.shape[0], len(users_B))
        history_IB[item_n, row_n] = 1
        return (self.likeness @ history_IB).T.contiguous()
