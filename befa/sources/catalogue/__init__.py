"""A catalogue of your own, described in params.yaml alone: docs/your-own-catalogue.md shows it.

Interactions and items are CSV (or TSV) or Parquet files of any columns; pictures come from a folder by a pattern or by
a column of paths, or from web addresses; further modalities come as vectors made elsewhere. The raw folder holds
copies, and catalogue.json, which says how they are read: it can be shared and read without the originals.
"""

import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from befa import archives, downloads, tables
from befa.datasets import ACTION, EVENTS, ITEMS, PLACE
from befa.errors import ConfigError, DataError
from befa.needs import Need
from befa.progress import Progress
from befa.sources.base import columns_in, render
from befa.sources.catalogue.description import (
    DESCRIPTION,
    CatalogueConfig,
    description_in,
    picture_path,
    written_path,
)
from befa.sources.catalogue.reading import as_ids, batches_of, item_rows, seconds_of, suffix_of, time_type, vectors_of

Config = CatalogueConfig
UNIT = "pictures"
PICTURES = "images.zip"
ROWS_AT_ONCE = 65_536
ADDRESS = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
"""How a web address begins."""


def needs(config: CatalogueConfig, dataset: str) -> list[Need]:
    """Every file that the description names."""
    folder = Path(downloads.mirrors(config.folder, dataset)).expanduser()
    shown, mend = downloads.shown(str(folder)), "place it there, or correct the name in params.yaml"
    return [Need(f"{name} in {shown}", (folder / name).is_file(), mend) for name, _ in _copies(config)]


def _copies(config: CatalogueConfig) -> list[tuple[str, str]]:
    """Files of the catalogue and their names in the raw folder; one file may have several (ids of two modalities)."""
    copies = [(config.interactions.file, "interactions" + suffix_of(config.interactions.file))]
    if config.items is not None:
        copies.append((config.items.file, "items" + suffix_of(config.items.file)))
    for modality, given in config.features.items():
        copies += [(given.vectors, f"{modality}.npy"), (given.ids, f"{modality}.ids.txt")]
    return copies


def fetch(config: CatalogueConfig, into: Path, *, dataset: str, progress: Progress) -> list[str]:
    """Copies the tables and vectors, and packs the pictures of the items file into one archive.

    Raises ConfigError for a description that names what is not there, and DataError for an absent file.
    """
    if config.images is not None:
        _check_images(config)
    for modality in config.features:
        # Under these two names the encoder's vectors would be taken, and these ones silently not.
        if modality in ("image", "text") or not modality.isidentifier():
            what = f"{modality!r} is no name for a modality of one's own"
            raise ConfigError(what, where="params.yaml", mend="name it image_given, audio or the like")
    for need in needs(config, dataset):
        if not need.there:
            raise DataError("no such file", where=need.what, mend=need.mend)
    folder = Path(downloads.mirrors(config.folder, dataset)).expanduser()
    names = []
    for name, copy in _copies(config):
        with tables.whole(into / copy) as part:
            shutil.copyfile(folder / name, part)
        names.append(copy)
    tables.write_json(into / DESCRIPTION, asdict(config) | {"folder": ""})
    for name in config.features:
        vectors_of(into, name)  # read once, to be sure
    if config.images is not None and config.images.url is not None:
        _check_addresses(config, into)
    elif config.images is not None:
        _pack(config, folder, into, progress)
        names.append(PICTURES)
    return [*names, DESCRIPTION]


def _check_images(config: CatalogueConfig) -> None:
    given = [name for name, value in asdict(config.images).items() if value is not None]
    if len(given) != 1:
        what = f"images need one of pattern, column and url; given: {', '.join(given) or 'none'}"
        raise ConfigError(what, where="params.yaml", mend="keep one")
    columns_in(config.images.pattern or "")
    if config.items is None:
        raise ConfigError("images need an items file", where="params.yaml", mend="add `items`")


