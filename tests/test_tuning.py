"""Tuning: equal budgets, validation alone, the same bytes after kills, and what a user reads of it."""

import json
import logging
import multiprocessing
import time
from dataclasses import asdict, replace

import optuna
import pyarrow.compute as pc
import pytest
import torch
from ruamel.yaml import YAML

from befa import config, splits, tables
from befa.cell_names import LEADERS
from befa.cells import Cell
from befa.errors import BefaError, ConfigError, DataError, TrainingError
from befa.report.tuning import sentence
from befa.search_space import Space, combination, size
from befa.tuning import TuningConfig, Watch, search
from pipelines.stages import tune
from tests.processes import killed_until_done
from tests.small_project import NAMES, small_project

CELL, BASE = "small-made-bm3-befa", "small-made-bm3-none"
CONTROLS = ("constant_gate", "random_features", "shuffled_features", "befa_fixed", "none_fixed")
SPACE = {
    "optimizer": {"learning_rate": [0.001, 0.01, 0.05, 0.1]},
    "models": {"bm3": {"layers": [1, 2], "dropout": [0.1, 0.3, 0.5]}},
    "adapters": {"befa": {"width": [1, 2, 4], "dropout": {"low": 0.1, "high": 0.7}}},
}


def project(root, *, space=SPACE, epochs=4, patience=50, monitor="ndcg@5", rate=0.002, **tuning):
    """The small project with a tuning block, the cell and its base."""
    layout = small_project(root, epochs=epochs, patience=patience)
    params = config.read_params(layout.params)
    params["training"]["small"]["learning_rate"] = rate
    params["training"]["small"]["monitor"] = monitor
    params["adapters"] |= {adapter: {} for adapter in ("none", *CONTROLS)}
    names = ("dataset", "encoder", "model", "adapter")
    lines = {f"small-made-bm3-{a}": dict(zip(names, (*NAMES[:3], a), strict=True)) for a in ("none", "befa")}
    layout.cells.parent.mkdir(exist_ok=True)
    layout.cells.write_text(json.dumps({"cells": lines}))  # YAML too
    params["tuned"] = {"small-made-bm3": {}}
    params["tuning"] = {"trials": 6, "space": space, **tuning}
    write(layout, params)
    return layout


def tuned(layout, adapter):
    return config.read_params(layout.params)["tuned"]["small-made-bm3"].get(adapter, {})


def write(layout, params):
    with layout.params.open("w") as file:
        YAML(typ="safe").dump(params, file)


def change(layout, **values):
    params = config.read_params(layout.params)
    params["tuning"] |= values
    write(layout, params)


class Seen(Watch):
    """Notes the trial of every epoch that is trained."""

    def __init__(self, numbers):
        self.numbers = numbers

    def epoch(self, number, row, best):
        self.numbers.append(number)


def searched(layout, adapter="befa", *, code="this", seen=None):
    """One cell's search, without the stage."""
    params = config.read_params(layout.params)
    cfg = config.load(params, "tuning", TuningConfig)
    watch = Seen([] if seen is None else seen)
    return search(layout, params, (*NAMES[:3], adapter), cfg, code=code, watch=watch)


