"""The BeFA table on the terminal."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from befa.report.befa_table import about_seeds, cells


def show(table: Mapping[str, Any], path: Path) -> None:
    """Prints base, +BeFA and gain per model; `path` is where all metrics stand."""
    header, body = cells(table)
    title = f"BeFA on {table['dataset']}, {table['encoder']} features, test part, {about_seeds(table)}"
    shown = Table(title=title, caption=f"all metrics: {path}")
    for name in header:
        shown.add_column(name, justify="left" if name in ("model", "metric") else "right")
    for line, following in pairwise([*body, [None]]):
        shown.add_row(*line, end_section=line[0] != following[0])
    Console().print(shown)
