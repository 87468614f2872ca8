"""The tables of the experiment on made-up results: numbers, states, commands, and the three ways to write them."""

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from befa import significance
from befa.cell_names import Listed
from befa.errors import DataError
from befa.paths import Layout
from befa.report import contents, evidence_tables, gains, rendering
from befa.report.experiment import Experiment
from befa.report.paper_tables import parameters
from befa.report.published import HOSTS, PAPER_METRICS
from befa.report.rendering import Picture
from befa.report.results import Result, State, Study, read
from befa.report.values import Row, Table, Value
from befa.rng import numpy_stream
from befa.tables import write_json
from pipelines.cell import facts
from pipelines.stages.report import _missing, _tuned

ADAPTERS = ("none", "befa", "lora", "soft_prompt", "constant_gate")
USERS = [f"user{number}" for number in range(120)]
CURRENT = State("current")


@dataclass(frozen=True)
class Made(Result):
    """A result whose users are in memory."""

    table: pa.Table = None

    def per_user(self):
        return self.table


def result(rng, mean, users=USERS, seeds=(1, 2, 3)):
    columns = {"seed": np.repeat(seeds, len(users)), "user": users * len(seeds)}
    columns |= {"positives": [2] * len(seeds) * len(users)}
    columns |= {metric: rng.binomial(2, mean, len(seeds) * len(users)) / 2 for metric in PAPER_METRICS}
    test = {metric: float(columns[metric].mean()) for metric in PAPER_METRICS}
    deviation = {"test": dict.fromkeys(PAPER_METRICS, 0.001)}
    metrics = {"test": test, "deviation": deviation, "seeds": dict.fromkeys(map(str, seeds))}
    return Made(metrics, None, 1000, 0.5, "cpu, 1 thread", "clean", pa.table(columns))


def experiment(dataset="hm", encoder="clip", adapters=ADAPTERS, absent=(), gain=0.2, **states):
    """All hosts with all adapters; BeFA's users do better by `gain`. `states` by "model_adapter"."""
    rng, cells, results, found = np.random.default_rng(1), {}, {}, {}
    for model in HOSTS:
        for adapter in adapters:
            cell = Listed(dataset=dataset, encoder=encoder, model=model, adapter=adapter)
            cells[cell.name], found[cell.name] = cell, states.get(f"{model}_{adapter}", CURRENT)
            if adapter in absent:
                found[cell.name] = State("absent", f"download@{dataset}")
            else:
                results[cell.name] = result(rng, 0.2 + gain * (adapter == "befa"))
    return Experiment(cells, results, found, sizes={}, filtered={}, resamples=20)


def figures(made):
    return {value.name: value for table in contents.tables(made) for value in table.values}


@pytest.fixture(scope="module")
def made():
    return experiment()


@pytest.fixture(scope="module")
def found(made):
    return figures(made)


def test_every_figure_has_a_name_of_its_own(made):
    names = Counter(value.name for table in contents.tables(made) for value in table.values)
    assert names.most_common(1)[0][1] == 1


def test_a_cell_stands_beside_what_the_paper_prints(made, found):
    value = found["table2/hm/clip/bm3+befa/recall@20"]
    assert value.ours == made.results["hm-clip-bm3-befa"].mean("recall@20")
    assert (value.published, value.source) == (0.0391, "arXiv 2406.00323, Table 2")
    assert value.difference == pytest.approx(value.ours / 0.0391 - 1)
    assert (value.command, value.seeds) == ("dvc repro evaluate@hm-clip-bm3-befa", 3)
    assert found["controls/hm/clip/bm3+constant_gate/recall@20/gain"].command == (
        "dvc repro evaluate@hm-clip-bm3-none evaluate_control@hm-clip-bm3-constant_gate"
    )


def uncorrected(base, adapted, metric):
    return significance.compare(base, adapted, metric, rng=numpy_stream(1, "x"), resamples=2).over_users.t


def test_stars_are_holms_over_a_datasets_comparisons(made, found):
    pairs = [(model, metric) for model in HOSTS for metric in PAPER_METRICS]
    per_user = {name: result.per_user() for name, result in made.results.items()}
    p_values = [
        uncorrected(per_user[f"hm-clip-{model}-none"], per_user[f"hm-clip-{model}-befa"], metric)
        for model, metric in pairs
    ]
    for (model, metric), p in zip(pairs, significance.holm(p_values), strict=True):
        assert found[f"table2/hm/clip/{model}+befa/{metric}/gain"].stars == significance.stars(p)


