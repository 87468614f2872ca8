"""Problems and interactions from arrays; the examples of docs/in-your-own-code.md run."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from befa.adapters import ADAPTERS
from befa.arrays import interactions_of, problem_of
from befa.building import build
from befa.cells import Cell, FeaturesConfig, OptimizerConfig, TrainingConfig
from befa.errors import BefaError, ConfigError, DataError, FeatureError
from befa.metrics import means, metrics_per_user
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.rng import numpy_stream, stream
from befa.training import fit

PAGE = Path(__file__).parents[1] / "docs/in-your-own-code.md"
ADAPTER, MODEL = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def cell_of(model="bm3", adapter="befa", **changed):
    features = FeaturesConfig(**{"modalities": ("image",), "max_missing": 0.5} | changed.pop("features", {}))
    parts = {
        "network": MODELS[model].Config(),
        "adaptation": ADAPTERS[adapter].Config(),
        "optimizer": OptimizerConfig(),
        "training": TrainingConfig(epochs=2, batch_size=8),
    }
    names = {"dataset": "mine", "encoder": "mine", "model": model, "adapter": adapter, "protocol": "clean"}
    return Cell(**names, **(parts | changed), features=features)


def made(users=(2, 0, 2, 1, 2), items=(1, 3, 0, 3, 1), images=None, cell=None, seed=1):
    images = np.array([[1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [0.0, -1.0]]) if images is None else images
    return problem_of(cell or cell_of(), seed, users, items, 4, 4, {"image": images})


@pytest.mark.parametrize("form", [np.array, list, pd.Series, torch.tensor, lambda ids: np.array(ids, dtype=np.uint8)])
def test_a_problem_from_arrays_is_that_of_its_set_of_pairs(form):
    problem = made(form([2, 0, 2, 1, 2]), form([1, 3, 0, 3, 1]))
    assert torch.stack([problem.users_E, problem.items_E]).T.tolist() == [[0, 3], [1, 3], [2, 0], [2, 1]]
    assert problem.users_E.dtype == problem.items_E.dtype == torch.int64
    content = problem.contents["image"]
    assert content.present_I.tolist() == [True, False, False, True]
    assert content.values_Ic.tolist() == [[1, 2], [0, 0], [0, 0], [0, -1]]
    test = interactions_of(form([2, 0, 2, 1, 2]), form([1, 3, 0, 3, 1]), 4, 4)
    assert (test.offsets.tolist(), test.items_E.tolist()) == ([0, 1, 2, 4, 4], [3, 3, 0, 1])


@pytest.mark.parametrize("form", [
    lambda values: values.requires_grad_(), lambda values: values.bfloat16(), lambda values: values.double(),
])  # fmt: skip
def test_features_may_be_tensors_of_any_kind(form):
    values = torch.tensor([[1.0, 2.0], [0.0, 0.5], [4.0, 1.0], [0.0, -1.0]])
    assert torch.equal(made(images=form(values.clone())).contents["image"].values_Ic, values)


def test_validation_of_others_is_an_error():
    cell, problem = cell_of(), made()
    for valid in (interactions_of([0], [0], 5, 4), interactions_of([0], [5], 4, 6)):
        with pytest.raises(DataError, match=r"validation of .* the problem has 4 users and 4 items"):
            fit(build(problem, cell, 1), problem, valid, cell, 1, lambda *_: None)


def test_an_evaluation_of_nobody_is_an_error():
    with pytest.raises(DataError, match="no user is evaluated"):
        means(metrics_per_user(np.empty((0, 4), int), np.empty(0, int), interactions_of([], [], 4, 4)))


def test_presence_is_that_of_the_numbers_as_they_are_used(caplog):
    """Beyond float32's range a row is infinite, and below it zero."""
    problem = made(images=[[1e300, 0], [1e-60, 0], [1, 0], [0, 1]])
    assert problem.contents["image"].present_I.tolist() == [False, False, True, True]
    assert "2 of 4 items have no image" in caplog.text


def test_absent_items_are_treated_as_the_cell_says():
    images = [[2.0, 0], [0, 4], [0, 0], [0, 2]]
    content = made(images=images, cell=cell_of(features={"missing": "mean"})).contents["image"]
    assert content.present_I.all()
    torch.testing.assert_close(content.values_Ic[2], torch.tensor([2 / 3, 2.0]))
    with pytest.raises(FeatureError, match=r"25\.0% of items have no image \(allowed 10\.0%; first: 2\); find"):
        made(images=images, cell=cell_of(features={"max_missing": 0.1}))


