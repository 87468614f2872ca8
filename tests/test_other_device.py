"""Training, validation and resuming on a device that is not the CPU: every tensor lies where it should.

With numbers of the CPU behind it, that device (other_device.py) must give the CPU's results.
"""

import math

import pytest
import torch
from conformance.test_models import EVERY, VARIANTS, WITHOUT_ADAPTERS
from other_device import OTHER, OtherDevice, OtherTensor
from test_training import small_cell, small_problem

from befa.adapters import ADAPTERS
from befa.building import build
from befa.cells import TrainingConfig
from befa.problem import Content, Problem
from befa.resuming import Saved
from befa.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # it does copy: numbers are held


def moved(problem, device=OTHER):
    contents = {name: Content(c.values_Ic.to(device), c.present_I.to(device)) for name, c in problem.contents.items()}
    pairs = problem.users_E.to(device), problem.items_E.to(device)
    return Problem(problem.n_users, problem.n_items, *pairs, contents)


def cell_of(name, variant, epochs=1):
    adapter, adaptation = VARIANTS["none" if name in WITHOUT_ADAPTERS else variant]
    return small_cell(
        name,
        adapter,
        adaptation=ADAPTERS[adapter].Config(**adaptation),
        training=TrainingConfig(epochs=epochs, batch_size=64),
    )


def fitted(problem, valid, cell, saved=None):
    return fit(build(problem, cell, 1), problem, valid, cell, 1, saved=saved)


def with_an_absent_item(problem):
    image = problem.contents["image"]
    present = image.present_I.clone()
    present[3] = False
    absent = Content(torch.where(present[:, None], image.values_Ic, 0), present)
    return Problem(problem.n_users, problem.n_items, problem.users_E, problem.items_E, {"image": absent})


def assert_the_same(found, expected):
    for one, other in zip(found.history, expected.history, strict=True):
        assert all(math.isclose(one[key], value, rel_tol=1e-5) for key, value in other.items())
    assert not any(isinstance(value, OtherTensor) for value in found.state.values())
    torch.testing.assert_close(found.state, expected.state, rtol=1e-4, atol=1e-5)


@EVERY
def test_every_cell_trains_there_as_on_the_cpu(name, variant):
    problem, valid = small_problem()
    problem, cell = with_an_absent_item(problem), cell_of(name, variant)
    expected = fitted(problem, valid, cell)
    with OtherDevice():
        assert_the_same(fitted(moved(problem), valid, cell), expected)


@pytest.mark.parametrize("name", ["bm3", "lattice"])  # without and with a state that is renewed once an epoch
def test_a_training_is_taken_up_there(name, tmp_path):
    problem, valid = small_problem()
    cell = cell_of(name, "befa", epochs=2)
    expected = fitted(problem, valid, cell)
    with OtherDevice():
        there = moved(problem)
        fitted(there, valid, cell_of(name, "befa", epochs=1), Saved(tmp_path / "state", "this", every=0.0))
        assert_the_same(fitted(there, valid, cell, Saved(tmp_path / "state", "this", every=0.0)), expected)


def test_a_tensor_that_was_left_behind_is_an_error():
    with OtherDevice(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(3).to(OTHER) + torch.ones(3)


def test_indices_may_lie_on_the_cpu_but_neither_what_they_index_nor_what_is_put_there():
    index = torch.tensor([0, 2])
    with OtherDevice():
        there = torch.ones(3).to(OTHER)
        assert isinstance(there[index], OtherTensor)
        there[index] = 0.0
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3)[index.to(OTHER)]
        with pytest.raises(RuntimeError, match="same device"):
            there[index] = torch.ones(2)