def test_stars_of_table_3_are_holms_over_all_its_comparisons_of_a_dataset(made, found):
    mean = {name: result.mean for name, result in made.results.items()}
    compared = {}
    for model, metric in product(HOSTS, PAPER_METRICS):
        others = [f"hm-clip-{model}-{adapter}" for adapter in ("none", "lora", "soft_prompt")]
        best = max(others, key=lambda cell: mean[cell](metric))
        for adapter, base, name in (
            ("lora", others[0], "gain"),
            ("soft_prompt", others[0], "gain"),
            ("befa", best, "over-best"),
        ):
            pair = (made.results[cell].per_user() for cell in (base, f"hm-clip-{model}-{adapter}"))
            compared[f"table3/hm/clip/{model}+{adapter}/{metric}/{name}"] = uncorrected(*pair, metric)
    corrected = dict(zip(compared, significance.holm(list(compared.values())), strict=True))
    assert {name: found[name].p for name in corrected} == pytest.approx(corrected)
    marks = {name: found[name].stars for name in corrected}
    assert marks == {name: significance.stars(p) for name, p in corrected.items()}
    assert 0 < sum(map(bool, marks.values())) < len(marks)
    over_best = found["table3/hm/clip/bm3+befa/recall@20/over-best"]
    assert over_best.interval[0] < over_best.ours < over_best.interval[1]
    assert "the best of the others: " in over_best.remark


def test_p_over_seeds_is_corrected_as_that_over_users_is(made, found):
    pairs = [[made.results[f"hm-clip-{model}-{adapter}"].per_user() for adapter in ("none", "befa")] for model in HOSTS]
    compared = [
        significance.compare(*pair, "recall@20", rng=numpy_stream(1, "x"), resamples=2).over_seeds for pair in pairs
    ]
    for test, p_values in (("t", [p.t for p in compared]), ("wilcoxon", [p.wilcoxon for p in compared])):
        shown = [found[f"significance/hm/clip/{model}+befa/seeds-{test}"].shown for model in HOSTS]
        assert shown == [f"{p:.4f}" for p in significance.holm(p_values)]
        assert shown != [f"{p:.4f}" for p in p_values]


def test_a_figure_says_under_which_protocol_it_was_made(made, found):
    tables = {table.key: table for table in contents.tables(made)}
    for key in ("table2-clip", "table3-clip"):
        assert "Protocol of ours: clean." in tables[key].note
        assert "validation items" in tables[key].note
    assert found["table2/hm/clip/bm3+befa/recall@20"].protocol == "clean"
    assert ("protocol", "clean") in facts(found["table4/hm/clip/bm3+befa/parameters"])
    other = replace(made.results["hm-clip-bm3-none"], protocol="mmrec")
    mixed = replace(made, results={**made.results, "hm-clip-bm3-none": other})
    assert figures(mixed)["table2/hm/clip/bm3+befa/recall@20/gain"].protocol == "mmrec and clean"
    assert not any("Protocol of ours" in table.note for table in contents.tables(experiment(absent=ADAPTERS)))


def test_a_results_protocol_is_that_of_its_configuration(tmp_path):
    layout, of = Layout(tmp_path), Listed(dataset="hm", encoder="clip", model="bm3", adapter="none")
    folder = layout.run("hm", "clip", "bm3", "none")
    write_json(folder / "metrics.json", {})
    assert read(layout, of).protocol == ""
    write_json(folder / "config.json", {"protocol": "mmrec"})
    assert read(layout, of).protocol == "mmrec"


def test_stars_do_not_depend_on_the_other_datasets():
    pair = ("none", "befa")
    # Gains so small that Holm over all three datasets would take stars away.
    alone = figures(experiment("hm", adapters=pair, gain=0.05))
    marks = [value.stars for value in alone.values()]
    assert 0 < sum(map(bool, marks)) < len(marks)
    made = experiment("hm", adapters=pair, gain=0.05)
    for dataset in ("tmall", "microlens"):
        other = experiment(dataset, adapters=pair, gain=0.0)
        made = replace(made, cells={**made.cells, **other.cells}, results={**made.results, **other.results},
                       states={**made.states, **other.states})  # fmt: skip
    beside = figures(made)
    for name, value in alone.items():
        assert (beside[name].stars, beside[name].ours) == (value.stars, value.ours), name


def test_a_mean_gain_and_the_best_of_the_others_are_what_they_say(made, found):
    mean = {name: result.mean("ndcg@10") for name, result in made.results.items()}
    gains = [mean[f"hm-clip-{model}-befa"] / mean[f"hm-clip-{model}-none"] - 1 for model in HOSTS]
    assert found["table2/hm/clip/mean/ndcg@10/gain"].ours == pytest.approx(np.mean(gains))
    best = max(mean[f"hm-clip-mgcn-{adapter}"] for adapter in ("none", "lora", "soft_prompt"))
    over = found["table3/hm/clip/mgcn+befa/ndcg@10/over-best"]
    assert over.ours == pytest.approx(mean["hm-clip-mgcn-befa"] / best - 1)
    assert over.published == pytest.approx(0.0225 / 0.0207 - 1)
    over_best = [found[f"table3/hm/clip/{model}+befa/ndcg@10/over-best"].ours for model in HOSTS]
    assert found["table3/hm/clip/mean/ndcg@10/over-best"].ours == pytest.approx(np.mean(over_best))


