"""How far a dataset's feature stores agree on which items are near each other: encoder by encoder, image by text."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from befa import coverage, tables
from befa.report import text_tables


def table(dataset: str, stores: Mapping[str, Path]) -> dict[str, Any]:
    """`coverage.overlap` of every pair of `stores`, which are named "encoder/modality", in their order.

    - `pairs`, by "first ~ second": `items` present in both; `neighbour_overlap`, the mean share of common items among
      an item's 10 nearest others, and `by_chance`, what unrelated vectors would have, both null with fewer than 12.
    - `skipped`: stores without any vector, such as the images of an encoder of texts.
    """
    skipped = [name for name, path in stores.items() if "ok" not in _statuses(path)]
    pairs = {}
    for first, second in combinations([name for name in stores if name not in skipped], 2):
        found = coverage.overlap(stores[first], stores[second])
        known = found["neighbour_overlap"] is not None
        chance = round(coverage.NEIGHBOURS / (found["items"] - 1), 6) if known else None
        pairs[f"{first} ~ {second}"] = {**found, "by_chance": chance}
    return {"dataset": dataset, "pairs": pairs, "skipped": skipped}


def cells(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text."""
    rows = [
        [*name.split(" ~ "), f"{pair['items']:,}", _share(pair["neighbour_overlap"]), _share(pair["by_chance"])]
        for name, pair in result["pairs"].items()
    ]
    return ["first", "second", "items", "overlap", "by chance"], rows


def notes(result: Mapping[str, Any]) -> str:
    """What is to be known beside the numbers, as one line."""
    measured = "share of common items among the 10 nearest, by cosine"
    return "; ".join([measured, *(f"{name} is left out: it has no vector" for name in result["skipped"])])


def markdown(result: Mapping[str, Any]) -> str:
    """The table and its notes."""
    return "\n".join([*text_tables.markdown(*cells(result), left=2), "", f"{notes(result)}.", ""])


def _statuses(path: Path) -> list[str]:
    return tables.read_table(path, ["status"])["status"].unique().to_pylist()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
