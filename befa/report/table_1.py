"""Table 1 of the paper for one dataset: sizes after filtering, the paper's, the difference, and what each step left."""

from collections.abc import Mapping
from typing import Any

from befa.report import text_tables

SIZES = ("users", "items", "interactions", "density")


def table(dataset: str, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, the paper's and the difference by size, and the filter's steps, from the certificate `stats`."""
    ours, paper = {name: stats[name] for name in SIZES}, stats["paper"]
    difference = None
    if paper is not None:
        difference = {
            name: {"absolute": ours[name] - paper[name], "share": ours[name] / paper[name] - 1} for name in SIZES
        }
    steps = [{"step": name, **stats[name]} for name in ("read", "window", "available", "unique") if name in stats]
    steps += [{"step": f"round {n}", **counts} for n, counts in enumerate(stats["rounds"], start=1)]
    compared = {"ours": ours, "paper": paper, "difference": difference}
    return {"dataset": dataset, "core": stats["core"], **compared, "steps": steps}


def sizes(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison, as text."""
    rows = [["ours", *(_size(name, result["ours"][name]) for name in SIZES)]]
    if result["paper"] is None:
        rows.append(["paper", *("-" for _ in SIZES)])
    else:
        rows.append(["paper", *(_size(name, result["paper"][name]) for name in SIZES)])
        rows.append(["difference", *(_difference(name, result["difference"][name]) for name in SIZES)])
    return [f"{result['dataset']}, {result['core']}-core", *SIZES], rows


def steps(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each step left, as text."""
    header = ["step", "users", "items", "interactions"]
    body = []
    for step in result["steps"]:
        name = step["step"]
        if "require" in step:
            name += f" ({', '.join(step['require'])})"
        if "actions" in step:
            name += " (" + ", ".join(f"{action} {count:,}" for action, count in step["actions"].items()) + ")"
        body.append([name, *(f"{step[column]:,}" if column in step else "" for column in header[1:])])
    return header, body


def markdown(result: Mapping[str, Any]) -> str:
    """Both tables."""
    notes = [] if result["paper"] is not None else ["", "The paper has no such dataset."]
    both = (text_tables.markdown(*table, left=1) for table in (sizes(result), steps(result)))
    return "\n".join([*next(both), *notes, "", *next(both), ""])


def _size(name: str, value: float) -> str:
    return f"{value:.3%}" if name == "density" else f"{value:,}"


def _difference(name: str, difference: Mapping[str, float]) -> str:
    if name == "density":
        return f"{100 * difference['absolute']:+.3f} points"  # the paper's has one or two digits: a share would mislead
    return "0" if difference["absolute"] == 0 else f"{difference['absolute']:+,} ({difference['share']:+.1%})"