def test_the_papers_average_improvement_in_table_3_follows_from_its_figures():
    found = figures(experiment("tmall"))
    assert found["table3/tmall/clip/mean/ndcg@10/over-best"].published == pytest.approx(0.0789, abs=5e-5)


def test_what_is_made_of_a_stale_cell_is_stale():
    stale = State("stale", "befa/losses.py modified")
    found = figures(experiment(bm3_none=stale, freedom_lora=stale))
    assert found["table2/hm/clip/bm3+befa/recall@20"].state == CURRENT
    for name in ("table2/hm/clip/bm3+befa/recall@20/gain", "table2/hm/clip/mean/recall@20/gain",
                 "table3/hm/clip/freedom+befa/recall@20/over-best", "significance/hm/clip/bm3+befa/gain"):  # fmt: skip
        assert found[name].state == stale, name


def test_cells_that_are_not_there_say_what_is_missing():
    found = figures(experiment(absent=("befa",)))
    value = found["table2/hm/clip/bm3+befa/recall@20/gain"]
    assert (value.ours, value.shown) == (None, "not run")
    assert value.state == State("absent", "download@hm")
    # A dash is for what a result does not give: without its checkpoint, the number of parameters.
    made = experiment(adapters=("none", "lora"), absent=("lora",))
    made.results["hm-clip-bm3-none"] = replace(made.results["hm-clip-bm3-none"], parameters=None)
    of_table_4 = figures(made)
    assert of_table_4["table4/hm/clip/bm3/parameters"].shown == "–"
    assert of_table_4["table4/hm/clip/bm3+lora/parameters"].shown == "not run"
    unlisted = found["controls/hm/clip/bm3+shuffled_features/recall@20/gain"]
    assert unlisted.state.status == "unlisted"
    assert unlisted.command == "python -m pipelines add-cells hm clip --model bm3 --adapter shuffled_features"


def test_controls_that_nobody_has_run_are_shown_as_such():
    made = experiment(adapters=("none", "befa"))
    [table] = [table for table in contents.tables(made) if table.key == "controls-clip"]
    assert [row.label for row in table.rows] == ["hm BM3", "hm LATTICE", "hm FREEDOM", "hm MGCN"]
    for row in table.rows:
        over_base, *others = row.values
        assert over_base.ours is not None
        assert {value.shown for value in others} == {"not run"}
        assert all(value.command.startswith("python -m pipelines add-cells hm clip") for value in others)


def test_what_is_counted_by_the_report_is_made_by_it(found):
    value = found["table4/hm/clip/bm3+befa/parameters-at-the-papers-sizes"]
    assert (value.command, value.ours) == ("dvc repro report", parameters("hm", "befa"))


def test_results_of_other_users_are_not_compared_and_do_not_end_the_report():
    made = experiment()
    made.results["hm-clip-bm3-none"] = result(np.random.default_rng(2), 0.2, [f"other{n}" for n in range(120)])
    found = figures(made)
    value = found["table2/hm/clip/bm3+befa/recall@20/gain"]
    assert value.ours is None
    assert value.state.status == "stale"
    assert "not the same users" in value.state.detail
    tested = found["significance/hm/clip/bm3+befa/users-t"]
    assert (tested.ours, tested.state) == (None, value.state)
    assert found["significance/hm/clip/mgcn+befa/gain"].ours is not None


def test_stars_do_not_fade_as_more_is_run():
    """What is listed and has yet to be run is counted by the correction; what is not listed is not."""
    whole, part = experiment(gain=0.08), experiment(gain=0.08)
    for model in HOSTS[1:]:
        del part.results[f"hm-clip-{model}-constant_gate"]
        part.states[f"hm-clip-{model}-constant_gate"] = State("absent", "train_control@x")
    name = "controls/hm/clip/bm3+befa/recall@20/gain-over-constant_gate"
    pair = (whole.results[f"hm-clip-bm3-{adapter}"].per_user() for adapter in ("constant_gate", "befa"))
    p = uncorrected(*pair, "recall@20")
    assert 0 < p < 0.25
    assert figures(part)[name].p == pytest.approx(4 * p)
    assert figures(whole)[name].p <= figures(part)[name].p
    cells = {name: cell for name, cell in part.cells.items() if cell.model == "bm3"}
    of_these = ({name: of[name] for name in cells if name in of} for of in (part.results, part.states))
    alone = replace(part, **dict(zip(("results", "states"), of_these, strict=True)), cells=cells)
    assert figures(alone)[name].p == pytest.approx(p)


def test_a_cell_that_has_yet_to_be_run_has_its_row_among_the_tests():
    found = figures(experiment(absent=("befa",)))
    value = found["significance/hm/clip/bm3+befa/gain"]
    assert (value.shown, value.command) == ("not run", "dvc repro evaluate@hm-clip-bm3-none evaluate@hm-clip-bm3-befa")
    assert found["significance/hm/clip/bm3+befa/seeds"].shown == "not run"


