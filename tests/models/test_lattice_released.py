"""The host of BeFA's published code, with and without BeFA, computes its formula."""

import math

import numpy as np
import pytest

from befa.models.lattice_released import LatticeReleased
from befa.rng import stream
from tests.models import naive

SETTINGS = {"width": naive.WIDTH, "layers": 2, "item_layers": 2, "knn_k": 3, "reg_weight": 0.3}


def smoothing(content):
    """S_ij / sqrt(r_i r_j) over the nearest neighbours, r the row sums."""
    near = naive.nearest(content, SETTINGS["knn_k"])
    sums = {i: sum(near[i].values()) for i in near}
    graph = np.zeros((naive.N_ITEMS, naive.N_ITEMS))
    for i, row in near.items():
        for j, value in row.items():
            graph[i, j] = value / math.sqrt(sums[i] * sums[j])
    return graph


def adapted(p, name, adapter, row, item):
    """y_m of one item."""
    x = p[f"towers.{name}.project.weight"] @ row + p[f"towers.{name}.project.bias"]
    if adapter == "none":
        return x
    layer = {n: (p[f"towers.{name}.adapter.{n}.weight"], p[f"towers.{name}.adapter.{n}.bias"]) for n in
             ("decouple", "filter", "recombine")}  # fmt: skip
    h = np.tanh(np.maximum(layer["decouple"][0] @ x + layer["decouple"][1], 0))
    h = np.maximum(layer["filter"][0] @ h + layer["filter"][1], 0)
    return p["items"][item] / (1 + np.exp(-(layer["recombine"][0] @ h + layer["recombine"][1])))


def naive_vectors(problem, p, adapter):
    """E, one node at a time."""
    pairs = naive.pairs_of(problem)
    of_user = [[i for i in range(naive.N_ITEMS) if (u, i) in pairs] for u in range(naive.N_USERS)]
    of_item = [[u for u in range(naive.N_USERS) if (u, i) in pairs] for i in range(naive.N_ITEMS)]

    def weight(u, i):
        return 1 / math.sqrt(len(of_user[u]) * len(of_item[i]))

    def neighbours(users, items):
        zero = np.zeros(naive.WIDTH)
        return (
            [sum((weight(u, i) * items[i] for i in of_user[u]), zero) for u in range(naive.N_USERS)],
            [sum((weight(u, i) * users[u] for u in of_item[i]), zero) for i in range(naive.N_ITEMS)],
        )

    layers = [(list(p["users"]), list(p["items"]))]
    for _ in range(SETTINGS["layers"]):
        layers.append(neighbours(*layers[-1]))
    users = [sum(layer[0][u] for layer in layers) / len(layers) for u in range(naive.N_USERS)]
    items = [sum(layer[1][i] for layer in layers) / len(layers) for i in range(naive.N_ITEMS)]
    for name, content in problem.contents.items():
        y = np.zeros((naive.N_ITEMS, naive.WIDTH))
        for i in np.flatnonzero(content.present_I):
            y[i] = adapted(p, name, adapter, p[f"towers.{name}.table"][i], i)
        view = np.linalg.matrix_power(smoothing(content), SETTINGS["item_layers"]) @ y
        seen, _ = neighbours(users, view)
        users = [vector + part / 2 for vector, part in zip(users, seen, strict=True)]
        items = [vector + part / 2 for vector, part in zip(items, view, strict=True)]
    return np.array(users), np.array(items)


@pytest.mark.parametrize("adapter", ["none", "befa"])
def test_loss_and_vectors_are_the_formulas(adapter):
    problem = naive.small_problem()
    model = naive.build(LatticeReleased, problem, adapter, **SETTINGS)
    users, items = naive_vectors(problem, naive.arrays(model), adapter)
    for found, wanted in zip(model.user_item_vectors(), (users, items), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    wanted = naive.bpr(users, items) + 0.3 * naive.squares(users, items)
    assert model.loss(naive.BATCH, rng=stream(0, "noise")).item() == pytest.approx(wanted, rel=1e-5)
