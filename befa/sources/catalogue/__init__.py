"""A catalogue of your own, described in params.yaml alone: docs/your-own-catalogue.md shows it.

Interactions and items are CSV (or TSV) or Parquet files of any columns; pictures come from a folder by a pattern or by
a column of paths, or from web addresses; further modalities come as vectors made elsewhere. The raw folder holds
copies, and catalogue.json, which says how they are read: it can be shared and read without the originals.
"""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, field
from pathlib import Path
from string import Formatter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from befa import config as configurations
from befa import downloads, tables
from befa.config import configuration
from befa.errors import ConfigError, DataError
from befa.needs import Need
from befa.sources import tabular
from befa.sources.base import ACTION, EVENTS, ITEMS, Progress, render

PICTURES, DESCRIPTION = "images.zip", "catalogue.json"
TABLES = (".csv", ".tsv", ".parquet")


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


Config = CatalogueConfig
UNIT = "pictures"


def needs(config: CatalogueConfig, dataset: str) -> list[Need]:
    """Every file that the description names."""
    folder = Path(downloads.mirrors(config.folder, dataset)).expanduser()
    return [
        Need(f"{name} in {folder}", (folder / name).is_file(), "place it there, or correct the name in params.yaml")
        for name, _ in _copies(config)
    ]


def _copies(config: CatalogueConfig) -> list[tuple[str, str]]:
    """Files of the catalogue and their names in the raw folder; one file may have several (ids of two modalities)."""
    copies = [(config.interactions.file, "interactions" + _suffix(config.interactions.file))]
    if config.items is not None:
        copies.append((config.items.file, "items" + _suffix(config.items.file)))
    for modality, given in config.features.items():
        copies += [(given.vectors, f"{modality}.npy"), (given.ids, f"{modality}.ids.txt")]
    return copies


def _suffix(file: str) -> str:
    suffix = Path(file).suffix.lower()
    if suffix not in TABLES:
        raise ConfigError(f"{file!r} is no table that can be read", mend=f"known: {', '.join(TABLES)}")
    return suffix


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
        _vectors(into, name)  # read once, to be sure
    if config.images is not None and config.images.url is None:
        _pack(config, folder, into, progress)
        names.append(PICTURES)
    return [*names, DESCRIPTION]


def _check_images(config: CatalogueConfig) -> None:
    given = [name for name, value in asdict(config.images).items() if value is not None]
    if len(given) != 1:
        what = f"images need one of pattern, column and url; given: {', '.join(given) or 'none'}"
        raise ConfigError(what, where="params.yaml", mend="keep one")
    if config.items is None:
        raise ConfigError("images need an items file", where="params.yaml", mend="add `items`")


def _pack(config: CatalogueConfig, folder: Path, into: Path, progress: Progress) -> None:
    """All pictures there are, sorted, into one archive that says nothing of when or where it was made."""
    rows = list(_rows(into, config))
    wanted = sorted({path for row in rows if (path := _picture_path(config, row)) is not None})
    root = folder.resolve()
    with tables.whole(into / PICTURES) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for place, name in enumerate(wanted, start=1):
            path = (folder / name).resolve()
            if path.is_relative_to(root) and path.is_file():
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                archive.writestr(info, path.read_bytes())
            progress(place, len(wanted), "")
        if wanted and not archive.namelist():
            raise DataError(
                f"not one of {len(wanted)} pictures is there (first: {wanted[0]})",
                where=folder,
                mend="correct `images` in the dataset's block of params.yaml",
            )


def _picture_path(config: CatalogueConfig, row: Mapping[str, str | None]) -> str | None:
    if config.images.column is not None:
        return row[config.images.column] or None
    filled = {name: row[name] for _, name, _, _ in Formatter().parse(config.images.pattern) if name is not None}
    return None if None in filled.values() else config.images.pattern.format_map(filled)


