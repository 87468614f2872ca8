"""The field's way to compute the recommenders, as a yardstick: written from the mathematics, not from anybody's code.

What it does as the public implementations do, and befa does not: content is projected, adapted and fused for every item
in every batch; the user-item graph is a COO tensor; Adam is not fused and moves the feature tables; a user's negative
is drawn by a Python loop; an evaluation propagates anew for each batch of users and looks hits up one by one; LATTICE's
item graph is dense, and scaled by products with diagonal matrices.

Each class takes one of befa's models and computes the same loss from the same parameters, as
tests/test_reference_formulation.py says.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from befa.graphs import binary_graph, cosine_graph, row_adjacency, symmetric_adjacency
from befa.metrics import CUTOFFS, Interactions
from befa.problem import Batch, Problem
from befa.sparse import SparseMatrix

EVALUATED_AT_ONCE = 4096
"""Users."""


class Formulation(nn.Module):
    """Parameters of one of befa's models under its names, and what most formulations share."""

    epsilon = 1e-7

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self.modalities = model.config, problem, list(problem.contents)
        self.parameters_by_name = nn.ParameterDict(
            {_key(name): value.detach().clone() for name, value in model.named_parameters()}
        )
        self.adjacency = coo(
            symmetric_adjacency(
                problem.users_E, problem.items_E, problem.n_users, problem.n_items, epsilon=self.epsilon
            )
        )
        towers = getattr(model, "towers", {})
        self.dropouts = {m: getattr(getattr(towers[m].adapter, "config", None), "dropout", None) for m in towers}

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters_by_name[_key(name)]

    def has(self, name: str) -> bool:
        """Whether the model has such a parameter."""
        return _key(name) in self.parameters_by_name

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A linear layer by its name."""
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def features(self, m: str) -> Tensor:
        """The feature table, or the encoder's features where the model has none of its own."""
        return self[f"towers.{m}.table"] if self.has(f"towers.{m}.table") else self.problem.contents[m].values_Ic

    def content(self, m: str) -> Tensor:
        """Projected content of all items, adapted by BeFA's released network where the model has it."""
        x = self.linear(f"towers.{m}.project", self.features(m))
        if not self.has(f"towers.{m}.adapter.decouple.weight"):
            return x
        p = self.dropouts[m]
        x = torch.tanh(F.dropout(torch.relu(self.linear(f"towers.{m}.adapter.decouple", x)), p, self.training))
        x = F.dropout(torch.relu(self.linear(f"towers.{m}.adapter.filter", x)), p, self.training)
        return self["items"] * torch.sigmoid(self.linear(f"towers.{m}.adapter.recombine", x))

    def propagated(self, adjacency: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """The mean of the layers."""
        z = torch.cat([self["users"], self["items"]])
        found = [z]
        for _ in range(layers):
            found.append(torch.sparse.mm(adjacency, found[-1]))
        mean = torch.stack(found, 1).mean(1)
        return mean[: self.problem.n_users], mean[self.problem.n_users :]

    def loss(self, batch: Batch) -> Tensor:
        """The batch's training loss."""
        raise NotImplementedError

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Of all users and items."""
        raise NotImplementedError


def _key(name: str) -> str:
    return "of " + name.replace(".", "/")  # neither a dot nor a method's name may be a key


def coo(matrix: SparseMatrix) -> Tensor:
    """As a COO tensor."""
    index = torch.stack([matrix.rows, matrix.columns]).long()
    return torch.sparse_coo_tensor(index, matrix.values, matrix.shape, check_invariants=False)


def bpr(u: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Of the batch's rows."""
    return -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean()


def norms(*tables: Tensor) -> Tensor:
    """ "EmbLoss"."""
    return sum(torch.norm(x) for x in tables) / len(tables[-1])


def squares(u: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """L2."""
    return ((u**2).sum() + (i**2).sum() + (j**2).sum()) / (2 * len(u))


def rows(batch: Batch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the batch."""
    return users[batch.users_B], items[batch.positives_B], items[batch.negatives_B]


class BPR(Formulation):
    """Matrix factorisation."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """The tables."""
        return self["users"], self["items"]

    def loss(self, batch: Batch) -> Tensor:
        """BPR and norms."""
        found = rows(batch, *self.vectors())
        return bpr(*found) + self.config.reg_weight * norms(*found)


class VBPR(BPR):
    """One projection of the concatenated modalities."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Users, and items beside their content."""
        if any(self.has(f"towers.{m}.adapter.decouple.weight") for m in self.modalities):
            return self["users"], torch.cat([self["items"], sum(self.content(m) for m in self.modalities)], 1)
        weight = torch.cat([self[f"towers.{m}.project.weight"] for m in self.modalities], 1)
        bias = sum(self[f"towers.{m}.project.bias"] for m in self.modalities)
        content = F.linear(torch.cat([self.features(m) for m in self.modalities], 1), weight, bias)
        return self["users"], torch.cat([self["items"], content], 1)


class LightGCN(Formulation):
    """Propagation alone."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Propagated."""
        return self.propagated(self.adjacency, self.config.layers)

    def loss(self, batch: Batch) -> Tensor:
        """BPR, and norms of the ids."""
        ids = rows(batch, self["users"], self["items"])
        return bpr(*rows(batch, *self.vectors())) + self.config.reg_weight * norms(*ids)


class BM3(Formulation):
    """Everything for all users and items, then the batch's rows."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Predicted."""
        users, items = self.propagated(self.adjacency, self.config.layers)
        return self.linear("predict", users), self.linear("predict", items + self["items"])

    def loss(self, batch: Batch) -> Tensor:
        """See befa's."""
        users, items = self.propagated(self.adjacency, self.config.layers)
        items = items + self["items"]
        contents = [self.content(m) for m in self.modalities]
        targets = [F.dropout(x.detach(), self.config.dropout, self.training) for x in (users, items, *contents)]
        u, i, *h = (self.linear("predict", x) for x in (users, items, *contents))
        of_user, of_item = batch.users_B, batch.positives_B
        user_target, item_target = targets[0][of_user], targets[1][of_item]

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return 1 - F.cosine_similarity(a, b).mean()

        loss = distance(u[of_user], item_target) + distance(i[of_item], user_target)
        loss = loss + self.config.reg_weight * norms(users, items)
        for predicted, target in zip(h, targets[2:], strict=True):
            content = distance(predicted[of_item], item_target) + distance(predicted[of_item], target[of_item])
            loss = loss + self.config.content_weight * content
        return loss


class Freedom(Formulation):
    """A frozen item graph, a user-item graph drawn by torch.multinomial."""

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        super().__init__(model, problem)
        share = {
            m: model.config.image_weight if m == "image" else 1 - model.config.image_weight for m in problem.contents
        }
        graphs = {m: binary_graph(c, model.config.knn_k, name=m) for m, c in problem.contents.items()}
        first, *others = (share[m] * coo(graph) for m, graph in graphs.items())
        self.item_graph = sum(others, first)
        self.epoch = self.adjacency

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Over all interactions."""
        return self._over(self.adjacency)

    def _over(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        users, items = self.propagated(adjacency, self.config.layers)
        h = self["items"]
        for _ in range(self.config.item_layers):
            h = torch.sparse.mm(self.item_graph, h)
        return users, items + h

    def loss(self, batch: Batch) -> Tensor:
        """See befa's."""
        if batch.starts_epoch and self.config.edge_dropout:
            self.epoch = self._drawn()
        users, items = self._over(self.epoch)
        loss = bpr(*rows(batch, users, items))
        for m in self.modalities:
            loss = loss + self.config.reg_weight * bpr(*rows(batch, users, self.content(m)))
        return loss

    def _drawn(self) -> Tensor:
        users, items = self.problem.users_E, self.problem.items_E
        weights = (torch.bincount(users)[users] * torch.bincount(items)[items]).float().rsqrt()
        kept = torch.multinomial(weights, int(len(users) * (1 - self.config.edge_dropout)))
        sizes = self.problem.n_users, self.problem.n_items
        return coo(symmetric_adjacency(users[kept], items[kept], *sizes, epsilon=1e-7))


class Released(Formulation):
    """The host of BeFA's published code."""

    epsilon = 0.0

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        super().__init__(model, problem)
        self.graphs = {m: coo(cosine_graph(c, model.config.knn_k, name=m)) for m, c in problem.contents.items()}
        self.user_item = coo(model.user_item)

    def views(self) -> list[Tensor]:
        """Each modality's vectors of users and items."""
        return [self.view(m, self.content(m)) for m in self.modalities]

    def view(self, m: str, y: Tensor) -> Tensor:
        """Over the item graph, then to the users."""
        for _ in range(self.config.item_layers):
            y = torch.sparse.mm(self.graphs[m], y)
        return torch.cat([torch.sparse.mm(self.user_item, y), y])

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Behaviour and the mean of the views, if there are any."""
        behaviour = torch.cat(self.propagated(self.adjacency, self.config.layers))
        both = behaviour + sum(self.views()) / len(self.modalities)
        return both[: self.problem.n_users], both[self.problem.n_users :]

    def loss(self, batch: Batch) -> Tensor:
        """BPR and L2."""
        found = rows(batch, *self.vectors())
        return bpr(*found) + self.config.reg_weight * squares(*found)


class MGCN(Released):
    """Fused for all users and items; in-batch contrast by exponentials."""

    def views(self) -> list[Tensor]:
        """Purified."""
        gates = {m: torch.sigmoid(self.linear(f"purify.{m}", self.content(m))) for m in self.modalities}
        return [self.view(m, self["items"] * gate) for m, gate in gates.items()]

    def fused(self) -> tuple[Tensor, Tensor]:
        """Behaviour and side vectors."""
        behaviour, views = torch.cat(self.propagated(self.adjacency, self.config.layers)), self.views()
        scores = [F.linear(torch.tanh(self.linear("attend", q)), self["attention.weight"]) for q in views]
        weights = torch.cat(scores, 1).softmax(1)
        common = sum(weights[:, [n]] * q for n, q in enumerate(views))
        prefer = [torch.sigmoid(self.linear(f"prefer.{m}", behaviour)) for m in self.modalities]
        side = (sum(gate * (q - common) for gate, q in zip(prefer, views, strict=True)) + common) / (len(views) + 1)
        return behaviour, side

    def vectors(self) -> tuple[Tensor, Tensor]:
        """The sum."""
        both = sum(self.fused())
        return both[: self.problem.n_users], both[self.problem.n_users :]

    def loss(self, batch: Batch) -> Tensor:
        """See befa's."""
        behaviour, side = self.fused()
        n = self.problem.n_users
        found = rows(batch, *(behaviour + side).split([n, self.problem.n_items]))
        loss = bpr(*found) + self.config.reg_weight * squares(*found)
        for of in (batch.users_B, n + batch.positives_B):
            a, b = F.normalize(side[of]), F.normalize(behaviour[of])
            own = torch.exp((a * b).sum(1) / self.config.temperature)
            every = torch.exp(a @ b.T / self.config.temperature).sum(1)
            loss = loss - self.config.contrast_weight * torch.log(own / every).mean()
        return loss


class Lattice(Formulation):
    """Dense item graphs."""

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        super().__init__(model, problem)
        self.adjacency, self.graph = coo(row_adjacency(problem)), None
        with torch.no_grad():
            nearest = {m: self._nearest(c.values_Ic) for m, c in problem.contents.items()}
            self.frozen = {m: self._scaled(graph) for m, graph in nearest.items()}

    def _nearest(self, h: Tensor) -> Tensor:
        unit = h / h.norm(dim=1, keepdim=True)
        cosines = unit @ unit.T
        values, columns = cosines.topk(self.config.knn_k)
        return torch.zeros_like(cosines).scatter(1, columns, values)

    @staticmethod
    def _scaled(graph: Tensor) -> Tensor:
        scale = graph.sum(1).rsqrt()
        diagonal = torch.diag(torch.where(scale.isfinite(), scale, 0))
        return diagonal @ graph @ diagonal

    def item_graph(self) -> Tensor:
        """Learned and frozen, mixed."""
        weights = self["logits"].softmax(0)
        learned = sum(w * self._nearest(self.content(m)) for w, m in zip(weights, self.modalities, strict=True))
        frozen = sum(w * self.frozen[m] for w, m in zip(weights, self.modalities, strict=True))
        return (1 - self.config.frozen_share) * self._scaled(learned) + self.config.frozen_share * frozen

    def vectors(self, graph: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Over a graph of the current parameters."""
        h, graph = self["items"], self.item_graph() if graph is None else graph
        for _ in range(self.config.item_layers):
            h = graph @ h
        users, items = self.propagated(self.adjacency, self.config.layers)
        return users, items + F.normalize(h)

    def loss(self, batch: Batch) -> Tensor:
        """See befa's."""
        graph = self.item_graph() if batch.starts_epoch or self.graph is None else self.graph
        found = rows(batch, *self.vectors(graph))
        self.graph = graph.detach()
        return bpr(*found) + self.config.reg_weight * squares(*found)


FORMULATIONS = {
    "bpr": BPR,
    "vbpr": VBPR,
    "lightgcn": LightGCN,
    "freedom": Freedom,
    "bm3": BM3,
    "mgcn": MGCN,
    "lattice": Lattice,
    "lattice_released": Released,
}


class Sampler:
    """Negatives one by one, by Python's generator and sets."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.rng, self.catalogue = random.Random(seed), problem.items_E.unique().tolist()
        self.history = {}
        for user, item in zip(problem.users_E.tolist(), problem.items_E.tolist(), strict=True):
            self.history.setdefault(user, set()).add(item)

    def negatives(self, users_B: Tensor) -> Tensor:
        """One for each."""
        found = []
        for user in users_B.tolist():
            item = self.rng.sample(self.catalogue, 1)[0]
            while item in self.history[user]:
                item = self.rng.sample(self.catalogue, 1)[0]
            found.append(item)
        return torch.tensor(found)


def evaluated(model: Formulation, train: Interactions, valid: Interactions, users: np.ndarray) -> dict[str, float]:
    """Recall, NDCG, Precision and MAP of `users`; everything is propagated anew for each batch of them."""
    top = []
    with torch.no_grad():
        for start in range(0, len(users), EVALUATED_AT_ONCE):
            part = users[start : start + EVALUATED_AT_ONCE]
            user_vectors, item_vectors = model.vectors()
            scores = user_vectors[torch.from_numpy(part)] @ item_vectors.T
            masked, items = train.rows(part)
            scores[torch.from_numpy(masked), torch.from_numpy(items)] = -1e10
            top += scores.topk(min(max(CUTOFFS), scores.shape[1])).indices.tolist()
    counts = valid.counts[users]
    positives = [valid.items_E[valid.offsets[user] : valid.offsets[user + 1]] for user in users]
    hits = np.array([[item in own for item in ranked] for ranked, own in zip(top, positives, strict=True)], dtype=float)
    rank = np.arange(1, max(CUTOFFS) + 1)
    found = {}
    for k in CUTOFFS:
        first = hits[:, :k]
        ideal = np.cumsum(1 / np.log2(rank[:k] + 1))[np.minimum(counts, k) - 1]
        precision = first.cumsum(1) / rank[:k]
        found[f"recall@{k}"] = (first.sum(1) / counts).mean()
        found[f"ndcg@{k}"] = ((first / np.log2(rank[:k] + 1)).sum(1) / ideal).mean()
        found[f"precision@{k}"] = (first.sum(1) / k).mean()
        found[f"map@{k}"] = ((precision * first).sum(1) / np.minimum(k, counts)).mean()
    return {name: float(value) for name, value in found.items()}