@pytest.mark.parametrize(("dataset", "encoder"), [("shop", "clip"), ("shop", "clip_small"), ("tmall", "imagebind")])
def test_a_dataset_and_an_encoder_that_the_paper_does_not_have(dataset, encoder):
    tables = contents.tables(experiment(dataset, encoder))
    named = {value.name: value for table in tables for value in table.values}
    value = named[f"table4/{dataset}/{encoder}/bm3+befa/parameters"]
    assert (value.ours, value.published) == (1000, None)
    assert all(len(row.values) == len(table.columns) for table in tables for row in table.rows)


def test_an_encoder_without_befas_cells_has_no_table_2():
    keys = [table.key for table in contents.tables(experiment(adapters=("none", "lora")))]
    assert "table2-clip" not in keys
    assert "table3-clip" in keys


ON_OBJECTS = {"items": 64, "without_heat": 4, "pointing": 0.53, "energy": 0.431, "coverage": None, "chance": 0.25,
              "weights_spread": 0.6, "negative_weights": 0.125}  # fmt: skip
CHANGES = {"pictures": 31, "pointing": {"mean": -0.004, "low": -0.1, "high": 0.12},
           "energy": {"mean": -0.2441, "low": -0.31, "high": -0.17},
           "coverage": {"mean": None, "low": None, "high": None}}  # fmt: skip
SCORES = {"items": 64,
          "none": {"behaviour": {"angle": 74.47, "lambda": 0.7, "angle_trained": 44.47, "lambda_trained": 0.29},
                   "becam": ON_OBJECTS, "becam_baseline": {**ON_OBJECTS, "energy": 0.5}},
          "befa": {"behaviour": {"angle": 18.4, "lambda": 0.05, "angle_trained": None, "lambda_trained": None},
                   "becam": {**ON_OBJECTS, "without_heat": 64}},
          "difference": {"becam": CHANGES}}  # fmt: skip
LIES = {"uniformity": -3.5, "uniformity_of_ids": -3.4, "alignment_to_id": 0.5, "alignment_in_baskets": 1.5}
SPREADS = {"modalities": {"text": {"none": {**LIES, "gate": None}, "befa": {
    **LIES, "alignment_to_id": 0.1, "gate": {"mean": 0.9, "over_items": 5e-6, "over_channels": 0.3}}}}}  # fmt: skip
WIDTHS = {"metric": "recall@20", "base": {"test": {"recall@20": 0.25}}, "best": {"lambda": 0.5, "test": 0.27},
          "learned": {"lambda": {"image": 3.944, "text": 4.0}, "test": {"recall@20": 0.26}},
          "gap": {"valid": 0.02, "test": 0.01}}  # fmt: skip


def test_the_papers_figures_are_numbers_too():
    made = {"attribution": SCORES, "distribution": SPREADS, "sensitivity": WIDTHS}
    studies = {
        kind: [
            Study("hm", "clip", "bm3", "befa", f"{kind}@hm-clip-bm3", CURRENT, measures),
            Study("hm", "clip", "mgcn", "befa", f"{kind}@hm-clip-mgcn", State("absent", "download@hm"), {}),
        ]
        for kind, measures in made.items()
    }
    tables = contents.tables(replace(experiment(), studies=studies))
    assert all(len(row.values) == len(table.columns) for table in tables for row in table.rows)
    assert all(sum(width for _, width in table.groups) == len(table.columns) for table in tables[-4:])
    found = {value.name: value for table in tables for value in table.values}
    shown = {
        "attribution/hm/clip/bm3/beside-befa/angle": "74.5",
        "attribution/hm/clip/bm3/beside-befa/lambda": "0.700",
        "attribution/hm/clip/bm3/beside-befa/angle_trained": "44.5",
        "attribution/hm/clip/bm3+befa/angle_trained": "–",
        "attribution/hm/clip/bm3+befa/angle": "18.4",
        "attribution/hm/clip/bm3/beside-befa/becam/energy": "43%",
        "attribution/hm/clip/bm3/beside-befa/becam/coverage": "–",
        "attribution/hm/clip/bm3/beside-befa/becam/chance": "25%",
        "attribution/hm/clip/bm3/beside-befa/becam/with-heat": "60 of 64",
        "attribution/hm/clip/bm3/beside-befa/becam/weights_spread": "0.600",
        "attribution/hm/clip/bm3/beside-befa/becam/negative_weights": "12%",
        "attribution/hm/clip/bm3/beside-befa/becam_baseline/energy": "50%",
        "attribution/hm/clip/bm3+befa/becam/energy/difference": "-24 (-31 to -17)",
        "attribution/hm/clip/bm3+befa/becam/pointing/difference": "+0 (-10 to +12)",
        "attribution/hm/clip/bm3+befa/becam/coverage/difference": "–",
        "attribution/hm/clip/bm3+befa/becam/pictures-in-both": "31 in both",
        "attribution/hm/clip/bm3+befa/becam/with-heat": "0 of 64",
        "distribution/hm/clip/bm3+befa/text/alignment_to_id": "0.100",
        "distribution/hm/clip/bm3/beside-befa/text/gate-mean": "–",
        "distribution/hm/clip/bm3+befa/text/gate-over_items": "0.000",
        "sensitivity/hm/clip/bm3+befa/best-lambda": "0.5",
        "sensitivity/hm/clip/bm3+befa/best": "0.2700",
        "sensitivity/hm/clip/bm3+befa/learned-lambda": "3.94 (image), 4.00 (text)",
        "sensitivity/hm/clip/bm3+befa/learned": "0.2600",
        "sensitivity/hm/clip/bm3+befa/gap": "-0.0100",
        "sensitivity/hm/clip/mgcn+befa/learned-lambda": "not run",
    }
    assert {name: found[name].shown for name in shown} == shown
    assert found["sensitivity/hm/clip/bm3+befa/best"].command == "dvc repro sensitivity@hm-clip-bm3"
    assert found["attribution/hm/clip/mgcn+befa/angle"].state.status == "absent"


