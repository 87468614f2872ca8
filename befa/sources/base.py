"""What every source offers, and the configuration of a dataset."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Protocol

import pyarrow as pa
from pydantic import Field

from befa.config import configuration
from befa.errors import ConfigError, nearest

EVENTS = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64())])
"""One interaction a row: raw ids as strings (a number would lose leading zeros), time in seconds since 1970 (UTC)."""

ITEMS = pa.schema([("item", pa.string()), ("text", pa.string()), ("image", pa.string())])
"""One item a row; `text` and `image` (a reference for images.ImageFiles) are null where there is none."""


class Source(Protocol):
    """A module of befa/sources: how one dataset's raw files are had and read."""

    Config: Any
    """Type of the dataset's `source` parameter."""

    def fetch(self, config: Any, into: Path) -> None:
        """Puts the raw files into the empty folder `into`."""
        ...

    def events(self, raw: Path) -> Iterator[pa.RecordBatch]:
        """Interactions in file order, with the columns of EVENTS."""
        ...

    def items(self, raw: Path, text: str | None) -> pa.Table:
        """The item table, with the columns of ITEMS; `text` is a template over the source's own columns."""
        ...


@configuration
class Window:
    """The days to keep, both ends included; null leaves an end open."""

    since: date | None = None
    until: date | None = None


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
    require: tuple[Literal["image", "text"], ...] = ()
    """Keep only items that have these."""
    core: Annotated[int, Field(ge=1)] = 10
    """Fewest interactions of each user and each item that is kept (iterated)."""
    floor: Annotated[int, Field(ge=1)] = 20
    """Fewest users and items that the filter may leave; fewer is an error."""
    split: SplitConfig = SplitConfig()


def render(template: str, row: Mapping[str, str | None]) -> str | None:
    """`template` filled from `row`; white space folded, null for a text that comes out empty.

    A null or absent value leaves its place empty. Raises ConfigError for a field that `row` does not have.
    """
    wanted = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    for name in wanted:
        if name not in row:
            raise ConfigError(f"no column {name!r} for the text template {template!r}", mend=nearest(name, row))
    text = " ".join(template.format_map({name: row[name] or "" for name in wanted}).split())
    return text or None
