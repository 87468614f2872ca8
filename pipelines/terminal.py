"""Tables of text on the terminal."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table

WIDE = 160
"""Columns of a table that is not for a terminal, so that nothing is folded that another program reads."""


def console() -> Console:
    """Where tables are printed; COLUMNS of the environment goes first."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)


def show(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int,
    caption: str | None = None,
    sections: bool = False,
) -> None:
    """Prints a table; its first `left` columns are set to the left, the others, numbers, to the right.

    `sections`: a line stands between rows that differ in the first column.
    """
    shown = Table(title=title, caption=caption)
    for place, name in enumerate(header):
        shown.add_column(name, justify="left" if place < left else "right")
    for row, following in pairwise([*rows, [None]]):
        shown.add_row(*row, end_section=sections and row[0] != following[0])
    console().print(shown)