def test_other_models_have_a_table_of_their_own():
    made, rng = experiment(), np.random.default_rng(3)
    for model, adapter in (("lattice_released", "none"), ("lattice_released", "befa"), ("item_knn", "none")):
        cell = Listed(dataset="hm", encoder="clip", model=model, adapter=adapter)
        made.cells[cell.name], made.states[cell.name] = cell, CURRENT
        made.results[cell.name] = result(rng, 0.4 if adapter == "befa" else 0.3)
    [table] = [table for table in contents.tables(made) if table.key.startswith("others")]
    labels = ["LATTICE (released)", "LATTICE (released) +BeFA", "gain", "ItemKNN"]
    assert [row.label for row in table.rows] == labels
    mean = {
        adapter: made.results[f"hm-clip-lattice_released-{adapter}"].mean("recall@20") for adapter in ("none", "befa")
    }
    found = {value.name: value for value in table.values}
    assert found["others/hm/clip/lattice_released+befa/recall@20/gain"].ours == pytest.approx(
        mean["befa"] / mean["none"] - 1
    )
    assert [row.last for row in table.rows] == [False, False, True, True]
    of_pair = [made.results[f"hm-clip-lattice_released-{adapter}"].per_user() for adapter in ("none", "befa")]
    corrected = significance.holm([uncorrected(*of_pair, metric) for metric in PAPER_METRICS])
    shown = [found[f"others/hm/clip/lattice_released+befa/{metric}/gain"].stars for metric in PAPER_METRICS]
    assert shown == [significance.stars(p) for p in corrected]
    assert found["others/hm/clip/item_knn/recall@20"].command == "dvc repro evaluate@hm-clip-item_knn-none"
    assert not any(table.key.startswith("others") for table in contents.tables(experiment()))


def test_an_adapter_of_ones_own_stands_below_its_base_with_what_it_gains():
    made = experiment()
    cell = Listed(dataset="hm", encoder="clip", model="bm3", adapter="blend")
    made.cells[cell.name], made.states[cell.name] = cell, CURRENT
    made.results[cell.name] = result(np.random.default_rng(3), 0.4)
    [table] = [table for table in contents.tables(made) if table.key.startswith("others")]
    assert [(row.label, row.last) for row in table.rows] == [("BM3", False), ("BM3 +blend", False), ("gain", True)]
    base, own, gain = (row.values[PAPER_METRICS.index("recall@20")] for row in table.rows)
    assert [own.name, gain.name] == [f"others/hm/clip/bm3+blend/recall@20{end}" for end in ("", "/gain")]
    assert base.ours == made.results["hm-clip-bm3-none"].mean("recall@20")
    assert gain.ours == pytest.approx(own.ours / base.ours - 1)
    assert gain.command == "dvc repro evaluate@hm-clip-bm3-none evaluate@hm-clip-bm3-blend"


def test_a_gain_is_over_the_base_that_differs_in_the_adapter_alone():
    made, rng = experiment(), np.random.default_rng(3)
    for adapter in ("none", "befa", "none_fixed", "befa_fixed", "blend"):
        cell = Listed(dataset="hm", encoder="clip", model="vbpr", adapter=adapter)
        made.cells[cell.name], made.states[cell.name] = cell, CURRENT
        made.results[cell.name] = result(rng, 0.3)
    found = {value.name: value.ours for value in figures(made).values() if value.name.startswith("others/hm/clip/vbpr")}
    mean = {
        a: made.results[f"hm-clip-vbpr-{a}"].mean("recall@20") for a in ("none", "none_fixed", "befa_fixed", "blend")
    }
    for adapter, base, over in (("befa_fixed", "none_fixed", "-over-none_fixed"), ("blend", "none", "")):
        gain = found[f"others/hm/clip/vbpr+{adapter}/recall@20/gain{over}"]
        assert gain == pytest.approx(mean[adapter] / mean[base] - 1)


