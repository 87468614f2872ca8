"""The project's own params.yaml: every block is whole, and says every value that it sets."""

import copy
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

from befa import config
from befa.adapters import ADAPTERS
from befa.cell_names import cell_stage, host_name, listed
from befa.cells import BLOCKS, Cell, OptimizerConfig, TrainingConfig
from befa.datasets import DatasetConfig
from befa.errors import ConfigError
from befa.models import MODELS

ROOT = Path(__file__).parent.parent
PARAMS = config.read_params(ROOT / "params.yaml")
WITHOUT_CONTENT = ("bpr", "lightgcn", "item_knn")
"""That an adapter could change: ItemKNN's is the encoder's own."""
LISTS = config.read_params(ROOT / "pipelines/cells.yaml")


def test_an_adapter_without_a_modality_is_an_error():
    params = {**PARAMS, "features": {"demo": {"modalities": []}}}
    with pytest.raises(ConfigError, match=r"features\.demo has no modality, so the adapter befa would change nothing"):
        Cell.from_params(params, "demo", "clip_small", "bm3", "befa")
    assert Cell.from_params(params, "demo", "clip_small", "bm3", "none").features.modalities == ()


@pytest.mark.parametrize("dataset", PARAMS["datasets"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_cell_is_configured(dataset, model, adapter):
    if model in WITHOUT_CONTENT and adapter != "none":
        with pytest.raises(
            ConfigError, match=f"{model} makes no content, so the adapter {adapter} would change nothing"
        ):
            Cell.from_params(PARAMS, dataset, "clip_small", model, adapter)
        return
    assert Cell.from_params(PARAMS, dataset, "clip_small", model, adapter).model == model


@pytest.mark.parametrize("line", ["foo", [1], {"bfea": {"network": {"dropout": 0.1}}}])
def test_what_is_misspelt_below_tuned_is_an_error(line):
    params = PARAMS | {"tuned": PARAMS["tuned"] | {"demo-clip_small-bm3": line}}
    with pytest.raises(ConfigError, match=r"tuned.*demo-clip_small-bm3"):
        Cell.from_params(params, "demo", "clip_small", "bm3", "none")


@pytest.mark.parametrize(("block", "value", "says"), [
    ("training.demo.seeds", [2**63], "less than 9223372036854775808"),
    ("training.demo.seeds", [1, 1], "one is given twice"),
    ("features.demo.modalities", ["image", "image"], "one is given twice"),
    ("features.demo.modalities", ["image", "type"], "'type' cannot be a modality's name; take type_given, say"),
])  # fmt: skip
def test_values_that_would_fail_later_are_errors_now(block, value, says):
    params, (name, dataset, key) = dict(PARAMS), block.split(".")
    params[name] = params[name] | {dataset: params[name][dataset] | {key: value}}
    with pytest.raises(ConfigError, match=says):
        Cell.from_params(params, "demo", "clip_small", "bm3", "befa")


@pytest.mark.parametrize(("name", "meant"), [("protcol", "protocol"), ("tunning", "tuning"), ("dataset_s", "datasets")])
def test_a_misspelt_block_is_an_error_and_one_of_ones_own_is_not(name, meant):
    with pytest.raises(ConfigError, match=f"no block is called '{name}' in params.yaml; is '{meant}' meant"):
        Cell.from_params(PARAMS | {name: {}}, "demo", "clip_small", "bm3", "none")
    assert Cell.from_params(PARAMS | {"shops": {}, "x-mine": 1}, "demo", "clip_small", "bm3", "none")
    assert set(BLOCKS) == set(PARAMS)


def test_a_key_that_a_model_does_not_know_is_an_error():
    models = PARAMS["models"] | {"bm3": PARAMS["models"]["bm3"] | {"optimiser": {"learning_rate": 0.5}}}
    with pytest.raises(ConfigError, match=r"key under models\.bm3 .* 'optimiser'; did you mean 'optimizer'"):
        Cell.from_params(PARAMS | {"models": models}, "demo", "clip_small", "bm3", "none")


def test_two_datasets_and_encoders_of_one_name_in_the_graph_are_an_error():
    params = copy.deepcopy(PARAMS)
    params["datasets"] |= {"shop": params["datasets"]["demo"], "shop-eu": params["datasets"]["demo"]}
    params["encoders"] |= {"eu-clip": params["encoders"]["clip"]}
    with pytest.raises(ConfigError, match=r"shop-eu with clip, and shop with eu-clip, are both shop-eu-clip"):
        Cell.from_params(params, "demo", "clip_small", "bm3", "none")


def test_every_listed_cell_is_one_of_the_configured():
    known = {(block["dataset"], block["encoder"]) for block in LISTS["encodings"].values()}
    for cell in listed(LISTS).values():
        assert Cell.from_params(PARAMS, cell.dataset, cell.encoder, cell.model, cell.adapter)
        assert (cell.dataset, cell.encoder) in known, cell.name


def test_a_datasets_learning_rate_takes_the_place_of_the_models_and_a_tuned_one_of_both():
    params = copy.deepcopy(PARAMS)
    names = ("demo", "clip_small", "bm3", "befa")
    params["models"]["bm3"]["optimizer"]["learning_rate"] = 0.5
    for dataset_rate, tuned, wanted in (
        (None, {}, 0.5),
        (0.25, {}, 0.25),
        (0.25, {"optimizer": {"decay": 0.5}}, 0.25),
        (0.25, {"optimizer": {"learning_rate": 0.125}}, 0.125),
    ):
        params["training"]["demo"]["learning_rate"] = dataset_rate
        params["tuned"] = {"demo-clip_small-bm3": {"befa": tuned}}
        cell = Cell.from_params(params, *names)
        assert (cell.optimizer.learning_rate, cell.training.learning_rate) == (wanted, None)


def test_a_control_stands_among_the_controls_and_nothing_else_does():
    """Their stages have other names and other deps."""
    line = {"dataset": "demo", "encoder": "clip", "model": "bm3", "adapter": "constant_gate"}
    with pytest.raises(ConfigError, match=r"under `cells` in pipelines/cells\.yaml; put it under `controls`"):
        listed({"cells": {"demo-clip-bm3-constant_gate": line}})
    with pytest.raises(ConfigError, match=r"under `controls` in pipelines/cells\.yaml; put it under `cells`"):
        listed({"controls": {"demo-clip-bm3-lora": line | {"adapter": "lora"}}})


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"dataset": "demo", "encoder": "clip", "model": "bm3"}, "missing key 'cells.demo-clip-bm3-none.adapter'"),
        (
            {"dataset": "demo", "encoder": "clip", "model": "bm3", "adapter": "lora"},
            "cells.demo-clip-bm3-none is a line of demo-clip-bm3-lora",
        ),
    ],
)
def test_a_wrong_line_names_the_file_that_it_stands_in(line, error):
    with pytest.raises(ConfigError, match=f"{error} in pipelines/cells.yaml"):
        listed({"cells": {"demo-clip-bm3-none": line}})


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_the_stages_of_a_cell_are_in_the_graph(step):
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for cell in listed(LISTS).values():
        stage, name = cell_stage(step, cell.dataset, cell.encoder, cell.model, cell.adapter).split("@")
        lists = graph[stage]["foreach"].removeprefix("${").removesuffix("}")
        assert name in LISTS[lists]


