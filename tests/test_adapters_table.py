"""Table 3 of one dataset: every adapter beside the others, and the stage that writes it."""

import pytest

from befa.metrics import CUTOFFS, METRICS
from befa.paths import Layout
from befa.report.adapters_table import ADAPTERS, adapters_table, cells
from befa.report.published import HOSTS
from befa.tables import read_json, write_json
from pipelines.stages import table_3

VALUES = {"none": 0.2, "lora": 0.25, "soft_prompt": 0.1, "befa": 0.3}


def metrics(value, seeds=3):
    test = {f"{m}@{k}": value for m in METRICS for k in CUTOFFS}
    return {"test": test, "seeds": {str(seed): {"test": test} for seed in range(seeds)}}


def found(**values):
    return {a: {m: metrics({**VALUES, **values}[a]) for m in HOSTS} for a in ADAPTERS}


def test_befa_is_compared_with_the_best_of_the_others():
    rows = adapters_table("demo", "small", found())["rows"]
    [row] = [row for row in rows if (row["model"], row["metric"]) == ("bm3", "map@20")]
    assert {adapter: row[adapter] for adapter in ADAPTERS} == VALUES
    assert row["over_best"] == pytest.approx(0.3 / 0.25 - 1)
    assert "paper" not in row
    assert adapters_table("demo", "small", found(none=0.0, lora=0.0, soft_prompt=0.0))["rows"][0]["over_best"] is None


def test_the_papers_figures_stand_beside():
    table = adapters_table("tmall", "clip", found())
    header, body = cells(table)
    assert header[:7] == ["model", "metric", "base", "+LoRA", "+SoftPrompt", "+BeFA", "BeFA over best"]
    [line] = [line for line in body if line[:2] == ["bm3", "recall@20"]]
    assert line[2:7] == ["0.2000", "0.2500", "0.1000", "0.3000", "+20.0%"]
    assert line[7:] == ["0.0298", "0.0333", "0.0298", "0.0319", "-4.2%"]


def test_the_stage_writes_and_prints_it(tmp_path, capsys):
    layout = Layout(tmp_path)
    for adapter, by_model in found().items():
        for model, of in by_model.items():
            write_json(layout.run("shop", "small", model, adapter) / "metrics.json", of)
    table_3.run("shop", "small", layout)
    into = layout.report("shop") / "small"
    assert read_json(into / "table_3.json")["seeds"] == [3]
    text = (into / "table_3.md").read_text()
    assert "| mgcn | recall@20 | 0.2000 | 0.2500 | 0.1000 | 0.3000 | +20.0% |" in text
    assert "dvc repro table_3@shop-small" in text
    assert "+20.0%" in capsys.readouterr().out
