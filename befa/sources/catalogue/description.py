"""What is said of a catalogue: the `source` block of its dataset, and catalogue.json in its raw folder."""

import posixpath
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Literal

from befa import config as configurations
from befa import tables
from befa.config import configuration
from befa.sources.base import columns_in, filled

DESCRIPTION = "catalogue.json"


@configuration
class Interactions:
    """Who did what with which item."""

    file: str
    user: str
    """Column of user ids."""
    item: str
    """Column of item ids."""
    time: str | None = None
    """Column of times: dates, ISO times, or numbers since 1970; null: rows are in the order of time."""
    unit: Literal["s", "ms"] = "s"
    """Unit of times that are numbers."""
    action: str | None = None
    """Column of kinds of event, for the dataset's `actions`."""


@configuration
class Items:
    """What is known of items; every column can stand in the dataset's text template."""

    file: str
    item: str
    """Column of item ids."""


@configuration
class Images:
    """Where pictures are: one of the three."""

    pattern: str | None = None
    """Path below the catalogue's folder, over the columns of the items file: "photos/{sku}.jpg"."""
    column: str | None = None
    """Column of the items file that holds such paths."""
    url: str | None = None
    """Column of the items file that holds web addresses."""


@configuration
class Vectors:
    """A further modality as vectors made elsewhere."""

    vectors: str
    """A .npy file, one row an item."""
    ids: str
    """A text file of their item ids, one a line."""


@configuration
class CatalogueConfig:
    """The `source` block of a catalogue. Files are named relative to `folder`."""

    folder: str
    interactions: Interactions
    items: Items | None = None
    images: Images | None = None
    features: dict[str, Vectors] = field(default_factory=dict)
    """By the name of the modality ("audio")."""


def description_in(raw: Path) -> CatalogueConfig:
    """The description of the raw folder `raw`."""
    return configurations.check(tables.read_json(raw / DESCRIPTION), "catalogue", CatalogueConfig)


def picture_path(config: CatalogueConfig, row: Mapping[str, str | None]) -> str | None:
    """The picture of one row of the items file, below the catalogue's folder; None where a column of it is empty.

    In its shortest form ("photos/1.jpg" for "./photos//1.jpg"), the one name under which it is packed and looked for;
    None also for a path that leads out of the folder.
    """
    path = written_path(config, row)
    if path is None:
        return None
    path = posixpath.normpath(path)
    return None if path.startswith(("/", "../")) or path in (".", "..") else path


def written_path(config: CatalogueConfig, row: Mapping[str, str | None]) -> str | None:
    """The same as the items file has it."""
    if config.images.column is not None:
        return row[config.images.column] or None
    values = {name: row[name] for name in columns_in(config.images.pattern)}
    return None if None in values.values() else filled(config.images.pattern, values)
