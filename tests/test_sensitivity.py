"""Figure 10: every point is the cell that `train` and `evaluate` would make, and a kill costs nothing but time."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from ruamel.yaml import YAML

from befa import config, resuming, tables
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.errors import ConfigError
from befa.evaluation import Evaluation
from befa.report.sensitivity import BASE, LEARNED, SensitivityConfig, draw, points, sentence, summary
from befa.resuming import Saved
from pipelines import fitting
from pipelines.stages import evaluate, train
from pipelines.stages import sensitivity as stage
from tests.small_project import small_project

CELL = ("small", "made", "bm3")
WIDTHS = [0.25, 4]


def project(root, *, model="bm3", seeds=(1, 2), tuned=None, network=None):
    layout = small_project(root, seeds=seeds, epochs=3, model=model, network=network)
    params = config.read_params(layout.params)
    params["adapters"] = {"none": {}, "befa": {"width": 4.0}, "learned_width": {"widest": 4.0, "start": 2.0}}
    params["sensitivity"] = {"widths": WIDTHS, "learned": True}
    params["tuned"] = {f"small-made-{model}": {"befa": tuned or {}}}
    with layout.params.open("w") as file:
        YAML(typ="safe").dump(params, file)
    return layout


def outputs(layout):
    into = layout.sensitivity(*CELL)
    return [path.read_bytes() for path in (into, into.with_suffix(".png"))]


TUNED = {"network": {"dropout": 0.1}, "optimizer": {"learning_rate": 0.01}, "adaptation": {"dropout": 0.3}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    layout = project(tmp_path_factory.mktemp("project"), tuned=TUNED)
    stage.run(*CELL, layout)
    return layout


def stages_result(layout, adapter):
    train.run(*CELL, adapter, layout)
    evaluate.run(*CELL, adapter, layout)
    return tables.read_json(layout.run(*CELL, adapter) / "metrics.json")


def test_a_width_and_the_base_are_the_cells_that_train_and_evaluate_make(made):
    found = tables.read_json(made.sensitivity(*CELL))
    assert made.sensitivity(*CELL) == made.root / "data/reports/small/made/sensitivity/bm3.json"
    assert [one["lambda"] for one in found["widths"]] == WIDTHS
    own = next(one for one in found["widths"] if one["lambda"] == 4.0)
    assert {name: own[name] for name in own if name != "lambda"} == stages_result(made, "befa")
    assert found["base"] == stages_result(made, "none")
    assert "deviation" in found["base"]
    assert found["widths"][0]["valid"] != own["valid"]


def test_the_learned_lambda_is_the_trained_adapters(made):
    learned = tables.read_json(made.sensitivity(*CELL))["learned"]
    params = config.read_params(made.params)
    params["adapters"]["learned_width"]["dropout"] = TUNED["adaptation"]["dropout"]
    network, optimizer = TUNED["network"], TUNED["optimizer"]
    params["models"]["bm3"]["network"].update(network)
    params["models"]["bm3"]["optimizer"].update(optimizer)
    with made.params.open("r+") as file:
        before = file.read()
        file.seek(0)
        file.truncate()
        YAML(typ="safe").dump(params, file)
    try:
        result = stages_result(made, "learned_width")
    finally:
        made.params.write_text(before)
    assert {name: learned[name] for name in result} == result
    folder = made.run(*CELL, "learned_width")
    for seed in (1, 2):
        model, _ = load_trained(made, folder, Cell.read(folder / "config.json"), seed)
        assert learned["lambdas"][str(seed)] == {"audio": model.towers["audio"].adapter.learned_lambda}
    assert learned["lambda"]["audio"] == pytest.approx(np.mean([of["audio"] for of in learned["lambdas"].values()]))
    assert learned["lambda"]["audio"] != 2.0


def test_the_best_is_picked_on_validation_and_its_test_value_shown(made):
    found = tables.read_json(made.sensitivity(*CELL))
    best = max(found["widths"], key=lambda one: one["valid"]["recall@20"])
    assert found["best"] == {
        "lambda": best["lambda"],
        "picked_on": "valid",
        "valid": best["valid"]["recall@20"],
        "test": best["test"]["recall@20"],
    }
    learned = found["learned"]["test"]["recall@20"]
    assert found["gap"]["test"] == best["test"]["recall@20"] - learned
    assert f"test {best['test']['recall@20']:.4f}" in sentence(found)
    assert f"{learned:.4f}, {learned - best['test']['recall@20']:+.4f} beside it" in sentence(found)


class KilledError(Exception):
    """Ends a training as a kill does."""


def test_a_killed_run_is_taken_up_and_gives_the_same_bytes(made, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(stage, "Saved", lambda path, made_of: Saved(path, made_of, every=0.0))
    layout, epochs, original = project(tmp_path, tuned=TUNED), [], fitting.fit

    def killed_at(number):
        def fit(model, problem, valid, cell, seed, on_epoch, saved):
            def noted(row, best, end):
                epochs.append(row["epoch"])
                if len(epochs) == number:
                    raise KilledError

            return original(model, problem, valid, cell, seed, noted, saved)

        return fit

    monkeypatch.setattr(fitting, "fit", killed_at(8))  # in the third training
    with pytest.raises(KilledError):
        stage.run(*CELL, layout)
    assert not layout.sensitivity(*CELL).exists()
    monkeypatch.setattr(fitting, "fit", killed_at(None))
    stage.run(*CELL, layout)
    trainings = (len(WIDTHS) + 2) * 2
    assert len(epochs) == 3 * trainings  # none was trained twice
    assert outputs(layout) == outputs(made)
    assert {path.name for path in layout.sensitivity(*CELL).parent.iterdir()} == {"bm3.json", "bm3.png"}


def test_points_are_one_cell_but_for_the_width():
    params = {
        "protocol": "clean",
        "datasets": {"small": {}},
        "encoders": {"made": {}},
        "features": {"small": {}},
        "training": {"small": {}},
        "models": {"bm3": {"network": {}, "optimizer": {}}},
        "adapters": {"none": {}, "befa": {"dropout": 0.2}, "learned_width": {"dropout": 0.5, "start": 2.0}},
    }
    found = points(params, SensitivityConfig(widths=(0.5, 4.0)), *CELL)
    assert list(found) == [BASE, LEARNED, 0.5, 4.0]
    assert found[4.0] == Cell.from_params(params, *CELL, "befa")
    assert found[0.5] == replace(found[4.0], adaptation=replace(found[4.0].adaptation, width=0.5))
    assert found[BASE] == Cell.from_params(params, *CELL, "none")
    assert (found[LEARNED].adapter, found[LEARNED].adaptation.start) == ("learned_width", 2.0)
    assert found[LEARNED].adaptation.dropout == 0.2
    assert list(points(params, SensitivityConfig(widths=(0.5,), learned=False), *CELL)) == [BASE, 0.5]


@pytest.mark.parametrize("widths", [[1, 0.5], [1, 1], [0], [], ["4"]])
def test_widths_rise_from_above_zero(widths):
    with pytest.raises(ConfigError, match=r"'sensitivity\.widths"):
        config.load({"sensitivity": {"widths": widths}}, "sensitivity", SensitivityConfig)


def test_a_model_without_content_is_an_error(tmp_path):
    layout = project(tmp_path, model="bpr", seeds=(1,))
    with pytest.raises(ConfigError, match="bpr makes no content, so the adapter befa would change nothing"):
        stage.run("small", "made", "bpr", layout)
    assert not layout.sensitivity("small", "made", "bpr").exists()


def result(valid, test):
    metrics = {"test": {"recall@20": test}, "valid": {"recall@20": valid}, "users": 9, "left_out": 0}
    return Evaluation(metrics, pa.table({"user": ["a"]}))


def test_the_test_part_has_no_say_and_the_picture_shows_the_learned_width(tmp_path):
    values = {BASE: (0.1, 0.1), LEARNED: (0.25, 0.2), 1.0: (0.3, 0.1), 2.0: (0.3, 0.9), 4.0: (0.2, 0.95)}
    found = {point: {1: result(*pair)} for point, pair in values.items()}
    with_learned = summary(found, {1: {"image": 1.5, "text": 3.0}}, "recall@20")
    assert with_learned["best"] == {"lambda": 1.0, "picked_on": "valid", "valid": 0.3, "test": 0.1}
    assert with_learned["gap"] == {"valid": pytest.approx(0.05), "test": pytest.approx(-0.1)}
    without = summary({point: of for point, of in found.items() if point != LEARNED}, {}, "recall@20")
    assert (without["learned"], without["gap"]) == (None, None)
    draw(tmp_path / "with.png", with_learned, "a title")
    draw(tmp_path / "again.png", with_learned, "a title")
    draw(tmp_path / "without.png", without, "a title")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    oranges = []
    for name in ("with", "without"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert "Software" not in picture.info
            red, green, blue = np.asarray(picture.convert("RGB"), dtype=int).transpose(2, 0, 1)
        oranges.append(int(((red > 180) & (green > 60) & (green < 130) & (blue < 60)).sum()))
    assert oranges[0] > 100 > oranges[1]
