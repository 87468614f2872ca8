"""Reading delimited text as a stream: blocks of a file, never the whole of it."""

import csv
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from befa.errors import DataError, first_line, nearest

log = logging.getLogger(__name__)

BLOCK = 16 << 20
"""Bytes parsed at a time."""

TIMES = (pyarrow.csv.ISO8601, "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y-%m-%d %H:%M")
"""Forms of a date or time: ISO's, and what spreadsheets make of them."""

ZONE = r"\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"
"""A time that says its zone."""


@runtime_checkable
class Readable(Protocol):
    """An open file of bytes: of the disk, inside an archive, or Arrow's own."""

    def read(self, size: int = ...) -> bytes:
        """The next bytes."""
        ...

    def readline(self) -> bytes:
        """The next line."""
        ...

    def seek(self, position: int) -> int:
        """Goes to a place counted from the beginning."""
        ...


def read(
    file: Readable,
    types: Mapping[str, pa.DataType],
    *,
    where: object,
    delimiter: str = ",",
    header: list[str] | None = None,
    quoted: bool = True,
    multiline: bool = False,
    wrong_lines: float = 0.0,
) -> Iterator[pa.RecordBatch]:
    """The columns in `types` of a table of text, block by block.

    `header` names the columns of a file that has no line of names; `quoted` says that values may stand in double quotes
    and then hold delimiters; `multiline`, that they may then hold line ends too (half as fast to read). An empty value
    is null. Lines of another number of fields are left out, with a warning, up to the share `wrong_lines` of all.
    Raises DataError naming `where` for a table that cannot be read so, or that lacks a column.
    """
    wrong, first = 0, ""

    def on_wrong_line(line: pyarrow.csv.InvalidRow) -> str:
        nonlocal wrong, first
        first = first or f"{line.actual_columns} fields for {line.expected_columns}: {line.text[:60]!r}"
        wrong += 1
        return "skip" if wrong_lines else "error"

    convert = pyarrow.csv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        null_values=[""],
        strings_can_be_null=True,
        timestamp_parsers=list(TIMES),
    )
    parse = pyarrow.csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoted else False,
        newlines_in_values=multiline,
        invalid_row_handler=on_wrong_line,
    )
    options = pyarrow.csv.ReadOptions(block_size=BLOCK, column_names=header)
    rows = 0
    with errors(where), pyarrow.csv.open_csv(file, options, parse, convert) as reader:
        for batch in reader:
            rows += len(batch)
            yield batch
    if wrong > wrong_lines * (rows + wrong):
        what = f"{wrong:,} of {rows + wrong:,} lines are malformed (first: {first})"
        raise DataError(what, where=where, mend="get the file again")
    if wrong:
        log.warning("%s: left out %d malformed lines (first: %s)", where, wrong, first)


def columns(line: str) -> list[str]:
    """The names in a line of names, with commas between them."""
    return [name.strip() for name in next(csv.reader([line.lstrip("\ufeff")]))]


def require(present: list[str], wanted: Mapping[str, Any] | list[str], where: object) -> None:
    """Raises DataError for the first of the `wanted` columns that is not `present`."""
    for name in wanted:
        if name not in present:
            mend = nearest(name, present)
            if len(present) == 1 and ";" in present[0]:
                mend = "it is separated by semicolons: save it with commas, or with tabs as .tsv"
            raise DataError(f"no column {name!r}", where=where, mend=mend)


def seconds(column: pa.Array) -> pa.Array:
    """Dates or times as seconds since 1970."""
    return pc.cast(pc.cast(column, pa.timestamp("s")), pa.int64())


def seconds_of_text(column: pa.Array) -> pa.Array:
    """Dates or times as seconds since 1970, rounded down, each of any form in TIMES; without a zone they are UTC's.

    Raises ArrowInvalid for other ones.
    """
    none = pa.scalar(None, pa.string())
    column = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")  # Arrow takes microseconds at most
    iso, zoned = (pc.match_substring_regex(column, pattern) for pattern in (r"^\d{4}-\d\d-\d\d", ZONE))
    found = pc.coalesce(
        _floored(pc.cast(pc.if_else(pc.and_(iso, zoned), column, none), pa.timestamp("us", "UTC"))),
        _floored(pc.cast(pc.if_else(pc.and_not(iso, zoned), column, none), pa.timestamp("us"))),
    )
    others = pc.if_else(iso, none, column)
    for form in TIMES[1:]:
        found = pc.coalesce(found, _floored(pc.strptime(others, format=form, unit="s", error_is_null=True)))
    unread = column.filter(pc.and_not(pc.is_valid(column), pc.is_valid(found)))
    if len(unread):
        raise pa.ArrowInvalid(f"{unread[0].as_py()!r} is no date or time")
    return found


def _floored(column: pa.Array) -> pa.Array:
    return pc.cast(pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", column.type.tz)), pa.int64())


@contextmanager
def errors(where: object) -> Iterator[None]:
    """Has what Arrow and Python say of a table that cannot be read said as a DataError that names `where`."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError("not a text in UTF-8", where=where, mend="save it as UTF-8") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, csv.Error) as error:
        reason = first_line(error)
        if "invalid UTF8" in reason:
            raise DataError("not a text in UTF-8", where=where, mend="save it as UTF-8") from None
        raise DataError(
            f"a table cannot be read ({reason})", where=where, mend="mend the file, or get it again"
        ) from None


def missing(path: Path) -> DataError:
    """The error for a file of a raw folder that is not there."""
    return DataError("no such file", where=path, mend=f"run `dvc repro download@{path.parent.name}`")
