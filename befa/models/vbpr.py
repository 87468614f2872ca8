"""VBPR: matrix factorisation with a content half (arXiv 1510.01784)."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.adapters.base import Adapter
from befa.config import configuration
from befa.content import content_towers
from befa.layers import table
from befa.losses import bpr, embedding_norms
from befa.models.base import evaluating
from befa.problem import Batch, Problem


@configuration
class VBPRConfig:
    """Defaults: the middle of MMRec's grid (reg_weight 2 to 1e-5); its fixed features."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of item ids and of projected content; users are 2d wide."""
    trainable_features: bool = False
    """Training changes the feature tables; the reference code keeps them here."""
    reg_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of `embedding_norms` of the batch's rows."""


class VBPR(nn.Module):
    """Scores a pair by its ids and by what the user likes of the item's content.

    h_m adapted content, [;] the concatenation, u of width 2d:
        x_i = sum_m h_m,i,  i = [e_i ; x_i],  score = u . i
        BPR(u, i, j) + reg_weight * norms(u, i, j)
    Content, and with it the adapter, acts in training and in the score.

    Departs from the paper (eq. 4-6): no biases, no visual bias beta', one user table for both halves, and
    `embedding_norms`, all as in the reference code (MMRec e775373). Departs from that: it projects the concatenated
    modalities by one linear layer, W [F_1 ; F_2] + b; here each modality has its own F_m W_m + b_m, so that an adapter
    sees one modality. Without adapter that is the same function, W split by columns and b = sum_m b_m, but b is the sum
    of as many parameters and Adam moves it by as many steps at once; and each W_m, b_m starts as torch's layer of its
    own width does, where the reference code's W is Xavier normal and its b 0. -log sigmoid has no 1e-10 inside the
    logarithm. An item that is absent in m adds nothing for it, b_m neither.
    """

    Config = VBPRConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: VBPRConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, 2 * d, rng=rng), table(problem.n_items, d, rng=rng)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        user_Bk = F.embedding(batch.users_B, self.users)
        # Both sides at once: an item that stands on either, or several times, is adapted once.
        items_m, item_2B = torch.cat([batch.positives_B, batch.negatives_B]).unique(return_inverse=True)
        positive_Bk, negative_Bk = F.embedding(item_2B, self._items(items_m, rng)).chunk(2)
        norms = embedding_norms(user_Bk, positive_Bk, negative_Bk)
        return bpr(user_Bk, positive_Bk, negative_Bk) + self.config.reg_weight * norms

    def user_item_vectors(self) -> tuple[Float[Tensor, "U k"], Float[Tensor, "I k"]]:
        """u and i, k = 2d wide."""
        with evaluating(self) as unused:
            return self.users.clone(), self._items(None, unused)

    def _items(self, rows_m: Int[Tensor, " m"] | None, rng: Generator) -> Float[Tensor, "m k"]:
        """i = [e_i ; x_i] of distinct items `rows_m` (None: all)."""
        id_md = self.items if rows_m is None else F.embedding(rows_m, self.items)
        contents = [tower.distinct(rows_m, self.items, rng=rng)[0] for tower in self.towers.values()]
        return torch.cat([id_md, sum(contents) if contents else torch.zeros_like(id_md)], dim=1)