def test_stars_of_other_adapters_are_corrected_over_their_own_and_their_dataset():
    made, rng = experiment(), np.random.default_rng(3)
    for dataset, adapters in (("hm", ("none", "blend")), ("demo", ("none", "blend", "mix", "stir"))):
        for adapter in adapters:
            cell = Listed(dataset=dataset, encoder="clip", model="vbpr", adapter=adapter)
            made.cells[cell.name], made.states[cell.name] = cell, CURRENT
            made.results[cell.name] = result(rng, 0.3 if adapter == "none" else 0.33)
    found = figures(made)
    for dataset, adapters in (("hm", ["blend"]), ("demo", ["blend", "mix", "stir"])):
        base = made.results[f"{dataset}-clip-vbpr-none"].per_user()
        for adapter in adapters:
            adapted = made.results[f"{dataset}-clip-vbpr-{adapter}"].per_user()
            wanted = significance.holm([uncorrected(base, adapted, metric) for metric in PAPER_METRICS])
            p = [found[f"others/{dataset}/clip/vbpr+{adapter}/{metric}/gain"].p for metric in PAPER_METRICS]
            assert p == pytest.approx(wanted)


def test_an_adapter_whose_base_is_not_listed_has_no_gain():
    made = experiment()
    cell = Listed(dataset="hm", encoder="clip", model="vbpr", adapter="blend")
    made.cells[cell.name], made.states[cell.name] = cell, CURRENT
    made.results[cell.name] = result(np.random.default_rng(3), 0.4)
    [table] = [table for table in contents.tables(made) if table.key.startswith("others")]
    assert [(row.label, row.last) for row in table.rows] == [("VBPR +blend", True)]


def test_tuned_and_untuned_are_told_apart():
    made = replace(experiment(), tuned={"hm-clip-bm3-befa": "learning_rate 0.005"})
    found = figures(made)
    assert found["table2/hm/clip/bm3+befa/recall@20"].remark == "tuned: learning_rate 0.005"
    assert found["table2/hm/clip/bm3+befa/recall@20/gain"].remark == "only one of the two is tuned"
    # A search whose first trial has won leaves an empty block: that cell is tuned, too.
    tuned = {"hm-clip-bm3": {"none": {}, "befa": {"optimizer": {"learning_rate": 0.005}}}}
    made = replace(made, tuned=_tuned({"tuned": tuned}, made.cells.values()))
    assert made.tuned["hm-clip-bm3-none"] == "the untuned settings are best"
    assert "hm-clip-lattice-none" not in made.tuned
    assert "only one" not in figures(made)["table2/hm/clip/bm3+befa/recall@20/gain"].remark


def test_a_density_is_compared_in_points():
    [value] = [v for v in figures(experiment()).values() if v.name == "table1/microlens/density"]
    assert replace(value, ours=332_730 / (46_420 * 14_079)).shown_difference == "+0.000 points"
    assert replace(value, ours=value.published + 0.0001).shown_difference == "+0.010 points"


def test_latex_reads_no_commands_in_a_text():
    assert rendering.tex(r"a^2 {b} ~ \c $d | e > f") == (
        r"a\textasciicircum{}2 \{b\} \textasciitilde{} \textbackslash{}c \$d \textbar{} e $>$ f"
    )


@pytest.mark.parametrize(("adapter", "count"), [("none", 9_447_104), ("lora", 9_451_200), ("befa", 9_644_864)])
def test_the_count_at_the_papers_sizes(adapter, count):
    assert parameters("tmall", adapter) == count


def test_the_report_is_written_in_three_ways_and_as_a_table(tmp_path):
    made = experiment(absent=("lora",), bm3_none=State("stale", "a & b <c>"))
    tables = contents.tables(made)
    for folder in ("one", "two"):
        rendering.write(tmp_path / folder, tables, [], {"download@hm": ["evaluate@hm-clip-bm3-lora"]})
    names = ("report.html", "report.md", "report.tex", "figures.csv")
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    html, markdown, latex = ((tmp_path / "one" / name).read_text() for name in names[:3])
    with (tmp_path / "one/figures.csv").open() as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {value.name for table in tables for value in table.values}
    of = rows["table2/hm/clip/bm3+befa/recall@20"]
    assert of["protocol"] == "clean"
    gain = rows["table2/hm/clip/bm3+befa/recall@20/gain"]
    assert significance.stars(float(gain["p"])) == gain["stars"] == "***"
    for text in (html, markdown):
        assert of["shown"] in text
        assert "protocol: clean" in text
    for text in (html, markdown, latex):
        assert "download@" in text
        assert "is in points, ours less the paper's" in text.replace("&#39;", "'")
        assert "not run" in text
    assert of["shown"].replace("±", r"$\pm$") in latex
    assert "a &amp; b &lt;c&gt;" in html
    assert "a & b <c>" not in html
    assert html.count("<tr") == html.count("</tr>")
    assert r"$^\dagger$" in latex
    assert "†" in markdown


