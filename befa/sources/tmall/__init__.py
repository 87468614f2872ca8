"""TMALL (Tianchi 140281, "Rec-Tmall" of 2014): products and 1.3 billion lines of a log, read as a stream.

Two forms are read. The full files are text in zip archives, fields separated by \\x01, without a line of names; the
official samples are comma-separated, in gb18030, with one, and write items as `i161` and times as a spreadsheet does.
The files need a login, so they are placed by hand. There are no picture files, only the web addresses of 2014, which
the media stage fetches. Which actions the paper counted is not stated: `actions` is a parameter of the dataset.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from befa import archives, downloads
from befa.config import configuration
from befa.datasets import ACTION, EVENTS, ITEMS
from befa.downloads import KnownFile
from befa.errors import DataError
from befa.needs import Need
from befa.progress import Progress
from befa.sources import tabular
from befa.sources.base import render
from befa.sources.tabular import Readable

PAGE = "tianchi.aliyun.com/dataset/140281"
PRODUCT, LOG = "tianchi_2014001_rec_tmall_product", "tianchi_2014002_rec_tmall_log"
SEPARATOR = "\x01"
PRODUCT_COLUMNS = ("item_id", "title", "pict_url", "category", "brand_id", "seller_id")
LOG_COLUMNS = ["item_id", "user_id", "action", "vtime"]
DEFAULT_TEXT = "{title}"
ITEMS_IN_A_BATCH = 100_000
WRONG_LINES = 1e-4
"""Largest share of a log's lines that may be of another number of fields."""


@configuration
class TmallConfig:
    """The `source` block of a TMALL dataset."""

    mirror: str = "data/incoming/tmall"
    """Folder (or http(s) address of your own) where the files were placed."""
    form: Literal["full", "sample"] = "full"
    """The whole files, or the official samples of a few thousand lines."""
    parts: tuple[Literal["a", "b", "c"], ...] = ("a", "b", "c")
    """Which parts of the full log are used."""
    files: dict[str, KnownFile] = field(default_factory=dict)
    """What is known of the files, by name."""


Config = TmallConfig
UNIT = "bytes"


def names(config: TmallConfig) -> list[str]:
    """The files that make up the raw data."""
    if config.form == "sample":
        return [f"sam_{PRODUCT}.csv", f"sam_{LOG}.csv"]
    return [f"{PRODUCT}.zip", *(f"{LOG}.part{part}.zip" for part in config.parts)]


def needs(config: TmallConfig, dataset: str) -> list[Need]:
    """Every file, in its place."""
    mirror = downloads.mirrors(config.mirror, dataset)
    return [
        Need(need.what, need.there, f"download it from {PAGE} (a login is needed) and place it there")
        for need in (downloads.need(name, mirror) for name in names(config))
    ]


def fetch(config: TmallConfig, into: Path, *, dataset: str, progress: Progress) -> list[str]:
    """Takes the files from where they were placed, and reads the beginning of each (of archives: all).

    Raises DataError naming every file that is not there, or the first that is damaged or not what its name says.
    """
    mirror = downloads.mirrors(config.mirror, dataset)
    absent = [name for need, name in zip(needs(config, dataset), names(config), strict=True) if not need.there]
    if absent:
        raise DataError(
            f"TMALL cannot be downloaded without a login; absent: {', '.join(absent)}",
            where=downloads.shown(mirror),
            mend=f"log in at {PAGE}, download these files, and place them in that folder as they are, zipped "
            f"(or name another folder in datasets.{dataset}.source.mirror)",
        )
    for name in names(config):
        downloads.fetch(name, mirror, into, config.files.get(name, KnownFile()), progress=progress)
        try:
            _check(into / name, progress)
        except DataError:
            (into / name).unlink()  # else the next try would take it up
            raise
    return names(config)


