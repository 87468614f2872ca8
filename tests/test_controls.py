"""Controls: what random and shuffled features keep of the real ones, and what fixed feature tables are."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from befa import feature_store, tables
from befa.adapters import ADAPTERS
from befa.adapters.befa import BeFA
from befa.building import load_problem
from befa.cells import Cell, FeaturesConfig
from befa.checkpoints import load_trained, read
from befa.controls import controlled
from befa.errors import ConfigError
from befa.paths import Layout
from befa.rng import numpy_stream, stream
from pipelines.stages import train
from tests.adapters.test_befa import content_and_ids
from tests.small_project import small_project
from tests.test_training import small_cell

ITEMS = [f"item{number:02}" for number in range(30)]
ABSENT = 4


def made(values_Ic, present_I, use, seed=1):
    return controlled(values_Ic, present_I, use, rng=numpy_stream(seed, "control", "audio"))


def features(n_items, width=5):
    """Columns of different mean and spread; every tenth row absent, as NaN."""
    values_Ic = np.random.default_rng(0).gamma(2.0, size=(n_items, width)) * np.arange(1, width + 1) - 3
    present_I = np.arange(n_items) % 10 != ABSENT
    return np.where(present_I[:, None], values_Ic, np.nan).astype(np.float32), present_I


@pytest.mark.parametrize("use", ["given", "unused"])
def test_other_adapters_get_the_features_as_they_are(use):
    values_Ic, present_I = features(30)
    assert made(values_Ic, present_I, use) is values_Ic


@pytest.mark.parametrize("use", ["random", "shuffled"])
class TestBothControls:
    def test_absent_rows_stay_absent_and_present_ones_whole(self, use):
        values_Ic, present_I = features(30)
        made_Ic = made(values_Ic, present_I, use)
        assert made_Ic.dtype == np.float32
        assert np.isnan(made_Ic[~present_I]).all()
        assert np.isfinite(made_Ic[present_I]).all()

    def test_no_item_keeps_its_own(self, use):
        values_Ic, present_I = features(30)
        assert (made(values_Ic, present_I, use) != values_Ic)[present_I].any(1).all()

    def test_the_seed_decides_and_the_given_features_are_not_touched(self, use):
        values_Ic, present_I = features(30)
        before = values_Ic.copy()
        one, same, other = (made(values_Ic, present_I, use, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert (one != other)[present_I].any()
        np.testing.assert_array_equal(values_Ic, before)

    @pytest.mark.parametrize("n_present", [0, 1])
    def test_too_few_items_to_mix_are_survived(self, use, n_present):
        values_Ic, _ = features(3)
        present_I = np.arange(3) < n_present
        np.testing.assert_array_equal(made(values_Ic, present_I, use)[present_I], values_Ic[present_I])


def test_random_features_have_the_mean_and_spread_of_each_column():
    values_Ic, present_I = features(20_000)
    real_nc, made_nc = values_Ic[present_I], made(values_Ic, present_I, "random")[present_I]
    np.testing.assert_allclose(made_nc.mean(0), real_nc.mean(0), atol=0.05 * real_nc.std(0).max())
    np.testing.assert_allclose(made_nc.std(0), real_nc.std(0), rtol=0.03)


def test_random_features_know_nothing_of_the_real_ones():
    values_Ic, present_I = features(20_000)
    both = np.corrcoef(values_Ic[present_I].T, made(values_Ic, present_I, "random")[present_I].T)
    assert np.abs(both[:5, 5:]).max() < 0.04


def test_shuffled_features_are_the_real_ones_in_another_order():
    values_Ic, present_I = features(30)
    made_nc = made(values_Ic, present_I, "shuffled")[present_I]
    assert sorted(map(tuple, made_nc)) == sorted(map(tuple, values_Ic[present_I]))


@pytest.mark.parametrize("name", ["random_features", "shuffled_features"])
def test_the_control_itself_is_befa(name):
    kind, (x, ids) = ADAPTERS[name], content_and_ids(5, 8)
    control, befa = (cls(cls.Config(), 8, rng=stream(0, "adapter")) for cls in (kind, BeFA))
    outputs = [adapter(x, ids, rng=stream(0, "noise")) for adapter in (control, befa)]
    assert torch.equal(*outputs)


@pytest.fixture
def layout(tmp_path):
    at = Layout(tmp_path)
    values_Ic, present_I = features(len(ITEMS))
    ids = [item for item, present in zip(ITEMS, present_I, strict=True) if present]
    feature_store.write_given(
        at.vectors("small", "audio"),
        pa.chunked_array([ITEMS]),
        ids,
        values_Ic[present_I],
        dataset="small",
        modality="audio",
    )
    numbers = pa.array(range(len(ITEMS)), pa.int32())
    tables.write_table(at.filtered("small") / "items.parquet", pa.table({"item_index": numbers, "item": ITEMS}))
    tables.write_table(at.filtered("small") / "users.parquet", pa.table({"user_index": [0], "user": ["one"]}))
    split = {"user_index": pa.array([0] * len(ITEMS), pa.int32()), "item_index": numbers, "split": ["train"] * 30}
    tables.write_table(at.split("small"), pa.table(split))
    return at


def loaded(layout, adapter, missing="mask", seed=1):
    settings = FeaturesConfig(modalities=("audio",), max_missing=0.2, missing=missing)
    return load_problem(layout, small_cell(adapter=adapter, features=settings), seed).contents["audio"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_cell_gets_the_features_that_its_adapter_states(layout, adapter):
    real, found = loaded(layout, "none"), loaded(layout, adapter)
    assert torch.equal(found.present_I, real.present_I)
    assert not found.values_Ic[~found.present_I].any()
    replaced = ADAPTERS[adapter].features in ("random", "shuffled")
    assert torch.equal(found.values_Ic, real.values_Ic) is not replaced


@pytest.mark.parametrize("adapter", ["random_features", "shuffled_features"])
def test_the_seed_decides(layout, adapter):
    one, same, other = (loaded(layout, adapter, seed=seed).values_Ic for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("adapter", ["random_features", "shuffled_features"])
def test_absent_items_still_share_the_mean_under_that_policy(layout, adapter):
    values_Ic = loaded(layout, adapter, missing="mean").values_Ic
    absent = torch.arange(30) % 10 == ABSENT
    torch.testing.assert_close(values_Ic[absent], values_Ic[~absent].mean(0).expand(3, -1))


TABLES = "towers.audio.table"


def fixed_and_trained(tmp_path, adapters, network=None):
    """State, configuration and model of trained cells of one project."""
    found = {}
    for adapter in adapters:
        at = small_project(tmp_path, adapter=adapter, network=network)
        train.run("small", "made", "bm3", adapter, at)
        folder = at.run("small", "made", "bm3", adapter)
        model, problem = load_trained(at, folder, Cell.read(folder / "config.json"), 1)
        found[adapter] = (model, problem, tables.read_json(folder / "config.json"), read(at.checkpoint(folder, 1))[0])
    return found


@pytest.mark.parametrize("adapter", ["none_fixed", "befa_fixed"])
def test_fixed_tables_are_the_stores_vectors_after_training_and_no_part_of_the_checkpoint(tmp_path, adapter):
    plain = adapter.removesuffix("_fixed")
    found = fixed_and_trained(tmp_path, (plain, adapter))
    model, problem, stored, state = found[adapter]
    assert stored["network"]["trainable_features"] is False
    assert TABLES not in state
    assert torch.equal(model.towers["audio"].table, problem.contents["audio"].values_Ic)
    model, problem, stored, state = found[plain]
    assert stored["network"]["trainable_features"] is True
    assert not torch.equal(state[TABLES], problem.contents["audio"].values_Ic)


def test_the_base_and_its_control_differ_in_the_tables_alone(tmp_path):
    (_, _, base, state), (_, _, control, fixed) = fixed_and_trained(tmp_path, ("none", "none_fixed")).values()
    assert {key for key in base if base[key] != control[key]} == {"adapter", "network"}
    assert base["network"] | {"trainable_features": False} == control["network"]
    assert state.keys() - fixed.keys() == {TABLES}
    assert fixed.keys() <= state.keys()
    # and with tables that are not trained, the base is its control, bit by bit
    network = {"width": 8, "trainable_features": False}
    again = fixed_and_trained(tmp_path / "frozen", ("none",), network)["none"][3]
    assert again.keys() == fixed.keys()
    assert all(torch.equal(again[name], fixed[name]) for name in again)
    assert any(not torch.equal(state[name], fixed[name]) for name in fixed)


def test_a_misspelt_modality_is_told(tmp_path):
    layout = small_project(tmp_path)
    tables.write_json(layout.given("small"), {"audio": {}})
    with pytest.raises(
        ConfigError, match=r"unknown modality 'audi' in features\.small\.modalities.*did you mean 'audio'"
    ):
        load_problem(layout, small_cell(features=FeaturesConfig(modalities=("audi",))), 1)


@pytest.mark.parametrize("control", ["befa_fixed", "random_features", "shuffled_features", "constant_gate"])
def test_a_control_hands_the_ids_their_gradient(control):
    adapter = ADAPTERS[control](ADAPTERS[control].Config(), 8, rng=stream(0, "adapter"))
    ids = torch.randn(5, 8, generator=stream(1, "ids")).requires_grad_()
    adapter(torch.ones(5, 8), ids, rng=stream(0, "noise")).sum().backward()
    assert ids.grad.all()


def test_each_control_states_its_features():
    stated = {name: kind.features for name, kind in ADAPTERS.items() if kind.features != "given"}
    assert stated == {
        "constant_gate": "unused", "random_features": "random", "shuffled_features": "shuffled",
        "none_fixed": "fixed", "befa_fixed": "fixed",
    }  # fmt: skip