def test_a_control_has_its_own_features():
    images = np.arange(1.0, 9).reshape(4, 2)
    given, random, shuffled = (
        made(images=images, cell=cell_of(adapter=adapter)).contents["image"].values_Ic.numpy()
        for adapter in ("befa", "random_features", "shuffled_features")
    )
    np.testing.assert_array_equal(given, images)
    assert not np.isin(random, images).any()
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), images)
    other = made(images=images, cell=cell_of(adapter="random_features"), seed=2).contents["image"].values_Ic.numpy()
    assert not np.array_equal(random, other)


@pytest.mark.parametrize(("pairs", "says"), [
    ((["u0", "u1"], [0, 1]), r"users have shape \(2,\) and type <U2; number the users from 0, as pandas"),
    (([0.7, 1.2], [0, 1]), "users have shape .* and type float64; number"),
    (([[0, 1]], [0, 1]), r"users have shape \(1, 2\)"),
    (([0, 1], [0]), "2 users and 1 items; give one of each a pair"),
    (([0, 4], [0, 1]), "user ids from 0 to 4, of 4 users; ids count users from 0"),
    (([0, 1], [-1, 1]), "item ids from -1 to 1, of 4 items; ids count items from 0"),
])  # fmt: skip
def test_ids_that_are_none_are_an_error(pairs, says):
    with pytest.raises(DataError, match=says):
        made(*pairs)
    with pytest.raises(DataError, match=says):
        interactions_of(*pairs, 4, 4)


def test_a_pair_in_two_parts_is_an_error():
    train = made().train
    assert interactions_of([2, 0], [3, 1], 4, 4, apart_from=[train]).counts.tolist() == [1, 0, 1, 0]
    with pytest.raises(DataError, match=r"1 of 2 pairs are in another part too \(first: user 2, item 1\); leave each"):
        interactions_of([2, 0], [1, 1], 4, 4, apart_from=[interactions_of([], [], 4, 4), train])


@pytest.mark.parametrize(("images", "says"), [
    (np.ones(4), r"image has shape \(4,\) and type float64, of 4 items; give each item a row"),
    (np.ones((3, 2)), r"image has shape \(3, 2\)"),
    (np.ones((4, 2, 2)), r"image has shape \(4, 2, 2\)"),
    ([["a", "b"]] * 4, "type <U1"),
])  # fmt: skip
def test_features_of_another_form_are_an_error(images, says):
    with pytest.raises(FeatureError, match=says):
        made(images=images)


def test_modalities_are_the_cells():
    with pytest.raises(ConfigError, match=r"features of image, and the cell's are image, text; FeaturesConfig\(modal"):
        made(cell=cell_of(features={"modalities": ("image", "text")}))


def test_no_pairs_are_a_problem_too():
    assert len(made([], []).users_E) == 0


@pytest.mark.parametrize(("changed", "says"), [
    ({"users_E": torch.tensor([1, 0])}, "not unique and sorted by user, then item; make the problem by problem_of"),
    ({"items_E": torch.tensor([1, 1]), "users_E": torch.tensor([1, 1])}, "not unique and sorted"),
    ({"items_E": torch.tensor([1, 2], dtype=torch.int32)}, "int64 and torch.int32, are no pairs of int64"),
])  # fmt: skip
def test_pairs_that_a_model_would_take_for_others_are_an_error(changed, says):
    users, items = torch.tensor([[0, 1], [2, 0]])
    with pytest.raises(DataError, match=says):
        Problem(2, 3, **({"users_E": users, "items_E": items} | changed))


@pytest.mark.parametrize(("values", "mask", "says"), [
    (torch.ones(4, 2), torch.ones(4) > 0, r"image content is \(4, 2\) .* for 3 items; give each item a row"),
    (torch.ones(3, 0), torch.ones(3) > 0, "for 3 items"),
    (torch.ones(3, 2, 2), torch.ones(3) > 0, "for 3 items"),
    (torch.ones(3, 2).double(), torch.ones(3) > 0, "of torch.float64"),
    (torch.ones(3, 2), torch.ones(2) > 0, r"its mask \(2,\)"),
    (torch.ones(3, 2), torch.ones(3, 1) > 0, r"its mask \(3, 1\)"),
    (torch.ones(3, 2), torch.ones(3), "of torch.float32, for 3 items"),
    (torch.tensor([[1, 0], [torch.nan, 2], [0, torch.inf]]), torch.ones(3) > 0, "row 1 of image is not finite; make"),
])  # fmt: skip
def test_content_that_a_model_would_take_for_something_else_is_an_error(values, mask, says):
    content = Content(torch.ones(3, 2), torch.ones(3) > 0)
    for name, value in (
        ("values_Ic", values),
        ("present_I", mask),
    ):  # not at once: pytest checks the types, users do not
        object.__setattr__(content, name, value)
    with pytest.raises(DataError, match=says):
        content.check("image", 3)


