"""The overlap of neighbours on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from befa.report import overlap


def show(result: Mapping[str, Any]) -> None:
    """Prints one row per pair of feature stores."""
    header, rows = overlap.cells(result)
    shown = Table(title=f"Who is near whom on {result['dataset']}", caption=overlap.notes(result))
    for place, name in enumerate(header):
        shown.add_column(name, justify="left" if place < 2 else "right")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
