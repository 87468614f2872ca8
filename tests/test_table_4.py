"""Numbers of parameters, to the last one, as the paper's Table 4 (arXiv 2406.00323) counts them in millions."""

import pytest
import torch

from befa.adapters import ADAPTERS
from befa.models.bm3 import BM3
from befa.problem import Content, Problem
from befa.report.published import TABLE_1
from befa.rng import stream

WIDTH = 64
BASE = {"tmall": 9_447_104, "microlens": 18_358_656, "hm": 21_260_096}
"""BM3, its trainable tables of 512 features of two modalities included: 9.45M, 18.36M and 21.26M in the paper."""


def adapters(name, **settings):
    kind = ADAPTERS[name]
    return {m: kind(kind.Config(**settings), WIDTH, rng=stream(1, "adapter", m)) for m in ("image", "text")}


def bm3(n_users, n_items, adaptation):
    contents = {
        modality: Content(torch.zeros(n_items, 512), torch.ones(n_items, dtype=torch.bool)) for modality in adaptation
    }
    problem = Problem(n_users, n_items, torch.tensor([0]), torch.tensor([0]), contents)
    return BM3(problem, adaptation, BM3.Config(width=WIDTH, trainable_features=True), rng=stream(1, "init"))


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def added(name, **settings):
    """By an adapter to the whole model, on a catalogue of any size."""
    return size(bm3(2, 3, adapters(name, **settings))) - size(bm3(2, 3, adapters("none")))


@pytest.mark.parametrize("dataset", BASE)
def test_the_base_model_is_that_of_the_paper(dataset):
    sizes = TABLE_1[dataset]
    assert size(bm3(sizes["users"], sizes["items"], adapters("none"))) == BASE[dataset]


@pytest.mark.parametrize(("width", "parameters"), [(1, 24_960), (2, 66_176), (4, 197_760), (8, 657_536)])
def test_befa(width, parameters):
    assert added("befa", width=float(width)) == parameters


@pytest.mark.parametrize(("dataset", "percent"), [("tmall", 2.09), ("microlens", 1.08), ("hm", 0.93)])
def test_befas_share_is_that_of_the_paper(dataset, percent):
    assert round(100 * added("befa") / BASE[dataset], 2) == percent


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lora", 4_096),
        ("soft_prompt", 128),
        # The controls are BeFA's size: what they lack is no capacity.
        ("constant_gate", 197_760),
        ("random_features", 197_760),
        ("shuffled_features", 197_760),
    ],
)
def test_other_adapters(name, parameters):
    assert added(name) == parameters
