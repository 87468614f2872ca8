"""The adapters of one dataset's hosts beside each other, and BeFA over the best of the others: the paper's Table 3."""

from collections.abc import Mapping
from typing import Any

from befa.metrics import CUTOFFS, METRICS
from befa.report import published, text_tables
from befa.report.published import PAPER_METRICS

ADAPTERS = {"none": "base", "lora": "+LoRA", "soft_prompt": "+SoftPrompt", "befa": "+BeFA"}
"""As the paper orders them, and how they are shown."""


def adapters_table(dataset: str, encoder: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Every adapter's value per model and test metric, and BeFA's gain over the best of the others.

    `found` holds each cell's metrics.json by adapter and model: means over its seeds. `over_best` is relative (0.05 is
    +5 %; null where that best is 0). The paper's row stands beside where it has one.
    """
    rows = []
    for model in found["none"]:
        for metric in (f"{m}@{k}" for m in METRICS for k in CUTOFFS):
            row = {
                "model": model,
                "metric": metric,
                **_compared({a: found[a][model]["test"][metric] for a in ADAPTERS}),
            }
            paper = {a: published.figure("table3", (dataset, encoder, model, a), metric) for a in ADAPTERS}
            if None not in paper.values():
                row["paper"] = _compared(paper)
            rows.append(row)
    seeds = sorted({len(cell["seeds"]) for cells in found.values() for cell in cells.values()})
    return {"dataset": dataset, "encoder": encoder, "seeds": seeds, "rows": rows}


def cells(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table as text, the paper's metrics: header, and one row per model and metric; the paper's columns if any."""
    rows = [row for row in table["rows"] if row["metric"] in PAPER_METRICS]
    with_paper = any("paper" in row for row in rows)
    names, blank = [*ADAPTERS.values(), "BeFA over best"], [""] * (len(ADAPTERS) + 1)
    header, body = ["model", "metric", *names], []
    if with_paper:
        header += [f"paper {name}" for name in names]
    for row in rows:
        line = [row["model"], row["metric"], *_shown(row)]
        body.append(line + (_shown(row["paper"]) if "paper" in row else blank) * with_paper)
    return header, body


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    header, body = cells(table)
    dataset, encoder = table["dataset"], table["encoder"]
    title = f"# Adapters on {dataset} with {encoder} features\n\n"
    seeds = " or ".join(map(str, table["seeds"])) + (" seed" if table["seeds"] == [1] else " seeds")
    command = f"Test part, means over {seeds}; made by `dvc repro table_3@{dataset}-{encoder}`. "
    tested = "The report has deviations and tests (`dvc repro report`).\n\n"
    return title + command + tested + "\n".join(text_tables.markdown(header, body, left=2)) + "\n"


def _compared(values: Mapping[str, float]) -> dict[str, Any]:
    best = max(value for adapter, value in values.items() if adapter != "befa")
    return {**values, "over_best": None if best == 0 else values["befa"] / best - 1}


def _shown(values: Mapping[str, Any]) -> list[str]:
    gain = values["over_best"]
    return [*(f"{values[adapter]:.4f}" for adapter in ADAPTERS), "" if gain is None else f"{gain:+.1%}"]