@pytest.mark.parametrize(("changed", "says"), [
    ({"model": "bm33"}, "unknown model 'bm33'; did you mean 'bm3'"),
    ({"adapter": "beffa"}, "unknown adapter 'beffa'; did you mean 'befa'"),
    ({"model": "lattice"}, "network is a BM3Config, and lattice has a LatticeConfig; take the Config of"),
    ({"adapter": "lora"}, "adaptation is a BeFAConfig, and lora has a LoRAConfig"),
    ({"model": "bpr", "network": MODELS["bpr"].Config()}, "bpr makes no content, so the adapter befa would change"),
    ({"adapter": "befa_fixed", "adaptation": ADAPTERS["befa_fixed"].Config()}, "befa_fixed is for feature tables that"),
])  # fmt: skip
def test_a_cell_that_is_none_is_an_error(changed, says):
    with pytest.raises(ConfigError, match=says):
        build(made(), replace(cell_of(), **changed), 1)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_on_arrays(model):
    adapter = "befa" if hasattr(MODELS[model].Config, "trainable_features") else "none"
    cell = cell_of(model, adapter)
    problem = made(cell=cell)
    fitted = fit(build(problem, cell, 1), problem, interactions_of([0, 1], [0, 1], 4, 4), cell, 1)
    assert np.isfinite([row["loss"] for row in fitted.history]).all()


def test_a_seed_trains_the_same_from_arrays_in_another_order():
    def trained(order):
        cell = cell_of()
        problem = made(np.array([2, 0, 2, 1])[order], np.array([1, 3, 0, 3])[order], cell=cell)
        return fit(build(problem, cell, 1), problem, interactions_of([0, 1], [0, 1], 4, 4), cell, 1).history

    assert trained([0, 1, 2, 3]) == trained([3, 1, 0, 2])


def test_two_learning_rates_are_an_error_where_one_is_used():
    """And not before: a run that was trained when both were stored can still be read."""
    cell, problem = cell_of(training=TrainingConfig(learning_rate=0.5)), made()
    model = build(problem, cell, 1)
    with pytest.raises(ConfigError, match=r"two learning rates: 0\.5 of training, 0\.001; a cell's"):
        fit(model, problem, interactions_of([0, 1], [0, 1], 4, 4), cell, 1)


def test_without_validation_the_error_says_so():
    with pytest.raises(BefaError, match="no user has both training and validation interactions; give some"):
        fit(build(made(), cell_of(), 1), made(), interactions_of([], [], 4, 4), cell_of(), 1)


def test_the_documented_adapter_stands_in_another_model():
    example = {}
    exec(ADAPTER, example)
    model = example["YourModel"](5, torch.randn(5, 512, generator=stream(1, "features")))
    content = model.content(torch.tensor([4, 0, 4]))
    assert content.shape == (3, 64)
    content.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    model.eval()
    assert torch.equal(*(model.content(torch.arange(5)) for _ in range(2)))


def test_the_documented_run_learns_what_is_in_the_arrays(capsys, monkeypatch):
    """Users like one of two kinds of items; the last two that they took are asked for."""
    monkeypatch.setattr("befa.devices.deterministic", lambda threads: None)  # it is for a whole process
    rng, n_users, n_items = numpy_stream(1, "example"), 60, 40
    likes = rng.permuted(np.tile(np.arange(20), (n_users, 1)), axis=1)[:, :12] * 2 + np.arange(n_users)[:, None] % 2
    parts = {"": likes[:, :8], "valid_": likes[:, 8:10], "test_": likes[:, 10:]}
    given = {
        f"{part}{name}": ids
        for part, of in parts.items()
        for name, ids in (("users", np.repeat(np.arange(n_users), of.shape[1])), ("items", of.ravel()))
    }
    features = np.eye(2)[np.arange(n_items) % 2] + 0.1 * rng.standard_normal((n_items, 2))
    example = given | {"n_users": n_users, "n_items": n_items, "images": features, "texts": features}
    quicker = MODEL.replace("learning_rate=0.001", "learning_rate=0.01")
    exec(quicker.replace("epochs=1000, batch_size=2048", "epochs=40, batch_size=128"), example)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    found = example["means"](example["metrics_per_user"](example["top"], example["tested"], example["test"]))
    assert str(found) == lines[-1]
    assert found["recall@10"] > 0.8  # of the kind's ten that are left; chance: a third
