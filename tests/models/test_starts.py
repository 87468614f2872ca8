"""Where parameters start."""

import pytest
import torch

from befa.building import build
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.rng import stream
from tests.test_training import small_cell, small_problem


def test_bm3_starts_its_layers_xavier_normal():
    content = Content(torch.randn(5, 64, generator=stream(0, "x")), torch.ones(5, dtype=torch.bool))
    problem = Problem(3, 5, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), {"image": content})
    built = build(problem, small_cell("bm3", "none", network=MODELS["bm3"].Config(width=64)), 1)
    for layer in (built.predict, built.towers["image"].project):
        assert layer.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.1)


@pytest.mark.parametrize("model", sorted(MODELS.keys() - {"item_knn"}))
def test_the_seed_decides_every_start(model):
    one, other = (dict(build(small_problem()[0], small_cell(model), seed).named_parameters()) for seed in (1, 2))
    equal = {name for name, x in one.items() if torch.equal(x, other[name])}
    assert equal == {name for name in one if name.endswith(".table")}
