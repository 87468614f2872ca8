"""A small problem in NumPy, and the formulas that several models share, one entry at a time in float64."""

import math

import numpy as np
import torch

from befa.adapters import ADAPTERS
from befa.problem import Batch, Content, Problem
from befa.rng import stream

N_USERS, N_ITEMS, WIDTH = 6, 9, 4


def small_problem():
    """Item 7 has no text; user 5 has one item, item 8 has no user."""
    rng = np.random.default_rng(3)
    pairs = [(u, i) for u in range(5) for i in range(8) if rng.random() < 0.4] + [(5, 2)]
    users, items = torch.tensor(pairs).T
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    has_text = present.clone()
    has_text[7] = False
    image = torch.from_numpy(rng.normal(size=(N_ITEMS, 5)).astype(np.float32)) + 0.5
    text = torch.from_numpy(rng.normal(size=(N_ITEMS, 3)).astype(np.float32)) + 0.5
    text[7] = 0
    return Problem(N_USERS, N_ITEMS, users, items, {"image": Content(image, present), "text": Content(text, has_text)})


BATCH = Batch(torch.tensor([0, 3, 5, 0]), torch.tensor([2, 1, 2, 6]), torch.tensor([8, 7, 0, 8]), starts_epoch=True)


def build(kind, problem, adapter="none", **settings):
    """The model without dropout."""
    make = ADAPTERS[adapter]
    adaptation = make.Config(dropout=0.0) if adapter == "befa" else make.Config()
    adapters = {name: make(adaptation, WIDTH, rng=stream(0, "adapter", name)) for name in problem.contents}
    return kind(problem, adapters, kind.Config(**settings), rng=stream(0, "init"))


def arrays(model):
    """The parameters in float64."""
    return {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}


def pairs_of(problem):
    return set(zip(problem.users_E.tolist(), problem.items_E.tolist(), strict=True))


def rows(users, items):
    """The batch's (user, positive, negative) vectors."""
    for u, i, j in zip(BATCH.users_B.tolist(), BATCH.positives_B.tolist(), BATCH.negatives_B.tolist(), strict=True):
        yield users[u], items[i], items[j]


def bpr(users, items):
    """The mean of -log sigmoid(u.i - u.j)."""
    return np.mean([math.log(1 + math.exp(-(u @ i - u @ j))) for u, i, j in rows(users, items)])


def squares(users, items):
    """(|u|^2 + |i|^2 + |j|^2) / (2B)."""
    return sum(u @ u + i @ i + j @ j for u, i, j in rows(users, items)) / (2 * len(BATCH.users_B))


def cosine(a, b):
    return a @ b / math.sqrt((a @ a) * (b @ b))


def nearest(content, k):
    """For each item the k present ones with the largest cosine, itself among them: {i: {j: cosine}}."""
    values, present = content.values_Ic.numpy().astype(np.float64), content.present_I.tolist()
    found = {}
    for i in range(len(values)):
        others = [j for j in range(len(values)) if present[i] and present[j]]
        cosines = {j: cosine(values[i], values[j]) for j in others}
        found[i] = {j: cosines[j] for j in sorted(others, key=lambda j: -cosines[j])[:k]}
    return found
