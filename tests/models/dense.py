"""Every recommender once more, as dense float64 matrices: as plain and slow as its formulas, for any problem.

Written from the papers' formulas, not from befa's models, graphs and losses, of which nothing is used here but the
names of the parameters. Users and items stand in one list of nodes, users first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from befa.problem import Batch, Problem


@dataclass(frozen=True)
class Given:
    """A model's parameters (float64, leaves), its settings, and its problem."""

    parameters: Mapping[str, Tensor]
    config: Any
    adaptation: Any
    problem: Problem

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name]

    @property
    def modalities(self) -> list[str]:
        return list(self.problem.contents)

    def features(self, m: str) -> Tensor:
        return self.problem.contents[m].values_Ic.double()

    def present(self, m: str) -> Tensor:
        return self.problem.contents[m].present_I

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self.parameters.get(f"{name}.bias"))

    def content(self, m: str) -> Tensor:
        """Projected and adapted; 0 where an item is absent."""
        table = self.parameters.get(f"towers.{m}.table", self.features(m))
        y = adapted(self, f"towers.{m}.adapter", self.linear(f"towers.{m}.project", table))
        return torch.where(self.present(m)[:, None], y, 0)


def adapted(given: Given, name: str, x: Tensor) -> Tensor:
    """By the adapter whose parameters are there."""
    e, known = given["items"], given.parameters
    if f"{name}.prompt_d" in known:
        return x + known[f"{name}.prompt_d"]
    if f"{name}.down_rd" in known:
        scale = given.adaptation.alpha / given.adaptation.rank
        return x + scale * x @ known[f"{name}.down_rd"].T @ known[f"{name}.up_dr"].T
    if f"{name}.decouple.weight" not in known:
        return x
    h = torch.relu(given.linear(f"{name}.decouple", x))
    if given.adaptation.variant == "released":
        h = torch.relu(given.linear(f"{name}.filter", torch.tanh(h)))
    else:
        wide = e @ known[f"{name}.id_to_inner.weight"].T if f"{name}.id_to_inner.weight" in known else e
        h = torch.relu(wide * torch.tanh(given.linear(f"{name}.filter", h)))
    return e * torch.sigmoid(given.linear(f"{name}.recombine", h))


# Graphs


def interactions(problem: Problem) -> Tensor:
    """A [N, N], 1 where a user and an item meet."""
    a = torch.zeros(problem.n_users + problem.n_items, problem.n_users + problem.n_items, dtype=torch.float64)
    for user, item in zip(problem.users_E.tolist(), problem.items_E.tolist(), strict=True):
        a[user, problem.n_users + item] = a[problem.n_users + item, user] = 1
    return a


def inverse(x: Tensor, power: float) -> Tensor:
    """x^-power, 0 where x is not above 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1) ** -power, 0)


def symmetric(problem: Problem, epsilon: float) -> Tensor:
    """D^-1/2 A D^-1/2."""
    a = interactions(problem)
    scale = inverse(a.sum(1) + epsilon, 0.5)
    return scale[:, None] * a * scale


def propagated(given: Given, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """LightGCN: the mean of the layers, users and items."""
    z = torch.cat([given["users"], given["items"]])
    layers = [torch.linalg.matrix_power(matrix, layer) @ z for layer in range(given.config.layers + 1)]
    users, items = torch.stack(layers).mean(0).split([given.problem.n_users, given.problem.n_items])
    return users, items


def nearest(x: Tensor, present: Tensor, k: int) -> Tensor:
    """[I, I], true for each present item's k nearest ones: itself, then by cosine in steps of 2^-24, then by id."""
    unit = F.normalize(x.detach().double(), eps=1e-300)
    steps = (unit @ unit.T * 2**24).round().tolist()
    found, items = torch.zeros(len(x), len(x), dtype=torch.bool), present.nonzero()[:, 0].tolist()
    for i in items:
        best = sorted(items, key=lambda j: (-steps[i][j], j))[:k]
        found[i, best if i in best else [*best[:-1], i]] = True
    return found