def _check(path: Path, progress: Progress) -> None:
    if path.suffix == ".zip":
        archives.check(path)
        broken = archives.first_broken(path, lambda name: False, progress)
        if broken is not None:
            raise DataError(f"{broken} is damaged", where=path.name, mend="download the archive again")
    rows = _products(path) if PRODUCT in path.name else _log(path)
    if next(iter(rows), None) is None:
        raise DataError("no rows", where=path.name, mend="download it again")


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Actions in file order, one log file after the other, with their kind (click, collect, cart, alipay)."""
    for path in _files(raw, LOG):
        yield from _log(path)


def _log(path: Path) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        yield from log_events(file, path)


def log_events(file: Readable, where: Path) -> Iterator[pa.RecordBatch]:
    """The same, of one open log file of either form."""
    types = {"item_id": pa.string(), "user_id": pa.string(), "action": pa.string(), "vtime": pa.timestamp("s")}
    full = SEPARATOR in _first_line(file).decode("latin-1")
    layout = {"delimiter": SEPARATOR, "header": LOG_COLUMNS, "quoted": False} if full else {}
    for batch in tabular.read(file, types, where=where, wrong_lines=WRONG_LINES, **layout):
        # The samples write i161 for the product 161.
        item = pc.replace_substring_regex(batch["item_id"], "^i", "") if not full else batch["item_id"]
        columns = [batch["user_id"], item, batch["vtime"].cast(pa.int64()), batch["action"]]
        yield pa.record_batch(columns, schema=EVENTS.append(pa.field(ACTION, pa.string())))


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Products with their text by template (columns: those of the product file) and their picture's web address."""
    rows = []
    for path in _files(raw, PRODUCT):
        for row in _products(path):
            url = row["pict_url"]
            rows.append((row["item_id"], render(text or DEFAULT_TEXT, row), None if url in ("", "null") else url))
            if len(rows) == ITEMS_IN_A_BATCH:
                yield _batch(rows)
                rows = []
    yield _batch(rows)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """None: its modalities are what an encoder makes of pictures and texts."""
    return {}


def _batch(rows: list[tuple[str, str | None, str | None]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=ITEMS)


def _products(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a product file. A title may hold the separator, so fields are taken from both ends."""
    with _opened(path) as file:
        full = SEPARATOR in _first_line(file).decode("latin-1")
        separator, encoding = (SEPARATOR, "utf-8") if full else (",", "gb18030")
        # One wrong byte in a title does not spoil the other eight million.
        lines = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="\n")
        try:
            for number, line in enumerate(lines, start=1):
                fields = line.rstrip("\r\n").split(separator)
                if len(fields) < len(PRODUCT_COLUMNS):
                    what = f"line {number} has {len(fields)} of {len(PRODUCT_COLUMNS)} fields"
                    raise DataError(what, where=path.name, mend="is this the product file? download it again")
                if number == 1 and not full:
                    tabular.require([name.strip() for name in fields], list(PRODUCT_COLUMNS), path.name)
                    continue
                values = [fields[0], separator.join(fields[1:-4]).replace(SEPARATOR, " "), *fields[-4:]]
                yield dict(zip(PRODUCT_COLUMNS, values, strict=True))
        finally:
            lines.detach()


def _first_line(file: Readable) -> bytes:
    """The first line; the file is at its beginning again."""
    line = file.readline()
    file.seek(0)
    return line


def _files(raw: Path, name: str) -> list[Path]:
    paths = sorted(path for path in raw.glob(f"*{name}*") if path.is_file())
    if not paths:
        raise tabular.missing(raw / f"{name}...")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[Readable]:
    """The file, or the one member of a zip archive, read without unpacking it to the disk."""
    if path.suffix != ".zip":
        with path.open("rb") as file:
            yield file
        return
    with archives.opened(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) != 1:
            what = f"{len(members)} members where one is expected"
            raise DataError(what, where=path, mend="place the archive as it was downloaded")
        try:
            with archive.open(members[0]) as file:
                yield file
        except zipfile.BadZipFile:
            raise DataError("a damaged zip file", where=path, mend="download it again") from None
