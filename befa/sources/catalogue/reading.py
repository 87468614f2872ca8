"""Tables and vectors of any form, as the raw folder has them."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from befa.errors import ConfigError, DataError
from befa.sources import tabular
from befa.sources.base import columns_in
from befa.sources.catalogue.description import CatalogueConfig

TABLES = (".csv", ".tsv", ".parquet")

FIRST_DATE, LAST_DATE = 1900_01_01, 2099_12_31
"""Numbers that are dates without their hyphens."""

YEAR = 31_556_952
LATEST = 130 * YEAR
"""Seconds since 1970 that are the year 2100's."""

NUMBERS = {r"-?\d+": pa.int64(), r"-?\d+\.0*|-?\d(\.\d+)?[eE]\+?\d+": pa.float64()}
"""Of a text file's times, by the first of them; all else is a text."""


def suffix_of(file: str) -> str:
    """The suffix of a table. Raises ConfigError for one that cannot be read."""
    suffix = Path(file).suffix.lower()
    if suffix not in TABLES:
        raise ConfigError(f"{file!r} is no table that can be read", mend=f"known: {', '.join(TABLES)}")
    return suffix


def item_rows(raw: Path, config: CatalogueConfig, text: str | None = None) -> Iterator[dict[str, str | None]]:
    """The items file row by row, as text: the columns of the description and of the template `text`; others are None.

    Raises DataError for a column that is not there, or is no text, number or date.
    """
    path = raw / ("items" + suffix_of(config.items.file))
    header = _header(path)
    named = [config.items.item]
    if config.images is not None:
        named += columns_in(config.images.pattern or "")
        named += [name for name in (config.images.column, config.images.url) if name is not None]
    tabular.require(header, named, path.name)
    # A template's unknown column is told by who fills it.
    named += [name for name in columns_in(text or "") if name in header]
    others = dict.fromkeys(header)
    for batch in batches_of(path, list(dict.fromkeys(named)), {}):
        columns = {name: _as_text(batch[name], name, path) for name in batch.schema.names}
        columns[config.items.item] = as_ids(batch[config.items.item], config.items.item, path)
        for values in zip(*(column.to_pylist() for column in columns.values()), strict=True):
            yield others | dict(zip(columns, values, strict=True))


def _as_text(column: pa.Array, name: str, path: Path) -> pa.Array:
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        what = f"column {name!r} holds {column.type}, which is no text"
        raise DataError(what, where=path.name, mend="save it as text, or name another column") from None


def _header(path: Path) -> list[str]:
    with tabular.errors(path.name):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.schema_arrow.names
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=_delimiter(path)), [])


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def batches_of(path: Path, columns: list[str], types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Batches of some columns; those of text files are text, unless `types` says otherwise."""
    if not path.exists():
        raise tabular.missing(path)
    tabular.require(_header(path), columns, path.name)
    if path.suffix == ".parquet":
        with tabular.errors(path.name), pq.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)
        return
    with path.open("rb") as file:
        strings = dict.fromkeys(columns, pa.string())
        yield from tabular.read(
            file, strings | dict(types), where=path.name, delimiter=_delimiter(path), multiline=True
        )


def time_type(path: Path, column: str) -> pa.DataType:
    """Of a text file's times, by the first of them."""
    if path.suffix == ".parquet":
        return pa.null()
    for batch in batches_of(path, [column], {}):
        known = batch[column].drop_null()
        if len(known):
            first = known[0].as_py().strip()
            return next((kind for form, kind in NUMBERS.items() if re.fullmatch(form, first)), pa.string())
    return pa.string()


def seconds_of(column: pa.Array, unit: str, path: Path) -> pa.Array:
    """Times of whatever type as seconds since 1970. Raises DataError for what is none, or dates written as numbers."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type in (pa.large_string(), pa.string_view()):
        column = column.cast(pa.string())
    try:
        if pa.types.is_floating(column.type):  # what pandas makes of whole numbers where one is absent
            column = column.cast(pa.int64())
        if pa.types.is_integer(column.type):
            _refuse_dates(column, path)
            seconds_E = pc.divide(column.cast(pa.int64()), 1_000 if unit == "ms" else 1)
            _refuse_other_unit(seconds_E, unit, path)
            return seconds_E
        if pa.types.is_timestamp(column.type):
            return column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
        if pa.types.is_string(column.type):
            return tabular.seconds_of_text(column)
        return tabular.seconds(column)
    except pa.ArrowInvalid as error:
        mend = "give dates, or whole numbers"
        raise DataError(f"times cannot be read ({error})", where=path.name, mend=mend) from None
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"times are {column.type}", where=path.name, mend="give dates, times or whole numbers"
        ) from None


def _refuse_dates(column: pa.Array, path: Path) -> None:
    """20240101 would be taken for an evening of August 1970, and the whole of a year for twenty minutes of it."""
    value_E = column.drop_null().to_numpy()
    month_E, day_E = value_E // 100 % 100, value_E % 100
    dates_E = (value_E >= FIRST_DATE) & (value_E <= LAST_DATE) & (month_E >= 1) & (month_E <= 12)
    if len(value_E) and (dates_E & (day_E >= 1) & (day_E <= 31)).all():
        what = f"times from {value_E.min()} to {value_E.max()} look like dates written as numbers"
        raise DataError(what, where=path.name, mend="write 2024-01-01, or seconds or milliseconds since 1970")


def _refuse_other_unit(column: pa.Array, unit: str, path: Path) -> None:
    """Milliseconds read as seconds lie far ahead, and seconds read as milliseconds in the first days of 1970."""
    value_E = column.drop_null().to_numpy()
    if len(value_E) and value_E.max() > LATEST:
        what = f"times lie in the year {1970 + value_E.max() // YEAR}"
        mend = "say `unit: ms` beside `time`" if unit == "s" else "give seconds or milliseconds since 1970"
        raise DataError(what, where=path.name, mend=mend)
    if len(value_E) and unit == "ms" and 0 < value_E.max() < YEAR:
        raise DataError("times in milliseconds all lie in 1970", where=path.name, mend="say `unit: s` beside `time`")


def as_ids(column: pa.Array, name: str, path: Path) -> pa.Array:
    """Ids as text. Whole numbers are what they look like; a float was a whole number once, before a null came in."""
    if pa.types.is_floating(column.type):
        what = f"column {name!r} holds ids as {column.type}"
        raise DataError(what, where=path.name, mend="save ids as text or whole numbers (pandas makes floats of both)")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def vectors_of(raw: Path, name: str) -> tuple[list[str], np.ndarray]:
    """Item ids and vectors of one further modality. Raises DataError where they are no such, or not as many."""
    try:
        # Not splitlines: an id may hold one of Unicode's other line ends.
        text = (raw / f"{name}.ids.txt").read_text(encoding="utf-8-sig").removesuffix("\n")
        ids = text.split("\n") if text else []
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
