"""Training and evaluation on a GPU: the same bits each time, and the CPU's results but for rounding."""

import pytest
import torch
from conformance.test_models import EVERY
from test_other_device import assert_the_same, cell_of, fitted, moved, with_an_absent_item
from test_training import small_problem

from befa.building import build
from befa.devices import deterministic
from befa.ranking import scorer
from befa.resuming import Saved

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def as_the_stages_compute():
    before = torch.get_num_threads()
    deterministic(1)
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(before)


@EVERY
def test_the_same_bits_each_time_and_the_cpus_results(name, variant):
    problem, valid = small_problem()
    problem, cell = with_an_absent_item(problem), cell_of(name, variant)
    there = moved(problem, GPU)
    first, second = fitted(there, valid, cell), fitted(there, valid, cell)
    assert first.history == second.history
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    assert_the_same(first, fitted(problem, valid, cell))


@EVERY
def test_a_model_that_is_built_again_gives_the_same_scores(name, variant):
    """Its graphs are made anew by every stage that reads a checkpoint."""
    problem, _ = small_problem()
    there, cell = moved(problem, GPU), cell_of(name, variant)
    users = torch.arange(problem.n_users)
    first, second = (scorer(build(there, cell, 1).eval())(users) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["bm3", "lattice"])
def test_a_training_is_taken_up(name, tmp_path):
    problem, valid = small_problem()
    there, cell = moved(problem, GPU), cell_of(name, "befa", epochs=2)
    fitted(there, valid, cell_of(name, "befa", epochs=1), Saved(tmp_path / "state", "this", every=0.0))
    found = fitted(there, valid, cell, Saved(tmp_path / "state", "this", every=0.0))
    expected = fitted(there, valid, cell)
    assert found.history == expected.history
    assert all(torch.equal(value, expected.state[key]) for key, value in found.state.items())