def _description(raw: Path) -> CatalogueConfig:
    stored = tables.read_json(raw / DESCRIPTION)
    return configurations.load({"catalogue": stored}, "catalogue", CatalogueConfig)


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Interactions in file order; without a column of times, a row's time is its place in the file."""
    config = _description(raw)
    table = config.interactions
    path = raw / ("interactions" + _suffix(table.file))
    wanted = [name for name in (table.user, table.item, table.time, table.action) if name is not None]
    schema = EVENTS if table.action is None else EVENTS.append(pa.field(ACTION, pa.string()))
    row = 0
    for batch in _batches(path, wanted, {} if table.time is None else {table.time: _time_type(path, table.time)}):
        ids = [_as_ids(batch[name], name, path) for name in (table.user, table.item)]
        times = pa.array(np.arange(row, row + len(batch)))
        if table.time is not None:
            times = _seconds(batch[table.time], table.unit, path)
        actions = [] if table.action is None else [batch[table.action].cast(pa.string())]
        yield pa.record_batch([*ids, times, *actions], schema=schema)
        row += len(batch)


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Items with their text by template over all columns of the items file (none: no text), and their picture."""
    config = _description(raw)
    if config.items is None:
        return
    pictures: set[str] = set()
    if (raw / PICTURES).exists():
        with zipfile.ZipFile(raw / PICTURES) as archive:
            pictures = set(archive.namelist())

    def image(row: Mapping[str, str | None]) -> str | None:
        if config.images is None:
            return None
        if config.images.url is not None:
            return row[config.images.url] or None
        path = _picture_path(config, row)
        return f"{PICTURES}/{path}" if path in pictures else None

    rows = list(_rows(raw, config))
    ids = [row[config.items.item] for row in rows]
    texts = [None if text is None else render(text, row) for row in rows]
    yield pa.record_batch([pa.array(column, pa.string()) for column in (ids, texts, map(image, rows))], schema=ITEMS)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Item ids and vectors of every further modality, by its name."""
    return {name: _vectors(raw, name) for name in _description(raw).features}


def _vectors(raw: Path, name: str) -> tuple[list[str], np.ndarray]:
    try:
        ids = (raw / f"{name}.ids.txt").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError("not a text in UTF-8", where=f"ids of {name}", mend="give one item id a line") from None
    try:
        values = np.load(raw / f"{name}.npy", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(
            f"not an array of numbers ({error})", where=f"{name}.npy", mend="save it with numpy.save"
        ) from None
    if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != len(ids):
        what = f"{name}: {len(ids)} ids for an array of shape {values.shape} of {values.dtype}"
        raise DataError(what, where="features of the catalogue", mend="give one id a line, one row of numbers an id")
    return ids, values.astype(np.float32)


def _rows(raw: Path, config: CatalogueConfig) -> Iterator[dict[str, str | None]]:
    """The items file row by row, every column as text."""
    path = raw / ("items" + _suffix(config.items.file))
    header = _header(path)
    named = [config.items.item]
    if config.images is not None:
        pattern = config.images.pattern or ""
        named += [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
        named += [name for name in (config.images.column, config.images.url) if name is not None]
    tabular.require(header, named, path.name)
    for batch in _batches(path, header, {}):
        columns = {name: batch[name].cast(pa.string()).to_pylist() for name in header}
        columns[config.items.item] = _as_ids(batch[config.items.item], config.items.item, path).to_pylist()
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return file.schema_arrow.names
    with path.open(encoding="utf-8-sig") as file:
        return tabular.columns(file.readline(), _delimiter(path))


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _batches(path: Path, columns: list[str], types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Batches of some columns; those of text files are text, unless `types` says otherwise."""
    if not path.exists():
        raise tabular.missing(path, "download of the dataset")
    tabular.require(_header(path), columns, path.name)
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)
        return
    with path.open("rb") as file:
        strings = dict.fromkeys(columns, pa.string())
        yield from tabular.read(
            file, strings | dict(types), where=path.name, delimiter=_delimiter(path), multiline=True
        )


def _time_type(path: Path, column: str) -> pa.DataType:
    """Of a text file's times, by the first of them."""
    if path.suffix == ".parquet":
        return pa.null()
    for batch in _batches(path, [column], {}):
        known = batch[column].drop_null()
        if len(known):
            return pa.int64() if known[0].as_py().lstrip("-").isdigit() else pa.timestamp("s")
    return pa.timestamp("s")


def _seconds(column: pa.Array, unit: str, path: Path) -> pa.Array:
    """Times of whatever type as seconds since 1970."""
    try:
        if pa.types.is_integer(column.type):
            return pc.divide(column.cast(pa.int64()), 1_000 if unit == "ms" else 1)
        if pa.types.is_timestamp(column.type):
            return column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
        return tabular.seconds(column)
    except pa.ArrowInvalid as error:
        raise DataError(f"times cannot be read ({error})", where=path.name, mend="give dates or numbers") from None
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"times are {column.type}", where=path.name, mend="give dates, times or whole numbers"
        ) from None


def _as_ids(column: pa.Array, name: str, path: Path) -> pa.Array:
    """Ids as text. Whole numbers are what they look like; a float was a whole number once, before a null came in."""
    if pa.types.is_floating(column.type):
        what = f"column {name!r} holds ids as {column.type}"
        raise DataError(what, where=path.name, mend="save ids as text or whole numbers (pandas makes floats of both)")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())