def test_markdown_and_latex_have_all_that_belongs_to_a_figure(tmp_path):
    made = experiment(absent=("lora",))
    tables = contents.tables(made)
    rendering.write(tmp_path, tables, [], {})
    value = figures(made)["table2/hm/clip/bm3+befa/recall@20"]
    markdown, latex = ((tmp_path / name).read_text() for name in ("report.md", "report.tex"))
    [line] = [line for line in markdown.splitlines() if line.startswith(f"| `{value.name}` |")]
    _, _, *cells, _ = (cell.strip() for cell in line.split("|"))
    assert cells == [value.shown, "0.0391", "arXiv 2406.00323, Table 2", value.shown_difference,
                     "`dvc repro evaluate@hm-clip-bm3-befa`", "seeds: 3; protocol: clean"]  # fmt: skip
    [line] = [line for line in latex.replace(r"\allowbreak{}", "").splitlines() if f"{{{value.name}}}" in line]
    for text in (value.shown, value.shown_difference, "(arXiv 2406.00323, Table 2)", value.command):
        assert rendering.tex(text) in line
    # What has not been run is told once for a cell, not once for each of its metrics.
    [line] = [line for line in markdown.splitlines() if "`table3/hm/clip/bm3+lora/" in line and "gain" not in line]
    assert line == (
        "| `table3/hm/clip/bm3+lora/recall@10 and 3 more` | not run | 0.0191, 0.0290, 0.0110, 0.0135 | "
        "arXiv 2406.00323, Table 3 |  | `dvc repro evaluate@hm-clip-bm3-lora` | absent: download@hm |"
    )


def test_the_latex_is_well_formed(tmp_path):
    made = experiment(absent=("lora",), bm3_none=State("stale"))
    studies = [Study("hm", "clip", "bm3", "befa", "distribution@hm-clip-bm3-befa", CURRENT, SPREADS)]
    stale = State("stale", r"<models.bm3> a_b & {c 100% #1 \d ~ $e^f |g|")
    picture = Picture("λ of a_b", tmp_path / "a_b.png", "dvc repro x@a_b", stale)
    Image.new("RGB", (30, 20)).save(picture.path)
    tables = contents.tables(replace(made, studies={"distribution": studies}))
    rendering.write(tmp_path / "out", tables, [picture], {"download@a_b": ["evaluate@a_b", "python -m x --c_d"]})
    written = (tmp_path / "out/report.tex").read_text()
    assert r"keepaspectratio]{../a_b.png}" in written
    assert written.isascii()
    text = re.sub(r"(?m)^%.*\n|(?<=\{)%$", "", written)  # without comments
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    # Without what is escaped: then braces and dollars come in pairs, and no letter is left that LaTeX reads.
    text = re.sub(r"\\[\\{}%&#$_]", "", re.sub(r"\\\\(?= |$)", "", text, flags=re.M))
    depth = 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert "%" not in text
    assert text.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$|\\includegraphics\[.*?\]\{.*?\}|\\resizebox.*|\\newcolumntype.*", "", text)
    assert not re.search(r"[_^#<>|~]", outside.replace(r">{\raggedright", ""))


def test_every_line_of_a_latex_table_has_its_columns(tmp_path):
    tables = contents.tables(experiment(absent=("lora",)))
    rendering.write(tmp_path, tables, [], {"download@hm": ["evaluate@hm-clip-bm3-lora"]})
    latex = (tmp_path / "report.tex").read_text()
    found = re.findall(r"\\begin\{(tabular|longtable)\}\{([^\n]*)\}\n(.*?)\\end\{\1\}", latex, re.S)
    assert len(found) == sum(len(rendering.blocks(table)) for table in tables) + len(tables) + 1
    for _, columns, body in found:
        width = len(re.sub(r"\{.*?\}", "", columns))
        for line in re.findall(r"^ *(.*)\\\\(?: \\midrule)?$", body, re.M):
            spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == width


def test_a_printed_table_is_cut_between_groups_and_after_lines(made):
    state = State("current")
    values = tuple(Value(f"x/{n}", state, "dvc repro report", "text", "0123456789") for n in range(12))
    rows = tuple(Row(f"row {number}", values) for number in range(90))
    groups = (("hm", 4), ("tmall", 4), ("microlens", 4))
    parts = rendering.blocks(Table("t", "T", "", groups, tuple(map(str, range(12))), rows))
    assert (
        [(part.groups, len(part.columns), len(part.rows)) for part in parts]
        == [
            *((groups[:2], 8, n) for n in (40, 40, 10)),  # 8 * 12 letters
            *((groups[2:], 4, n) for n in (40, 40, 10)),
        ]
    )
    assert parts[4].rows[0].label == "row 40"
    assert parts[4].rows[0].values == values[8:]
    for table in contents.tables(made):
        shown = [value for part in rendering.blocks(table) for value in part.values]
        assert sorted(value.name for value in shown) == sorted(value.name for value in table.values)