def outputs(layout):
    path = layout.tuning(*NAMES)
    return [each.read_bytes() for each in (path, path.with_suffix(".png"), layout.params)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tuning that was not disturbed."""
    layout = project(tmp_path_factory.mktemp("done"))
    tune.run(*NAMES, layout)
    return layout, tables.read_json(layout.tuning(*NAMES))


def test_base_and_adapted_have_the_same_budget_and_host_settings(done):
    _, result = done
    base, adapted = result["studies"]["none"], result["studies"]["befa"]
    for study in (base, adapted):
        assert [trial["number"] for trial in study["trials"]] == list(range(6))
        assert len({json.dumps(trial["settings"]) for trial in study["trials"]}) == 6
    hosts = {"optimizer.learning_rate", "network.layers", "network.dropout"}
    assert base["space"].keys() == hosts
    assert adapted["space"].keys() - hosts == {"adaptation.width", "adaptation.dropout"}
    assert all(base["space"][name] == adapted["space"][name] for name in hosts)
    assert result["budget"] == {"trials": 6, "sampler": "tpe", "seed": 1, "pruning": True}
    assert (base["combinations"], adapted["combinations"]) == (24, None)


def test_the_untuned_settings_are_the_first_trial_of_both(done):
    """Also those outside the space: the learning rate of the dataset, which no choice is."""
    for study in done[1]["studies"].values():
        first = study["trials"][0]
        assert first["settings"]["optimizer.learning_rate"] == 0.002
        assert first["settings"]["network.layers"] == 1
        assert first["value"] <= study["trials"][study["winner"]]["value"]


def test_the_winners_are_what_a_cell_is_made_of_from_then_on(done):
    layout, result = done
    params = config.read_params(layout.params)
    for adapter, study in result["studies"].items():
        values = [trial["value"] if trial["state"] == "complete" else -1 for trial in study["trials"]]
        assert study["winner"] == values.index(max(values)) != 0
        settings = study["trials"][study["winner"]]["settings"]
        cell = Cell.from_params(params, *NAMES[:3], adapter)
        # in place of training.small.learning_rate too
        assert cell.training.learning_rate is None
        assert cell.optimizer.learning_rate == settings["optimizer.learning_rate"]
        assert (cell.network.layers, cell.network.dropout) == (settings["network.layers"], settings["network.dropout"])
    assert cell.adaptation.width == settings["adaptation.width"]
    assert cell.adaptation.dropout == settings["adaptation.dropout"]


def test_a_winners_value_is_that_of_the_cell_that_is_trained_with_it(done):
    from pipelines.stages import train

    layout, result = done
    train.run(*NAMES, layout)
    history = (layout.run(*NAMES) / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("ndcg@5")
    best = max(float(line.split(",")[column]) for line in history[1:])
    study = result["studies"]["befa"]
    assert best == study["trials"][study["winner"]]["value"]


def test_controls_have_the_settings_of_what_they_control(done):
    layout, result = done
    base, adapted = (result["studies"][adapter]["tuned"] for adapter in ("none", "befa"))
    assert base != adapted
    params = config.read_params(layout.params)
    leaders = {adapter: Cell.from_params(params, *NAMES[:3], adapter) for adapter in ("none", "befa")}
    assert (tuned(layout, "none"), tuned(layout, "befa")) == (base, adapted)
    for control in CONTROLS:
        cell, leader = Cell.from_params(params, *NAMES[:3], control), leaders[LEADERS[control]]
        assert (cell.optimizer, cell.adaptation, cell.training) == (
            leader.optimizer,
            leader.adaptation,
            leader.training,
        )
        assert replace(cell.network, trainable_features=True) == leader.network


def test_the_test_part_is_not_read(done, tmp_path, monkeypatch):
    layout, path = project(tmp_path), None
    path = layout.split("small")
    table = tables.read_table(path)
    tables.write_table(path, table.filter(pc.not_equal(table["split"], "test")))
    read = splits.read
    monkeypatch.setattr(splits, "read", lambda at, part: read(at, part) if part != "test" else pytest.fail("read"))
    tune.run(*NAMES, layout)
    assert outputs(layout) == outputs(done[0])


def test_the_result_is_the_same_from_any_folder_and_again(done):
    layout, _ = done
    before = outputs(layout)
    tune.run(*NAMES, layout)
    assert outputs(layout) == before


def tunes(layout, seconds):
    """The stage in a process of its own; `seconds` are waited for in every epoch."""

    def work():
        original = torch.Tensor.backward
        torch.Tensor.backward = lambda *given, **named: (time.sleep(seconds), original(*given, **named))[1]
        tune.run(*NAMES, layout)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_any_number_of_kills_changes_no_byte(done, tmp_path):
    layout = project(tmp_path)
    code, kills = killed_until_done(lambda: tunes(layout, seconds=0.005), most=7, longest=0.6)
    assert code == 0
    assert kills >= 3
    assert outputs(layout) == outputs(done[0])


def epochs_trained(monkeypatch):
    """A list that grows by a trial's number whenever a search trains an epoch of it."""
    seen, epoch = [], tune._Watch.epoch
    monkeypatch.setattr(
        tune._Watch, "epoch", lambda self, number, *rest: (seen.append(number), epoch(self, number, *rest))
    )
    return seen


def test_more_trials_go_on_and_fewer_show_the_beginning(done, tmp_path):
    layout, seen = project(tmp_path, trials=4), []
    few = searched(layout)
    change(layout, trials=6)
    more = searched(layout, seen=seen)
    assert set(seen) == {4, 5}
    assert [asdict(trial) for trial in more.trials] == done[1]["studies"]["befa"]["trials"]
    assert more.tuned == done[1]["studies"]["befa"]["tuned"]
    seen.clear()
    change(layout, trials=4)
    assert searched(layout, seen=seen) == few
    assert seen == []


@pytest.mark.parametrize("changed", ["space", "data", "training", "seed", "pruning", "code"])
def test_a_study_of_something_else_is_not_continued(tmp_path, caplog, changed):
    layout = project(tmp_path, trials=1)
    first, seen = searched(layout), []
    assert searched(layout, seen=seen) == first
    assert seen == []
    params = config.read_params(layout.params)
    if changed == "space":
        params["tuning"]["space"] = SPACE | {"optimizer": {"learning_rate": [0.001, 0.01]}}
    elif changed == "data":
        table = tables.read_table(layout.split("small"))
        tables.write_table(layout.split("small"), table.slice(1))
    elif changed == "training":
        params["training"]["small"]["batch_size"] = 16
    elif changed == "seed":
        params["tuning"]["seed"] = 2
    elif changed == "pruning":
        params["tuning"]["pruning"] = False
    write(layout, params)
    with caplog.at_level("INFO", "befa"):
        searched(layout, seen=seen, code="another" if changed == "code" else "this")
    assert set(seen) == {0}
    assert "other data, code, processor, configuration or space than before: trials start over" in caplog.text


def test_trials_that_fall_behind_are_pruned_and_said_to_be(tmp_path):
    space = {"optimizer": {"learning_rate": [0.00001, 0.00002, 0.00005, 0.02, 0.05, 0.1]}}
    options = {"space": space, "epochs": 8, "patience": 3, "trials": 7, "rate": 0.03}
    pruned, whole = (searched(project(tmp_path / str(on), pruning=on, **options)).trials for on in (True, False))
    states = [trial.state for trial in pruned]
    assert "pruned" in states
    assert states[:5] == ["complete"] * 5
    assert {trial.state for trial in whole} == {"complete"}
    for trial in pruned:
        if trial.state == "pruned":
            assert 3 < trial.epochs < 8  # never before `patience` epochs
            assert 0 < trial.value < max(other.value for other in pruned)


def test_a_pruned_trial_does_not_win(tmp_path, monkeypatch):
    """Whatever its value is: it is that of fewer epochs, which the cell would not be trained for."""
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: self.number > 0)
    result = searched(project(tmp_path))
    assert [trial.state for trial in result.trials] == ["complete"] + ["pruned"] * 5
    assert max(trial.value for trial in result.trials[1:]) > result.trials[0].value
    assert result.winner.number == 0


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_finite_space_is_tried_to_its_end_and_nothing_twice(tmp_path, sampler):
    space = {"optimizer": {"learning_rate": [0.002, 0.01]}, "models": {"bm3": {"layers": [1, 2]}}}
    result = searched(project(tmp_path, space=space, trials=9, sampler=sampler), "none")
    assert len(result.trials) == len({json.dumps(trial.settings) for trial in result.trials}) == result.size == 4
    assert "of 4 trials, all that there are" in sentence(result, "ndcg@5")


