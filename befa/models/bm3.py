"""BM3: bootstrapped multimodal model (arXiv 2207.05969)."""

from collections.abc import Mapping
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.content import content_towers
from befa.graphs import adjacency_of, propagate
from befa.layers import dropout, linear, table
from befa.losses import cosine_distance, embedding_norms
from befa.models.base import evaluating
from befa.problem import Batch, Problem


@configuration
class BM3Config:
    """Defaults: enoche/BM3, README's values for Amazon Baby."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids and projected content."""
    trainable_features: bool = True
    """Training changes the feature tables, as in the reference code."""
    layers: Annotated[int, Field(ge=0)] = 1
    """Propagation layers over the user-item graph."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability of a zero in the contrastive targets."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of `embedding_norms` of all users' and items' vectors."""
    content_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the content terms ("cl_weight")."""


class BM3(nn.Module):
    """Learns without negatives: two dropout views of a vector, and of the two sides of an interaction, agree.

    (ubar, ibar) = mean of the layers of the symmetric adjacency, ibar + e_i; h_m adapted content; P a
    shared linear predictor; t(.) the dropped-out, gradient-free target; C(a, b) = 1 - mean cos(a, b):
        C(P u, t(i)) + C(P i, t(u)) + reg_weight * norms
        + content_weight * sum_m [ C(P h_m, t(i)) + C(P h_m, t(h_m)) ]
    A pair's score is P(u) . P(i): content, and with it the adapter, acts through training only.

    Departs from the reference code (MMRec e775373): content is projected, and targets are dropped, for the batch's rows
    only, so a user or item that stands in a batch twice gets two dropout masks. The content terms are means over the
    rows whose item is present in m, 0 when none is. `Batch.negatives_B` is not used, but drawn as for any model: a user
    who has all items is an error here too.
    """

    Config = BM3Config

    def __init__(self, problem: Problem, adapters: Mapping[str, Adapter], config: BM3Config, *, rng: Generator) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.predict = linear(d, d, rng=rng, xavier=True)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng, xavier=True)
        self.adjacency = adjacency_of(problem, epsilon=1e-7)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        users_Ud, items_Id = self._propagated()
        user_Bd, item_Bd = F.embedding(batch.users_B, users_Ud), F.embedding(batch.positives_B, items_Id)
        user_target_Bd, item_target_Bd = self._target(user_Bd, rng), self._target(item_Bd, rng)
        loss = cosine_distance(self.predict(user_Bd), item_target_Bd)
        loss = loss + cosine_distance(self.predict(item_Bd), user_target_Bd)
        loss = loss + self.config.reg_weight * embedding_norms(users_Ud, items_Id)
        for tower in self.towers.values():
            h_Bd, present_B = tower(batch.positives_B, self.items, rng=rng)
            predicted_Bd = self.predict(h_Bd)
            to_item = cosine_distance(predicted_Bd, item_target_Bd, present_B)
            to_itself = cosine_distance(predicted_Bd, self._target(h_Bd, rng), present_B)
            loss = loss + self.config.content_weight * (to_item + to_itself)
        return loss

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """P(u) and P(i)."""
        with evaluating(self):
            users_Ud, items_Id = self._propagated()
            return self.predict(users_Ud), self.predict(items_Id)

    def _propagated(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        users_Ud, items_Id = propagate(self.adjacency, self.users, self.items, self.config.layers)
        return users_Ud, items_Id + self.items

    def _target(self, x_Bd: Float[Tensor, "B d"], rng: Generator) -> Float[Tensor, "B d"]:
        return dropout(x_Bd.detach(), self.config.dropout, rng=rng, training=self.training)
