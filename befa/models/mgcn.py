"""MGCN: multi-view graph convolution (arXiv 2308.03588)."""

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
from befa.graphs import adjacency_of, cosine_graphs, hops, user_item_block
from befa.layers import linear, table
from befa.losses import bpr, info_nce, squared_norms
from befa.models.base import evaluating
from befa.problem import Batch, Problem
from befa.sparse import layer_mean


@configuration
class MGCNConfig:
    """Defaults: demonph10/MGCN; of its grid the contrast weight that its authors call best in most cases."""

    width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """d, of ids and projected content."""
    trainable_features: bool = True
    """Training changes the feature tables, as in the reference code; the item graphs keep the encoder's."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Propagation layers over the user-item graph."""
    item_layers: Annotated[int, Field(ge=0)] = 1
    """Propagation layers over the item graphs."""
    knn_k: Annotated[int, Field(ge=1)] = 10
    """Neighbours kept per item and modality, itself among them."""
    reg_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the squared norms of the batch's vectors."""
    contrast_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the contrast between content and behaviour ("cl_loss")."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """Of that contrast."""


class MGCN(nn.Module):
    """Purifies content by behaviour, propagates both, and fuses what the modalities share with what each adds.

    x_m adapted content, R the user-item block of the symmetric adjacency, G_m the frozen cosine graph of the
    encoder's features, M the number of modalities:
        y_m = e_i (.) sigmoid(W'_m x_m + b'_m)                                 purifier
        C = layer mean of [e_u ; e_i]                                          behaviour view
        q_m = G_m^item_layers y_m,  Q_m = [R q_m ; q_m]                        content views
        K = sum_m softmax_m(v . tanh(W Q_m + b)) Q_m                           shared part
        Z_m = sigmoid(W''_m C + b''_m) (.) (Q_m - K)                           what m adds
        side = (sum_m Z_m + K) / (M + 1),  E = C + side                        vectors
        BPR + reg_weight (|u|^2 + |i|^2 + |j|^2) / (2B) + contrast_weight (NCE(side_i, C_i) + NCE(side_u, C_u))
    With an adapter the content is gated twice, by the adapter and by the purifier.

    Departs from the reference code (MMRec e775373): fusion and contrast are computed for the batch's rows only,
    each once (the same numbers). An item absent in m has y_m = 0 and no edges in G_m, so its q_m is 0 too; its
    attention still counts that view. Without content E = C, there is no contrast, and the attention is not trained;
    with one modality K = Q, Z = 0, and neither attention nor preference gate is. A node of G_m with a negative sum of
    cosines loses its edges, where the reference gives NaN. B: see `squared_norms`.
    """

    Config = MGCNConfig

    def __init__(
        self, problem: Problem, adapters: Mapping[str, Adapter], config: MGCNConfig, *, rng: Generator
    ) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.users, self.items = table(problem.n_users, d, rng=rng), table(problem.n_items, d, rng=rng)
        self.towers = content_towers(problem, adapters, d, trainable=config.trainable_features, rng=rng)
        self.purify = nn.ModuleDict({name: linear(d, d, rng=rng) for name in self.towers})
        self.prefer = nn.ModuleDict({name: linear(d, d, rng=rng) for name in self.towers})
        self.attend = linear(d, d, rng=rng)
        self.attention = linear(d, 1, rng=rng, bias=False)
        self.adjacency = adjacency_of(problem, epsilon=0.0)
        self.user_item = user_item_block(problem)
        self.item_graphs = cosine_graphs(problem, config.knn_k)

    def loss(self, batch: Batch, *, rng: Generator) -> Float[Tensor, ""]:
        """See the class."""
        behaviour_Nd, views = self._views(rng)
        # A user or item that stands in the batch several times is fused once, and counts by its number in the contrast.
        users_m, user_B, users_counts_m = batch.users_B.unique(return_inverse=True, return_counts=True)
        items_m, item_2B = torch.cat([batch.positives_B, batch.negatives_B]).unique(return_inverse=True)
        rows_n = torch.cat([users_m, len(self.users) + items_m])
        behaviour_nd = F.embedding(rows_n, behaviour_Nd)
        views_nd = [torch.cat([F.embedding(users_m, q_Ud), F.embedding(items_m, q_Id)]) for q_Ud, q_Id in views]
        side_nd = self._fused(behaviour_nd, views_nd)
        users_md, items_md = (behaviour_nd + side_nd).split([len(users_m), len(items_m)])
        positive_Bd, negative_Bd = F.embedding(item_2B, items_md).chunk(2)
        vectors = F.embedding(user_B, users_md), positive_Bd, negative_Bd
        loss = bpr(*vectors) + self.config.reg_weight * squared_norms(*vectors)
        if not self.towers:
            return loss
        positives_p, positives_counts_p = item_2B[: len(user_B)].unique(return_counts=True)
        users_p = torch.arange(len(users_m), device=user_B.device)
        for rows, counts in ((users_p, users_counts_m), (len(users_m) + positives_p, positives_counts_p)):
            pair = F.embedding(rows, side_nd), F.embedding(rows, behaviour_nd)
            contrast = info_nce(*pair, temperature=self.config.temperature, counts_n=counts)
            loss = loss + self.config.contrast_weight * contrast
        return loss

    def user_item_vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
        """E, fused for all users and items."""
        with evaluating(self) as unused:
            behaviour_Nd, views = self._views(unused)
            vectors_Nd = behaviour_Nd + self._fused(behaviour_Nd, [torch.cat(view) for view in views])
            users_Ud, items_Id = vectors_Nd.split([len(self.users), len(self.items)])
            return users_Ud, items_Id

    def _views(
        self, rng: Generator
    ) -> tuple[Float[Tensor, "N d"], list[tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]]]:
        """C and the Q_m, users and items apart."""
        behaviour_Nd = layer_mean(self.adjacency, torch.cat([self.users, self.items]), self.config.layers)
        views = []
        for name, tower in self.towers.items():
            x_Id, present_I = tower(None, self.items, rng=rng)
            purified_Id = self.items * torch.sigmoid(self.purify[name](x_Id))
            if not tower.complete:
                purified_Id = torch.where(present_I[:, None], purified_Id, 0)
            item_view_Id = hops(self.item_graphs[name], purified_Id, self.config.item_layers)
            views.append((self.user_item @ item_view_Id, item_view_Id))
        return behaviour_Nd, views

    def _fused(self, behaviour_nd: Float[Tensor, "n d"], views: list[Float[Tensor, "n d"]]) -> Float[Tensor, "n d"]:
        """The side vectors of n users or items."""
        if not views:
            return torch.zeros_like(behaviour_nd)
        views_Mnd = torch.stack(views)
        attention_Mn1 = self.attention(torch.tanh(self.attend(views_Mnd))).softmax(0)
        shared_nd = (attention_Mn1 * views_Mnd).sum(0)
        gates_Mnd = torch.stack([torch.sigmoid(prefer(behaviour_nd)) for prefer in self.prefer.values()])
        return ((gates_Mnd * (views_Mnd - shared_nd)).sum(0) + shared_nd) / (len(views) + 1)
