"""What every source offers, and the configuration of a dataset."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field

from befa.config import configuration
from befa.errors import ConfigError, nearest
from befa.needs import Need

EVENTS = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64())])
"""One interaction a row: raw ids as strings (a number would lose leading zeros), time in seconds since 1970 (UTC)."""

PLACE = "place"
"""Key in the metadata of a schema of events whose `time` is no time but a place: in the order of the "file", or in that
of the "user" alone, so that no two users' can be compared."""

ACTION = "action"
"""Name of a further column of events, where the source tells clicks from purchases."""

ITEMS = pa.schema([("item", pa.string()), ("text", pa.string()), ("image", pa.string())])
"""One item a row; `text` and `image` are null where there is none. `image` is a reference for images.ImageFiles below
the raw folder, or a web address, whose picture the media stage fetches."""


Progress = Callable[[int, int | None, str], None]
"""Told of long work: how much is done, how much there is in all (None: unknown), and a word on what is at hand."""


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


@configuration
class Window:
    """The days to keep, both ends included; null leaves an end open."""

    since: date | None = None
    until: date | None = None
    first_days: Annotated[int, Field(ge=1)] | None = None
    """Of what is left, only so many days from the first event's on."""


@configuration
class SplitConfig:
    """How interactions are divided into train, valid and test; the rules are described in splits.py."""

    rule: Literal["random", "user_time", "global_time", "mmrec"] = "random"
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of interactions for validation. The rule `mmrec` has its own shares."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of interactions for the test."""
    seed: int = 1
    """Seed of the rules that draw (random, mmrec)."""


@configuration
class DatasetConfig:
    """One block of `datasets` in params.yaml."""

    kind: str
    """Which source reads it: a key of sources.SOURCES."""
    source: Any
    """Where its raw data come from; its form is the source's own `Config`."""
    text: str | None = None
    """Template of an item's text over the source's columns; null: the source's default."""
    window: Window = Window()
    actions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Kinds of event to keep, where the source tells them apart (click, cart, ...); null: all."""
    require: tuple[Literal["image", "text"], ...] = ()
    """Keep only items that have these."""
    core: Annotated[int, Field(ge=1)] = 10
    """Fewest interactions of each user and each item that is kept (iterated)."""
    floor: Annotated[int, Field(ge=1)] = 20
    """Fewest users and items that the filter may leave; fewer is an error."""
    split: SplitConfig = SplitConfig()


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