def _check_addresses(config: CatalogueConfig, into: Path) -> None:
    """One or another that is none is counted by the stage `media`; where none is one, it is another column."""
    column = config.images.url
    given = [row[column] for row in item_rows(into, config) if (row[column] or "").strip()]
    if given and not any(ADDRESS.match(value) for value in given):
        what = f"not one of {len(given)} values of {column!r} is a web address (first: {given[0]!r})"
        raise DataError(what, where=config.items.file, mend="name another column, or begin them with https://")


def _pack(config: CatalogueConfig, folder: Path, into: Path, progress: Progress) -> None:
    """All pictures there are, sorted, into one archive that says nothing of when or where it was made."""
    given = {path: picture_path(config, row) for row in item_rows(into, config) if (path := written_path(config, row))}
    wanted = sorted({name for name in given.values() if name is not None})
    root = folder.resolve()
    with tables.whole(into / PICTURES) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for place, name in enumerate(wanted, start=1):
            path = (folder / name).resolve()
            if path.is_relative_to(root) and path.is_file():
                archives.add(archive, name, path.read_bytes())
            progress(place, len(wanted), "")
        if given and not archive.namelist():
            raise DataError(
                f"not one of {len(given)} pictures is there below the folder (first: {min(given)})",
                where=folder,
                mend="correct `images` in the dataset's block of params.yaml",
            )


@contextmanager
def _own_names(raw: Path, config: CatalogueConfig) -> Iterator[None]:
    """Errors name the catalogue's own file, of which the raw folder has a copy, and how a mended one is taken over."""
    try:
        yield
    except DataError as error:
        own = next((name for name, copy in _copies(config) if copy == error.where), None)
        if own is None:
            raise
        mend = f"{error.mend}; then `dvc repro --force --single-item download@{raw.name}`"
        raise DataError(error.what, where=own, mend=mend) from None


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Interactions in file order; without a column of times, a row's time is its place in the file."""
    config = description_in(raw)
    with _own_names(raw, config):
        yield from _events(raw, config)


def _events(raw: Path, config: CatalogueConfig) -> Iterator[pa.RecordBatch]:
    table = config.interactions
    path = raw / ("interactions" + suffix_of(table.file))
    wanted = [name for name in (table.user, table.item, table.time, table.action) if name is not None]
    schema = EVENTS if table.action is None else EVENTS.append(pa.field(ACTION, pa.string()))
    if table.time is None:
        schema = schema.with_metadata({PLACE: "file"})
    row = 0
    for batch in batches_of(path, wanted, {} if table.time is None else {table.time: time_type(path, table.time)}):
        ids = [as_ids(batch[name], name, path) for name in (table.user, table.item)]
        times = pa.array(np.arange(row, row + len(batch)))
        if table.time is not None:
            times = seconds_of(batch[table.time], table.unit, path)
        actions = [] if table.action is None else [batch[table.action].cast(pa.string())]
        yield pa.record_batch([*ids, times, *actions], schema=schema)
        row += len(batch)


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Items with their text by template over all columns of the items file (none: no text), and their picture."""
    config = description_in(raw)
    if config.items is not None:
        with _own_names(raw, config):
            yield from _items(raw, config, text)


def _items(raw: Path, config: CatalogueConfig, text: str | None) -> Iterator[pa.RecordBatch]:
    pictures: set[str] = set()
    if (raw / PICTURES).exists():
        with archives.opened(raw / PICTURES) as archive:
            pictures = set(archive.namelist())

    def image(row: Mapping[str, str | None]) -> str | None:
        if config.images is None:
            return None
        if config.images.url is not None:
            address = (row[config.images.url] or "").strip()
            if not address:
                return None
            return address if ADDRESS.match(address) else f"//{address}"
        path = picture_path(config, row)
        return f"{PICTURES}/{path}" if path in pictures else None

    rows = item_rows(raw, config, text)
    while block := list(islice(rows, ROWS_AT_ONCE)):
        ids = [row[config.items.item] for row in block]
        texts = [None if text is None else render(text, row) for row in block]
        columns = (ids, texts, map(image, block))
        yield pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=ITEMS)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Item ids and vectors of every further modality, by its name."""
    config = description_in(raw)
    with _own_names(raw, config):
        return {name: vectors_of(raw, name) for name in config.features}
