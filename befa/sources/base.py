"""What every source offers, and templates over its columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from befa.errors import ConfigError, nearest
from befa.needs import Need
from befa.progress import Progress


class Source(Protocol):
    """A module of befa/sources: how one dataset's raw files are had and read."""

    Config: Any
    """Type of the dataset's `source` parameter."""
    UNIT: str
    """What a fetch reports its progress in: bytes, pictures."""

    def needs(self, config: Any, dataset: str) -> list[Need]:
        """What a fetch needs (credentials, files placed by hand); nothing is asked over the network."""
        ...

    def fetch(self, config: Any, into: Path, *, dataset: str, progress: Progress) -> list[str]:
        """Brings the raw files into the folder `into`, where an earlier try may have left some; returns their names."""
        ...

    def events(self, raw: Path) -> Iterator[pa.RecordBatch]:
        """Interactions in file order, with the columns of EVENTS; and ACTION, where the source has kinds of event."""
        ...

    def items(self, raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
        """The item table, with the columns of ITEMS; `text` is a template over the source's own columns."""
        ...

    def vectors(self, raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
        """Modalities that come as vectors: item ids and one row each (float32), by the modality's name."""
        ...


def columns_in(template: str) -> list[str]:
    """The columns that a template names, each as {column} and nothing more. Raises ConfigError for another form."""
    return [name for _, name in _parts(template) if name is not None]


def filled(template: str, row: Mapping[str, str]) -> str:
    """`template` with each {column} replaced by its value in `row`."""
    return "".join(text + (row[name] if name is not None else "") for text, name in _parts(template))


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Pieces of text, and the column behind each."""
    mend = "name columns as {name}; a brace itself is {{ or }}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"the template {template!r} cannot be read ({error})", mend=mend) from None
    for _, name, form, conversion in parts:
        if name == "" or form or conversion:
            raise ConfigError(f"the template {template!r} has more, or less, than a name between its braces", mend=mend)
    return [(text, name) for text, name, _, _ in parts]


def render(template: str, row: Mapping[str, str | None]) -> str | None:
    """`template` filled from `row`; white space folded, null for a text that comes out empty.

    A null or absent value leaves its place empty. Raises ConfigError for a field that `row` does not have.
    """
    wanted = columns_in(template)
    for name in wanted:
        if name not in row:
            raise ConfigError(f"no column {name!r} for the text template {template!r}", mend=nearest(name, row))
    return " ".join(filled(template, {name: row[name] or "" for name in wanted}).split()) or None