def test_what_is_missing_is_told_by_kind():
    waiting = ["evaluate@hm-clip-bm3-none", "evaluate@hm-clip-bm3-befa", "attribute@hm-clip-bm3-befa"]
    trained = {f"train@hm-clip-{model}-lora": [f"evaluate@hm-clip-{model}-lora"] for model in HOSTS}
    command = "python -m pipelines add-cells hm clip --model bm3 --adapter constant_gate"
    assert rendering.by_kind({"download@hm": waiting, **trained, "not in the graph": [command]}) == {
        "download@hm": {"evaluate@": ["hm-clip-bm3-none", "hm-clip-bm3-befa"], "attribute@": ["hm-clip-bm3-befa"]},
        "train@": {"evaluate@": [f"hm-clip-{model}-lora" for model in HOSTS]},
        "not in the graph": {"python -m pipelines add-cells hm clip": ["--model bm3 --adapter constant_gate"]},
    }


def test_gains_are_drawn_beside_the_papers_with_the_controls_that_there_are(made, tmp_path):
    made = replace(made, states=made.states | {"hm-clip-mgcn-befa": State("stale", "<models.mgcn> modified")})
    found = gains.found(made, "clip")
    assert list(found) == [("hm", model, adapter) for model in HOSTS for adapter in ("befa", "constant_gate")]
    befa, gate = found["hm", "bm3", "befa"], found["hm", "bm3", "constant_gate"]
    assert befa.published == pytest.approx(0.0391 / 0.0320 - 1)
    assert gate.published is None
    assert befa.interval[0] < befa.ours < befa.interval[1]
    [picture] = contents.gains_drawn(Layout(tmp_path), made)
    assert (picture.command, picture.state.status) == ("dvc repro report", "stale")
    with Image.open(picture.path) as opened:
        drawn = np.asarray(opened.convert("RGB"))
    # In the colours of the two that have results.
    for adapter in ("befa", "constant_gate"):
        colour = [int(gains.MARKS[adapter][0][start : start + 2], 16) for start in (1, 3, 5)]
        assert (drawn == colour).all(2).any()
    first = picture.path.read_bytes()
    contents.gains_drawn(Layout(tmp_path), made)
    assert picture.path.read_bytes() == first


def test_nothing_is_drawn_where_nothing_was_run(tmp_path):
    assert contents.gains_drawn(Layout(tmp_path), experiment(absent=ADAPTERS)) == []


def test_a_picture_says_what_makes_it_and_whether_it_is_of_what_is_here(tmp_path):
    layout = Layout(tmp_path)
    for path in (
        layout.reports / "hm/clip/sensitivity/bm3.png",
        layout.distribution("hm", "clip", "bm3", "befa").with_suffix(".png"),
    ):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(path)
    stale = State("stale", "<models.bm3> modified")
    states = {"sensitivity@hm-clip-bm3": CURRENT, "distribution@hm-clip-bm3-befa": stale}
    pictures = contents.pictures(layout, states.__getitem__)
    assert [(picture.command, picture.state) for picture in pictures] == [
        (f"dvc repro {stage}", state) for stage, state in states.items()
    ]
    rendering.write(tmp_path / "out", [], pictures, {})
    html = (tmp_path / "out/report.html").read_text()
    assert html.count("<img") == 2
    assert "](../data/reports/hm/clip/sensitivity/bm3.png)" in (tmp_path / "out/report.md").read_text()
    assert html.count("stale: &lt;models.bm3&gt; modified") == 1
    pictures[0].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not a readable picture in .*bm3\.png"):
        rendering.write(tmp_path / "out", [], pictures, {})


def test_a_broken_table_of_users_is_told_and_not_left_out(made, monkeypatch):
    def broken(result):
        raise DataError("not a readable Parquet file", where="per_user.parquet")

    again = replace(made, _compared={}, _per_user={})
    monkeypatch.setattr(Made, "per_user", broken)
    for table in (lambda: evidence_tables.tests(again), lambda: contents.tables(again)):
        with pytest.raises(DataError, match="not a readable Parquet file"):
            table()


def test_only_what_is_absent_waits():
    class Graph:
        def state(self, stage):
            return State("absent", "train@x") if "lora" in stage else CURRENT

    waiting = _missing(contents.tables(experiment(absent=("lora",))), Graph())
    assert waiting.keys() == {"train@x", "not in the graph"}  # what comes before the target, not before another one
    assert {target for targets in waiting.values() for target in targets if not target.startswith("python")} == {
        f"evaluate@hm-clip-{model}-lora" for model in HOSTS
    }
