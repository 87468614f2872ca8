"""Table 1 on the terminal."""

from collections.abc import Mapping
from typing import Any

from befa.report import table_1
from pipelines import terminal


def show(result: Mapping[str, Any]) -> None:
    """Prints sizes beside the paper's, and what every step left."""
    terminal.show("Table 1", *table_1.sizes(result), left=1)
    terminal.show("The filter", *table_1.steps(result), left=1)
