"""The overlap of neighbours on the terminal."""

from collections.abc import Mapping
from typing import Any

from befa.report import overlap
from pipelines import terminal


def show(result: Mapping[str, Any]) -> None:
    """Prints one row per pair of feature stores."""
    title = f"Who is near whom on {result['dataset']}"
    terminal.show(title, *overlap.cells(result), left=2, caption=overlap.notes(result))
