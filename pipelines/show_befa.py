"""BeFA's result on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from befa.report import befa_table
from pipelines import terminal


def show(table: Mapping[str, Any], path: Path) -> None:
    """Prints base, +BeFA and gain per model; `path` is where all metrics stand."""
    title = f"BeFA on {table['dataset']}, {table['encoder']} features, test part, {befa_table.about_seeds(table)}"
    terminal.show(title, *befa_table.cells(table), left=2, caption=f"all metrics: {path}", sections=True)
