"""The BeFA result of one dataset: base, +BeFA and gain per model and metric, beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from befa.metrics import CUTOFFS, METRICS
from befa.report import text_tables
from befa.report.published import PAPER_METRICS, TABLE_2


def befa_table(
    dataset: str, encoder: str, base: Mapping[str, Mapping[str, Any]], befa: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Base, +BeFA and gain (relative: 0.05 is +5 %; null where the base is 0) per model and test metric.

    `base` and `befa` hold a cell's metrics.json by model: means over its seeds, beside which a row has
    `base_deviation` and `befa_deviation` where both cells have several. The paper's values stand beside where it has
    that cell; no published table used the small encoder trained here.
    """
    rows = []
    for model in base:
        for metric in (f"{m}@{k}" for m in METRICS for k in CUTOFFS):
            before, after = base[model]["test"][metric], befa[model]["test"][metric]
            row = {"model": model, "metric": metric, "base": before, "befa": after, "gain": _gain(before, after)}
            if "deviation" in base[model] and "deviation" in befa[model]:
                row["base_deviation"] = base[model]["deviation"]["test"][metric]
                row["befa_deviation"] = befa[model]["deviation"]["test"][metric]
            published = [TABLE_2.get((dataset, encoder, model, a), {}).get(metric) for a in ("none", "befa")]
            if None not in published:
                row["paper"] = {"base": published[0], "befa": published[1], "gain": _gain(*published)}
            rows.append(row)
    seeds = sorted({len(cell["seeds"]) for cell in (*base.values(), *befa.values())})
    return {"dataset": dataset, "encoder": encoder, "seeds": seeds, "rows": rows}


def about_seeds(table: Mapping[str, Any]) -> str:
    """What the numbers are over: one seed, or several."""
    seeds = " or ".join(map(str, table["seeds"]))
    return "one seed" if seeds == "1" else f"mean ± sample standard deviation over {seeds} seeds"


def cells(table: Mapping[str, Any], metrics: Sequence[str] = PAPER_METRICS) -> tuple[list[str], list[list[str]]]:
    """The table as text: header, and one row per model and metric of `metrics`; with the paper's columns if any."""
    rows = [row for row in table["rows"] if row["metric"] in metrics]
    with_paper = any("paper" in row for row in rows)
    header = ["model", "metric", "base", "+BeFA", "gain"] + ["paper base", "paper +BeFA", "paper gain"] * with_paper
    body = []
    for row in rows:
        line = [row["model"], row["metric"], *_shown(row)]
        body.append(line + (_shown(row["paper"]) if "paper" in row else [""] * 3) * with_paper)
    return header, body


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown, all metrics."""
    header, body = cells(table, [f"{m}@{k}" for m in METRICS for k in CUTOFFS])
    title = f"# BeFA on {table['dataset']} with {table['encoder']} features\n\n"
    command = f"Test part, {about_seeds(table)}; made by `dvc repro train_befa@{table['dataset']}`.\n\n"
    return title + command + "\n".join(text_tables.markdown(header, body, left=2)) + "\n"


def _gain(before: float, after: float) -> float | None:
    return None if before == 0 else after / before - 1


def _shown(values: Mapping[str, Any]) -> list[str]:
    gain = values["gain"]
    return [_with_deviation(values, "base"), _with_deviation(values, "befa"), "" if gain is None else f"{gain:+.1%}"]


def _with_deviation(values: Mapping[str, Any], column: str) -> str:
    deviation = values.get(f"{column}_deviation")
    return f"{values[column]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
