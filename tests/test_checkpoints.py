"""What a checkpoint is of, and what is none."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from befa import checkpoints
from befa.building import load_problem
from befa.cells import Cell
from befa.errors import TrainingError
from befa.metrics import Interactions
from befa.problem import Content
from pipelines.stages import train
from tests.small_project import NAMES, small_project
from tests.test_training import small_problem


def test_the_data_are_all_that_a_model_is_trained_on():
    problem, valid = small_problem()
    content = problem.contents["image"]
    absent_I = content.present_I.clone()
    absent_I[0] = False
    later = valid.offsets.copy()
    later[1] += 1
    more = Content(torch.cat([content.values_Ic, content.values_Ic[:1]]), torch.cat([content.present_I, absent_I[1:2]]))
    last_user, last_item = problem.users_E.clone(), problem.items_E.clone()
    last_user[-1] += 1
    last_item[-1] += 1
    wider = replace(problem, n_users=problem.n_users + 1, n_items=problem.n_items + 1, contents={"image": more})
    others = [
        (replace(problem, n_users=problem.n_users + 1), valid),
        (replace(problem, n_items=problem.n_items + 1, contents={"image": more}), valid),
        (wider, valid),
        (replace(wider, users_E=last_user), valid),
        (replace(wider, items_E=last_item), valid),
        (replace(problem, contents={"text": content}), valid),
        (replace(problem, contents={"image": Content(2 * content.values_Ic, content.present_I)}), valid),
        (replace(problem, contents={"image": Content(content.values_Ic, absent_I)}), valid),
        (problem, Interactions(later, valid.items_E)),
        (problem, Interactions(valid.offsets, valid.items_E[::-1].copy())),
    ]
    assert len({checkpoints.data_sha256(*one) for one in [(problem, valid), *others]}) == 1 + len(others)


def lacking(state):
    return {name: x for name, x in state.items() if name != "predict.bias"}


def infinite(state):
    state["users"][0, 0] = torch.inf
    return state


@pytest.mark.parametrize(
    ("spoilt", "says"), [(lacking, "does not fit its configuration"), (infinite, "a parameter is not finite")]
)
def test_a_spoilt_state_is_told(tmp_path, spoilt, says):
    layout = small_project(tmp_path, epochs=1)
    train.run(*NAMES, layout)
    folder = layout.run(*NAMES)
    path = layout.checkpoint(folder, 1)
    state, about = checkpoints.read(path)
    checkpoints.write(path, spoilt(state), about)
    with pytest.raises(TrainingError, match=says):
        checkpoints.load_trained(layout, folder, Cell.read(layout.configuration(folder)), 1)


def test_a_configuration_that_was_edited_is_told(tmp_path):
    """Nothing else would tell: with more layers a model has the same parameters."""
    layout = small_project(tmp_path, epochs=1)
    train.run(*NAMES, layout)
    folder = layout.run(*NAMES)
    cell = Cell.read(layout.configuration(folder))
    replace(cell, network=replace(cell.network, layers=cell.network.layers + 1)).write(layout.configuration(folder))
    with pytest.raises(TrainingError, match=r"another configuration than config\.json .*; run dvc repro train@small"):
        checkpoints.load_trained(layout, folder, Cell.read(layout.configuration(folder)), 1)
    more = replace(cell, training=replace(cell.training, seeds=(1, 2)))  # changes nothing for the seed that is there
    more.write(layout.configuration(folder))
    checkpoints.load_trained(layout, folder, more, 1)
    path = layout.checkpoint(folder, 1)
    state, about = checkpoints.read(path)
    checkpoints.write(path, state, {"data_sha256": about["data_sha256"]})  # as the first ones were written
    checkpoints.load_trained(layout, folder, Cell.read(layout.configuration(folder)), 1)


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"about": "no JSON"}])
def test_a_file_of_another_program_is_no_checkpoint(tmp_path, metadata):
    save_file({"x": torch.zeros(2)}, tmp_path / "1.safetensors", metadata)
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        checkpoints.read(tmp_path / "1.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        checkpoints.read(tmp_path)


def test_a_parameter_that_is_no_block_of_memory_is_written(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    checkpoints.write(tmp_path / "x", {"x": x.T}, {})
    assert torch.equal(checkpoints.read(tmp_path / "x")[0]["x"], x.T)


def test_features_of_chance_are_those_of_the_seed(tmp_path):
    names = ("small", "made", "bm3", "random_features")
    layout = small_project(tmp_path, epochs=1, adapter="random_features")
    train.run(*names, layout)
    folder = layout.run(*names)
    cell = Cell.read(layout.configuration(folder))
    _, problem = checkpoints.load_trained(layout, folder, cell, 1)  # of another seed's features it would refuse
    found = problem.contents["audio"].values_Ic
    assert torch.equal(found, load_problem(layout, cell, 1).contents["audio"].values_Ic)
    assert not torch.equal(found, load_problem(layout, cell, 2).contents["audio"].values_Ic)
