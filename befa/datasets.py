"""What a dataset is: the form of its events and items, and its block of params.yaml."""

from datetime import date
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from befa.config import configuration

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