@pytest.mark.parametrize(
    ("trials", "ended", "told"), [(2, 2, "of 2 trials,"), (9, 3, "of 3 trials, all that there are")]
)
def test_untuned_settings_outside_of_the_space_are_none_of_its_combinations(tmp_path, trials, ended, told):
    space = {"optimizer": {"learning_rate": [0.0123, 0.0234]}, "models": {}}
    result = searched(project(tmp_path, space=space, trials=trials), "none")
    assert (len(result.trials), result.size, result.exhausted) == (ended, 2, ended == 3)
    assert told in sentence(result, "ndcg@5")
    assert ("all that there are" in sentence(result, "ndcg@5")) == result.exhausted


def test_of_equals_the_earlier_trial_wins(tmp_path):
    """recall@20 of 16 items is 1, whatever is recommended."""
    layout = project(tmp_path, space={"models": {"bm3": {"layers": [2, 3]}}}, monitor="recall@20")
    result = searched(layout)
    assert [trial.value for trial in result.trials] == [1.0, 1.0, 1.0]
    assert (result.winner.number, result.tuned) == (0, {})


def test_a_trial_whose_loss_is_no_number_is_told_and_not_the_end(tmp_path):
    space = {"optimizer": {"learning_rate": [0.01, 1e30]}}
    result = searched(project(tmp_path, space=space))
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert [trial.settings["optimizer.learning_rate"] for trial in failed] == [1e30]
    assert failed[0].error.startswith("the loss is nan at epoch")
    assert failed[0].value is None
    assert len(result.trials) == 3
    assert result.winner.state == "complete"
    assert "of 3 trials (1 failed)" in sentence(result, "ndcg@5")