def test_dvc_can_set_a_value_for_one_experiment(tmp_path):
    """`dvc exp run -S`: what DVC writes then, it can read again, and nothing but the value is another."""
    copy = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    apply_overrides(copy, ["models.bm3.network.dropout=0.25"])
    expected = config.read_params(ROOT / "params.yaml")
    expected["models"]["bm3"]["network"]["dropout"] = 0.25
    assert load_yaml(copy) == config.read_params(copy) == expected


def test_every_host_has_a_line_for_what_is_tuned():
    """DVC takes a parameter that is not there for an error."""
    assert set(PARAMS["tuned"]) == {host_name(c.dataset, c.encoder, c.model) for c in listed(LISTS).values()}


def test_an_encodings_name_and_kind_are_those_of_its_blocks():
    for name, block in LISTS["encodings"].items():
        assert name == f"{block['dataset']}-{block['encoder']}"
        assert block["kind"] == PARAMS["encoders"][block["encoder"]]["kind"]


def test_a_block_leaves_nothing_to_defaults():
    """A number that changes a result stands in params.yaml, not only in the code."""
    blocks = {f"models.{name}.network": cls.Config for name, cls in MODELS.items()}
    blocks |= {f"models.{name}.optimizer": OptimizerConfig for name in MODELS}
    blocks |= {f"adapters.{name}": cls.Config for name, cls in ADAPTERS.items()}
    blocks |= {f"training.{name}": TrainingConfig for name in PARAMS["datasets"]}
    blocks |= {f"datasets.{name}": DatasetConfig for name in PARAMS["datasets"]}
    for name, kind in blocks.items():
        assert set(config.block(PARAMS, name)) == set(asdict(config.load(PARAMS, name, kind))), name
