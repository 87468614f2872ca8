"""Table 1 on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from befa.report import table_1


def show(result: Mapping[str, Any]) -> None:
    """Prints sizes beside the paper's, and what every step left."""
    for title, (header, rows) in (("Table 1", table_1.sizes(result)), ("The filter", table_1.steps(result))):
        shown = Table(title=title)
        for place, name in enumerate(header):
            shown.add_column(name, justify="right" if place else "left")
        for row in rows:
            shown.add_row(*row)
        Console().print(shown)