def test_a_search_in_which_everything_fails_is_an_error(tmp_path):
    layout = project(tmp_path, space={}, rate=1e30)
    with pytest.raises(TrainingError, match="all 1 trials failed, the first with: the loss is nan"):
        tune.run(*NAMES, layout)
    assert not layout.tuning(*NAMES).exists()


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"optimizer": {"learning_rat": [1.0]}}, "unknown key 'tuning.space.optimizer.learning_rat'.*'learning_rate'"),
        ({"models": {"bm33": {}}}, "unknown model 'bm33'; did you mean 'bm3'"),
        ({"models": {"lattice": {"dropuot": [0.1]}}}, r"unknown key 'tuning\.space\.models\.lattice\.dropuot'"),
        ({"modles": {}}, "unknown key 'tuning.space.modles' .* 'models'"),
        ({"adapters": {"befa": {"width": [4.0, -1.0]}}}, r"'tuning\.space\.adapters\.befa\.width' is -1.0: .* greater"),
        ({"adapters": {"befa": {"width": [4.0, 4]}}}, r"tuning\.space\.adapters\.befa\.width has 4.0 twice"),
        ({"models": {"bm3": {"layers": {"low": 0.5, "high": 2}}}}, r"tuning\.space\.models\.bm3\.layers' is 0.5"),
        ({"models": {"bm3": {"layers": {"low": 3, "high": 1}}}}, r"tuning\.space\.models\.bm3\.layers is no range"),
        ({"models": {"bm3": {"layers": {"low": 1, "hihg": 2}}}}, r"unknown key 'tuning.*layers\.hihg'.*'high'"),
        ({"models": {"bm3": {"layers": {"low": 1, "high": 4, "step": 0.5}}}}, "no range .its step is no whole number"),
        ({"models": {"bm3": {"layers": {"low": 1, "high": 4, "step": 0}}}}, r"layers\.step' is 0: .* greater"),
        ({"models": {"bm3": {"layers": []}}}, "give a list of choices"),
        ({"models": {"bm3": {"layers": 2}}}, "give a list of choices"),
        ({"adapters": {"befa": {"variant": {"low": "a", "high": "b"}}}}, "befa.variant"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_told_before_anything_is_trained(tmp_path, monkeypatch, space, says):
    layout = project(tmp_path, space=space)
    seen = epochs_trained(monkeypatch)
    with pytest.raises(ConfigError, match=says):
        tune.run(*NAMES, layout)
    assert seen == []
    assert not layout.study(*NAMES).exists()


def test_the_grid_needs_a_finite_space(tmp_path):
    layout = project(tmp_path, sampler="grid")
    with pytest.raises(ConfigError, match=r"sampler grid needs a finite space.*; give the range a step"):
        tune.run(*NAMES, layout)


def test_ranges_are_whole_numbers_where_the_setting_is_one(tmp_path):
    space = {
        "optimizer": {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
        "models": {
            "bm3": {"layers": {"low": 1, "high": 5, "step": 2}, "dropout": {"low": 0, "high": 0.5, "step": 0.25}}
        },
    }
    layout = project(tmp_path, space=space, sampler="random", epochs=1, trials=8)
    for settings in (trial.settings for trial in searched(layout).trials):
        assert settings["network.layers"] in (1, 3, 5)
        assert type(settings["network.layers"]) is int
        assert settings["network.dropout"] in (0, 0.25, 0.5)
        assert 0.001 <= settings["optimizer.learning_rate"] <= 0.1
    cfg = config.load({"tuning": {"space": {"models": {"bm3": space["models"]["bm3"]}}}}, "tuning", TuningConfig)
    assert size(cfg.space.distributions({}, "bm3", "none")) == 9


def test_a_range_in_steps_has_each_of_its_numbers_once_whatever_their_last_digit(tmp_path):
    """0.1 + 3 * 0.2 is above 0.7, and 0.7 + 2 * 0.1 is not the 0.9 that the cell has untuned."""
    layout = project(tmp_path, space={"models": {"bm3": {"dropout": {"low": 0.1, "high": 0.7, "step": 0.2}}}}, epochs=1)
    params = config.read_params(layout.params)
    params["models"]["bm3"]["network"]["dropout"] = 0.3
    params["tuning"]["sampler"] = "grid"
    write(layout, params)
    result = searched(layout)
    assert result.exhausted
    assert sorted(trial.settings["network.dropout"] for trial in result.trials) == pytest.approx([0.1, 0.3, 0.5, 0.7])
    space = {"models": {"bm3": {"dropout": {"low": 0.7, "high": 0.9, "step": 0.1}}}}
    distributions = config.load({"tuning": {"space": space}}, "tuning.space", Space).distributions({}, "bm3", "none")
    written, counted = ({"network.dropout": value} for value in (0.9, 0.7 + 2 * 0.1))
    assert written != counted
    assert combination(distributions, written) == combination(distributions, counted)


def test_a_broken_block_of_another_model_in_the_space_is_told(tmp_path):
    layout = project(tmp_path, space={"models": {"lattice": {"dropout": [0.1]}}})
    params = config.read_params(layout.params)
    write(layout, {**params, "models": {**params["models"], "lattice": 5}})
    with pytest.raises(ConfigError, match=r"'models\.lattice' is 5, and no block"):
        tune.run(*NAMES, layout)


def test_a_cell_that_is_not_listed_or_a_control_is_an_error_before_anything_is_trained(tmp_path):
    layout = project(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no cell small-made-bm3-lora .*add-cells small made --model bm3 --adapter lora"
    ):
        tune.run(*NAMES[:3], "lora", layout)
    with pytest.raises(ConfigError, match="constant_gate is a control: it has the settings of befa"):
        tune.run(*NAMES[:3], "constant_gate", layout)


def test_the_base_alone_can_be_tuned(tmp_path):
    layout = project(tmp_path, trials=3)
    tune.run(*NAMES[:3], "none", layout)
    assert tables.read_json(layout.tuning(*NAMES[:3], "none"))["studies"].keys() == {"none"}
    assert tuned(layout, "none") != {}
    assert tuned(layout, "befa") == {}


def test_adopt_writes_the_winners_again(done, tmp_path):
    """As after `git checkout params.yaml` and a `dvc repro` that brought the result from the cache."""
    layout = project(tmp_path)
    with pytest.raises(DataError, match=r"has not been tuned in .*run dvc repro tune@small-made-bm3-befa"):
        tune.adopt(*NAMES, layout)
    tables.write_json(layout.tuning(*NAMES), done[1])
    tune.adopt(*NAMES, layout)
    for adapter in ("none", "befa"):
        assert tuned(layout, adapter) == done[1]["studies"][adapter]["tuned"]


def test_a_winner_that_no_longer_fits_is_not_adopted(done, tmp_path):
    layout = project(tmp_path)
    result = json.loads(json.dumps(done[1]))
    result["studies"]["befa"]["tuned"]["network"] = {"gone": 1}
    tables.write_json(layout.tuning(*NAMES), result)
    before = layout.params.read_bytes()
    with pytest.raises(BefaError, match="gone"):
        tune.adopt(*NAMES, layout)
    assert layout.params.read_bytes() == before


def test_a_broken_study_is_told(tmp_path):
    layout = project(tmp_path)
    layout.study(*NAMES[:3], "none").parent.mkdir(parents=True)
    layout.study(*NAMES[:3], "none").write_bytes(b"this is no database, whatever its name says" * 99)
    with pytest.raises(DataError, match=r"no readable study .*none\.sqlite; remove it"):
        tune.run(*NAMES, layout)


def test_optuna_writes_to_logging_alone(tmp_path):
    optuna.logging.enable_default_handler()
    optuna.logging.disable_propagation()
    searched(project(tmp_path, trials=2))
    logger = logging.getLogger("optuna")
    assert logger.propagate
    assert not any(type(handler) is logging.StreamHandler for handler in logger.handlers)  # pytest adds its own kinds
    assert not logger.isEnabledFor(logging.INFO)  # a line for every study that is made to draw a trial
