"""The yardstick of benchmarks/bench_train.py computes what befa computes: loss, gradients and metrics."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from befa.adapters import ADAPTERS
from befa.metrics import Interactions
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.rng import numpy_stream, stream
from befa.sampling import batches
from befa.training import validate

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import reference

PLAIN = {"bm3": {"dropout": 0.0}, "freedom": {"edge_dropout": 0.0}}
"""Without randomness, so that the two can be compared."""


@pytest.fixture(scope="module")
def problem():
    rng = numpy_stream(0, "problem")
    pairs = np.unique(rng.integers(0, 30 * 120, 900))
    users, items = torch.from_numpy(pairs // 120), torch.from_numpy(pairs % 120)
    everyone = torch.ones(120, dtype=torch.bool)
    features = {
        m: torch.from_numpy(rng.normal(size=(120, w)).astype(np.float32)) for m, w in (("image", 6), ("text", 5))
    }
    return Problem(30, 120, users, items, {m: Content(values, everyone) for m, values in features.items()})


@pytest.mark.parametrize("adapter", ["none", "befa"])
@pytest.mark.parametrize("name", reference.FORMULATIONS)
def test_loss_gradients_and_metrics_are_those_of_befa(name, adapter, problem):
    kind, make = MODELS[name], ADAPTERS[adapter]
    adaptation = make.Config(dropout=0.0) if adapter == "befa" else make.Config()
    adapters = {m: make(adaptation, 8, rng=stream(0, "adapter", m)) for m in problem.contents}
    ours = kind(problem, adapters, kind.Config(width=8, **PLAIN.get(name, {})), rng=stream(0, "init"))
    theirs = reference.FORMULATIONS[name](ours, problem)
    batch = next(batches(problem, 64, rng=stream(0, "sampling")))
    losses = ours.loss(batch, rng=stream(0, "noise")), theirs.loss(batch)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    for key, parameter in ours.named_parameters():
        found = theirs[key].grad
        if key != "attention.weight" or found is not None:
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=key)
    valid = Interactions.of(np.arange(30), (np.arange(30) * 7) % 120, 30)
    train = Interactions.of(problem.users_E.numpy(), problem.items_E.numpy(), 30)
    users = np.flatnonzero((valid.counts > 0) & (train.counts > 0))
    theirs.eval()
    assert reference.evaluated(theirs, train, valid, users) == pytest.approx(validate(ours, problem, valid), abs=1e-9)


def test_the_python_sampler_draws_what_a_user_has_not(problem):
    batch = next(batches(problem, 100, rng=stream(0, "sampling")))
    has = set(zip(problem.users_E.tolist(), problem.items_E.tolist(), strict=True))
    negatives = reference.Sampler(problem, 1).negatives(batch.users_B)
    drawn = replace(batch, negatives_B=negatives)
    assert not has & set(zip(drawn.users_B.tolist(), drawn.negatives_B.tolist(), strict=True))
