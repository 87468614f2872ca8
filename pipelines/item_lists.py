"""Ranked items with their titles and pictures, on the terminal: what `recommend` and `similar` have in common."""

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from befa import tables
from befa.paths import Layout
from pipelines.terminal import console

log = logging.getLogger(__name__)

TITLE_CELLS = 48
"""Of the terminal that a title may take; a Chinese character takes two."""


class Ranked(NamedTuple):
    """One line."""

    rank: int
    score: float
    item: str
    title: str | None
    picture: str | None


def describer(layout: Layout, dataset: str) -> Callable[[pa.Table], pa.Table]:
    """Adds to a table's column `item` titles, and pictures' references (paths below data/); null without."""
    items, pictures = layout.items(dataset), layout.references(dataset)
    if pictures.is_file():
        shown = tables.read_table(pictures, ["item", "image"])
    else:  # a machine that serves need not have them
        log.info("no pictures are named: %s is not there (dvc pull media@%s)", pictures, dataset)
        shown = pa.table({"item": pa.array([], pa.string()), "image": pa.array([], pa.string())})
    sources = (("title", tables.read_table(items, ["item", "text"]), "text"), ("picture", shown, "image"))

    def described(found: pa.Table) -> pa.Table:
        for name, table, column in sources:
            place = pc.index_in(found["item"], value_set=table["item"].cast(pa.string()))
            found = found.append_column(name, table[column].cast(pa.string()).take(place))
        return found

    return described


def show(title: str, score: str, rows: Iterable[Ranked]) -> None:
    """Prints a table; `score`: what the second column is called."""
    # Text, not str: square brackets in a title are no markup.
    shown = Table(title=Text(title))
    shown.add_column("rank", justify="right", no_wrap=True)
    shown.add_column(score, justify="right", no_wrap=True)
    shown.add_column("item", no_wrap=True)
    shown.add_column("title", overflow="fold")
    shown.add_column("picture", overflow="fold")
    for row in rows:
        name, picture = Text(shortened(row.title) or "-"), Text(row.picture or "-")
        shown.add_row(str(row.rank), f"{row.score:.4f}", Text(row.item), name, picture)
    console().print(shown)


def shortened(title: str | None) -> str:
    """A title on one line of TITLE_CELLS, with an ellipsis where it is cut; empty without one."""
    text = Text(" ".join((title or "").split()))
    text.truncate(TITLE_CELLS, overflow="ellipsis")
    return text.plain