def cosines(x: Tensor, present: Tensor, k: int) -> Tensor:
    """[I, I], the cosines of the nearest."""
    unit = F.normalize(x)
    return torch.where(nearest(x, present, k), unit @ unit.T, 0)


def balanced(s: Tensor) -> Tensor:
    """D^-1/2 S D^-1/2, D the row sums."""
    scale = inverse(s.sum(1), 0.5)
    return scale[:, None] * s * scale


def frozen(given: Given, m: str) -> Tensor:
    """LATTICE's and MGCN's graph of the encoder's features."""
    return balanced(cosines(given.features(m), given.present(m), given.config.knn_k))


def binary(given: Given, m: str) -> Tensor:
    """FREEDOM's."""
    edges = nearest(given.features(m), given.present(m), given.config.knn_k).double()
    return edges / edges.sum(1, keepdim=True).clamp(min=1)


def hops(given: Given, graph: Tensor, x: Tensor) -> Tensor:
    """As many as there are item layers."""
    return torch.linalg.matrix_power(graph, given.config.item_layers) @ x


# Losses


def bpr(u: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The mean of -log sigmoid."""
    return -F.logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()


def norms(*tables: Tensor) -> Tensor:
    """ "EmbLoss"."""
    return sum(x.square().sum().sqrt() for x in tables) / len(tables[-1])


def squares(*rows: Tensor) -> Tensor:
    """L2 over the batch."""
    return sum(x.square().sum() for x in rows) / (2 * len(rows[0]))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - mean cosine; 0 of no rows."""
    return 1 - (F.normalize(a, eps=1e-8) * F.normalize(b, eps=1e-8)).sum(1).mean() if len(a) else a.sum()


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the batch's rows, those that stand there twice included."""
    logits = F.normalize(a) @ F.normalize(b).T / temperature
    return (logits.logsumexp(1) - logits.diagonal()).mean()


# Models: the loss of a batch, and the vectors of users and items

Outcome = tuple[Tensor, Tensor, Tensor]


def rows_of(batch: Batch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return users[batch.users_B], items[batch.positives_B], items[batch.negatives_B]


def of_bpr(given: Given, batch: Batch) -> Outcome:
    users, items = given["users"], given["items"]
    rows = rows_of(batch, users, items)
    return bpr(*rows) + given.config.reg_weight * norms(*rows), users, items


def of_lightgcn(given: Given, batch: Batch) -> Outcome:
    users, items = propagated(given, symmetric(given.problem, 1e-7))
    own = rows_of(batch, given["users"], given["items"])
    return bpr(*rows_of(batch, users, items)) + given.config.reg_weight * norms(*own), users, items


def of_vbpr(given: Given, batch: Batch) -> Outcome:
    content = sum((given.content(m) for m in given.modalities), torch.zeros_like(given["items"]))
    users, items = given["users"], torch.cat([given["items"], content], 1)
    rows = rows_of(batch, users, items)
    return bpr(*rows) + given.config.reg_weight * norms(*rows), users, items


def lattice_graph(given: Given) -> Tensor:
    """Learned and frozen, mixed."""
    share, known = given.config.frozen_share, given.modalities
    weights = given["logits"].softmax(0) if "logits" in given.parameters else torch.ones(1, dtype=torch.float64)
    learned = still = torch.zeros(given.problem.n_items, given.problem.n_items, dtype=torch.float64)
    for weight, m in zip(weights[: len(known)], known, strict=True):
        learned = learned + weight * cosines(given.content(m), given.present(m), given.config.knn_k)
        still = still + weight * frozen(given, m)
    return (1 - share) * balanced(learned) + share * still


def of_lattice(given: Given, batch: Batch, graph: Tensor) -> Outcome:
    a = interactions(given.problem) + torch.eye(given.problem.n_users + given.problem.n_items, dtype=torch.float64)
    users, items = propagated(given, a / a.sum(1, keepdim=True))
    items = items + F.normalize(hops(given, graph, given["items"]))
    rows = rows_of(batch, users, items)
    return bpr(*rows) + given.config.reg_weight * squares(*rows), users, items


def of_bm3(given: Given, batch: Batch) -> Outcome:
    users, items = propagated(given, symmetric(given.problem, 1e-7))
    items, u, i = items + given["items"], batch.users_B, batch.positives_B

    def predict(x: Tensor) -> Tensor:
        return given.linear("predict", x)

    loss = distance(predict(users[u]), items[i].detach()) + distance(predict(items[i]), users[u].detach())
    loss = loss + given.config.reg_weight * norms(users, items)
    for m in given.modalities:
        there = i[given.present(m)[i]]
        h = given.content(m)[there]
        terms = distance(predict(h), items[there].detach()) + distance(predict(h), h.detach())
        loss = loss + given.config.content_weight * terms
    return loss, predict(users), predict(items)


def of_freedom(given: Given, batch: Batch) -> Outcome:
    known = given.modalities
    shares = dict.fromkeys(known, 1 / max(1, len(known)))
    if "image" in known and len(known) > 1:
        image = given.config.image_weight
        shares = {m: image if m == "image" else (1 - image) / (len(known) - 1) for m in known}
    graph = torch.zeros(given.problem.n_items, given.problem.n_items, dtype=torch.float64)
    for m, share in shares.items():
        graph = graph + share * binary(given, m)
    users, items = propagated(given, symmetric(given.problem, 1e-7))
    items = items + hops(given, graph, given["items"])
    loss = bpr(*rows_of(batch, users, items))
    for m in known:
        both = given.present(m)[batch.positives_B] & given.present(m)[batch.negatives_B]
        if both.any():
            u, i, j = rows_of(batch, users, given.content(m))
            loss = loss + given.config.reg_weight * bpr(u[both], i[both], j[both])
    return loss, users, items


def view(given: Given, m: str, y: Tensor, adjacency: Tensor) -> Tensor:
    """[R G y ; G y]."""
    n_users, y = given.problem.n_users, hops(given, frozen(given, m), torch.where(given.present(m)[:, None], y, 0))
    return torch.cat([adjacency[:n_users, n_users:] @ y, y])


def of_mgcn(given: Given, batch: Batch) -> Outcome:
    adjacency, known = symmetric(given.problem, 0), given.modalities
    behaviour = torch.cat(propagated(given, adjacency))
    side = torch.zeros_like(behaviour)
    if known:
        pure = {m: given["items"] * torch.sigmoid(given.linear(f"purify.{m}", given.content(m))) for m in known}
        views = torch.stack([view(given, m, y, adjacency) for m, y in pure.items()])
        share = given.linear("attention", torch.tanh(given.linear("attend", views))).softmax(0)
        common = (share * views).sum(0)
        gates = torch.stack([torch.sigmoid(given.linear(f"prefer.{m}", behaviour)) for m in known])
        side = ((gates * (views - common)).sum(0) + common) / (len(known) + 1)
    sizes = [given.problem.n_users, given.problem.n_items]
    users, items = (behaviour + side).split(sizes)
    rows = rows_of(batch, users, items)
    loss = bpr(*rows) + given.config.reg_weight * squares(*rows)
    if known:
        for at, own, other in zip(
            (batch.users_B, batch.positives_B), side.split(sizes), behaviour.split(sizes), strict=True
        ):
            loss = loss + given.config.contrast_weight * contrast(own[at], other[at], given.config.temperature)
    return loss, users, items


def of_lattice_released(given: Given, batch: Batch) -> Outcome:
    adjacency = symmetric(given.problem, 0)
    nodes = torch.cat(propagated(given, adjacency))
    for m in given.modalities:
        nodes = nodes + view(given, m, given.content(m), adjacency) / len(given.modalities)
    users, items = nodes.split([given.problem.n_users, given.problem.n_items])
    rows = rows_of(batch, users, items)
    return bpr(*rows) + given.config.reg_weight * squares(*rows), users, items


MODELS: dict[str, Callable[..., Outcome]] = {
    "bpr": of_bpr,
    "lightgcn": of_lightgcn,
    "vbpr": of_vbpr,
    "lattice": of_lattice,
    "bm3": of_bm3,
    "freedom": of_freedom,
    "mgcn": of_mgcn,
    "lattice_released": of_lattice_released,
}
