"""MicroLens-50k: short videos' covers and titles, and who commented on them.

Source: recsys.westlake.edu.cn/MicroLens-50k-Dataset. Layout: `MicroLens-50k_pairs.csv` (user, item, timestamp in ms) or
`MicroLens-50k_pairs.tsv` (a user's items in the order of time, without times), `MicroLens-50k_titles.csv`, and
`MicroLens-50k_covers.zip` with `<item>.jpg`. Ids are numbers, kept as text. Pairs and titles are enough for all that
needs no picture. Terms: no redistribution.
"""

import csv
import logging
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from befa import archives, downloads
from befa.config import configuration
from befa.datasets import EVENTS, ITEMS, PLACE
from befa.downloads import KnownFile
from befa.errors import DataError
from befa.needs import Need
from befa.progress import Progress
from befa.sources import tabular
from befa.sources.base import render

log = logging.getLogger(__name__)

PAIRS, PAIRS_OF_USERS = "MicroLens-50k_pairs.csv", "MicroLens-50k_pairs.tsv"
TITLES, COVERS = "MicroLens-50k_titles.csv", "MicroLens-50k_covers.zip"
DEFAULT_TEXT = "{title}"
USERS_IN_A_BATCH = 50_000


@configuration
class MicrolensConfig:
    """The `source` block of a MicroLens dataset."""

    mirror: str = "https://recsys.westlake.edu.cn/MicroLens-50k-Dataset"
    """Folder or http(s) address that holds the files."""
    covers: Literal["if_there", "required", "skip"] = "if_there"
    """What to do about the covers, the only large file."""
    files: dict[str, KnownFile] = field(default_factory=dict)
    """What is known of the files, by name."""


Config = MicrolensConfig
UNIT = "bytes"


def needs(config: MicrolensConfig, dataset: str) -> list[Need]:
    """Pairs and titles; covers if they are required."""
    mirror = downloads.mirrors(config.mirror, dataset)
    pairs = [downloads.need(name, mirror) for name in (PAIRS, PAIRS_OF_USERS)]
    wanted = [next((need for need in pairs if need.there), pairs[0]), downloads.need(TITLES, mirror)]
    return [*wanted, downloads.need(COVERS, mirror)] if config.covers == "required" else wanted


def fetch(config: MicrolensConfig, into: Path, *, dataset: str, progress: Progress) -> list[str]:
    """Brings pairs (the csv if the mirror has it, else the tsv), titles, and the covers if they are wanted.

    Raises DataError when a file is absent, or is not the one that is known.
    """
    mirror = downloads.mirrors(config.mirror, dataset)

    def bring(name: str) -> str:
        return downloads.fetch(name, mirror, into, config.files.get(name, KnownFile()), progress=progress).name

    try:
        names = [bring(PAIRS)]
    except downloads.AbsentError:
        log.info("no %s there; taking %s", PAIRS, PAIRS_OF_USERS)
        names = [bring(PAIRS_OF_USERS)]
    names.append(bring(TITLES))
    if config.covers != "skip":
        try:
            names.append(bring(COVERS))
            try:
                archives.check(into / COVERS)
            except DataError:
                (into / COVERS).unlink()  # else the next try would take it up
                raise
        except downloads.AbsentError as error:
            if config.covers == "required":
                raise
            log.warning("no covers: %s", error)
    return names


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Comments in file order. The tsv has no times: there an interaction's time is its place in its user's line."""
    if (raw / PAIRS).exists():
        types = {"user": pa.string(), "item": pa.string(), "timestamp": pa.int64()}
        with (raw / PAIRS).open("rb") as file:
            for batch in tabular.read(file, types, where=raw / PAIRS):
                seconds = pc.divide(batch["timestamp"], 1_000)
                yield pa.record_batch([batch["user"], batch["item"], seconds], schema=EVENTS)
        return
    path = raw / PAIRS_OF_USERS
    if not path.exists():
        raise tabular.missing(raw / PAIRS)
    with tabular.errors(path), path.open(encoding="utf-8-sig") as lines:
        users, items, counts = [], [], []
        for number, line in enumerate(lines, start=1):
            user, tab, of_user = line.rstrip("\n").partition("\t")
            if not (user and tab and of_user.split()):
                what = f"line {number} is not a user, a tab and items"
                raise DataError(what, where=path, mend="get the file again")
            users.append(user)
            items += of_user.split()
            counts.append(len(of_user.split()))
            if len(users) == USERS_IN_A_BATCH:
                yield _flat(users, items, counts)
                users, items, counts = [], [], []
        yield _flat(users, items, counts)


def _flat(users: list[str], items: list[str], counts: list[int]) -> pa.RecordBatch:
    user_E = pa.array(users, pa.string()).take(pa.array(np.repeat(np.arange(len(users)), counts)))
    place_E = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = [user_E, pa.array(items, pa.string()), pa.array(place_E, pa.int64())]
    return pa.record_batch(columns, schema=EVENTS.with_metadata({PLACE: "user"}))


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Videos with their text by template (columns: item, title) and their cover, if there is one."""
    covers = _covers(raw / COVERS)
    path = raw / TITLES
    if not path.exists():
        raise tabular.missing(path)
    with tabular.errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        tabular.require(list(rows.fieldnames or ()), ["item", "title"], path)
        rows = list(rows)
    ids = [row["item"] for row in rows]
    texts = [render(text or DEFAULT_TEXT, {"item": row["item"], "title": row["title"]}) for row in rows]
    yield pa.record_batch([ids, texts, [covers.get(item) for item in ids]], schema=ITEMS)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """None: its modalities are what an encoder makes of pictures and texts."""
    return {}


def _covers(path: Path) -> dict[str, str]:
    """References by item."""
    if not path.exists():
        return {}
    with archives.opened(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if name.lower().endswith(".jpg")]
    return {name.stem: f"{COVERS}/{name}" for name in names}
