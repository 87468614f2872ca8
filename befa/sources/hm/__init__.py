"""H&M (Kaggle): the archive `handm-dataset-128x128` or the competition's, read without unpacking it.

Layout: `transactions_train.csv`, `articles.csv`, and `0xx/0xxxxxxxxx.jpg` under `images_128_128/` or `images/`.
An article_id is a string of ten digits with a leading zero. Terms: non-commercial, no redistribution.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from befa import archives, downloads
from befa.config import configuration
from befa.datasets import EVENTS, ITEMS
from befa.downloads import KnownFile
from befa.errors import DataError
from befa.needs import Need
from befa.progress import Progress
from befa.sources import kaggle_client, tabular
from befa.sources.base import render

Archive = Literal["odins0n/handm-dataset-128x128", "h-and-m-personalized-fashion-recommendations"]
"""Kaggle's names of the two."""
DEFAULT_TEXT = "{prod_name}, {product_type_name}, {colour_group_name}. {detail_desc}"
COMPETITION_BYTES = 34_000_000_000
"""About what the competition's archive takes."""
IMAGE_FOLDERS = ("images_128_128", "images")


@configuration
class HmConfig:
    """The `source` block of an H&M dataset."""

    archive: Archive = "odins0n/handm-dataset-128x128"
    """Which: the paper's (pictures of 128 x 128 pixels), or the competition's (34 GB)."""
    mirror: str | None = None
    """Folder or http(s) address that holds the archive, or the archive itself; null: Kaggle, with one's own account."""
    file: KnownFile = KnownFile()
    """What is known of the archive."""


Config = HmConfig
UNIT = "bytes"


def needs(config: HmConfig, dataset: str) -> list[Need]:
    """The archive at a local mirror, or Kaggle's credentials."""
    mirror = downloads.mirrors(config.mirror, dataset)
    if mirror is None:
        place = kaggle_client.credentials()
        what = "an account of Kaggle" + (f" ({place})" if place else "")
        return [Need(what, place is not None, f"{kaggle_client.WHERE_TO_PUT_THEM}; or {_mirror_mend(config, dataset)}")]
    return [downloads.need(_file(config.archive), mirror)]


def fetch(config: HmConfig, into: Path, *, dataset: str, progress: Progress) -> list[str]:
    """Brings the archive, checking its directory and the CRCs of its tables.

    Raises DataError when the archive is absent, truncated, unsafe, or not H&M's.
    """
    mirror, name = downloads.mirrors(config.mirror, dataset), _file(config.archive)
    into.mkdir(parents=True, exist_ok=True)
    if mirror is not None:
        downloads.fetch(name, mirror, into, config.file, progress=progress)
    elif not (into / name).exists():
        competition = "/" not in config.archive
        expected = config.file.bytes or (COMPETITION_BYTES if competition else None)
        downloads.make_room(into, expected or 0, downloads.PATIENT)
        kind = "competition" if competition else "dataset"
        kaggle_client.download(kind, config.archive, into, name, bytes_expected=expected, progress=progress)
    try:
        if mirror is None:  # else it was verified as it came
            downloads.verify(into / name, config.file, progress)
        _check(into / name, progress)
    except DataError:
        (into / name).unlink()  # else the next try would take it up
        raise
    return [name]  # the name says which it is, so that a later try takes up the right one


def _file(archive: str) -> str:
    """The name under which Kaggle hands it out."""
    return archive.rpartition("/")[2] + ".zip"


def _mirror_mend(config: HmConfig, dataset: str) -> str:
    return f"set datasets.{dataset}.source.mirror to a local copy of {_file(config.archive)}, or of its folder"


def _check(path: Path, progress: Progress) -> None:
    archives.check(path)
    with archives.opened(path) as archive:
        for table in ("transactions_train.csv", "articles.csv"):
            if table not in archive.namelist():
                raise DataError(f"no {table}", where=path.name, mend="name the archive as Kaggle delivers it")
        # One bad picture is the feature store's to record.
        broken = archives.first_broken(archive, _is_picture, progress)
    if broken is not None:
        raise DataError(f"{broken} is damaged", where=path.name, mend="download the archive again")


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Transactions in file order; repeat purchases are repeated rows, times are days."""
    path = _there(raw)
    with archives.opened(path) as archive, archive.open("transactions_train.csv") as file:
        yield from transactions(file, path)


def transactions(file: tabular.Readable, where: Path) -> Iterator[pa.RecordBatch]:
    """The same, of an open `transactions_train.csv`."""
    types = {"t_dat": pa.date32(), "customer_id": pa.string(), "article_id": pa.string()}
    for batch in tabular.read(file, types, where=where):
        _check_article_ids(batch["article_id"], where)
        columns = [batch["customer_id"], batch["article_id"], tabular.seconds(batch["t_dat"])]
        yield pa.record_batch(columns, schema=EVENTS)


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Articles with their text by template (over all columns of articles.csv) and their image, if there is one."""
    path = _there(raw)
    with archives.opened(path) as archive:
        pictures = {Path(name).stem: name for name in archive.namelist() if name.endswith(".jpg") and _is_picture(name)}
        with archive.open("articles.csv") as file:
            # Every column as text: a number would lose its leading zeros.
            with tabular.errors(path):
                header = tabular.columns(file.readline().decode())
            tabular.require(header, ["article_id"], path)
            file.seek(0)
            rows = []
            for batch in tabular.read(file, dict.fromkeys(header, pa.string()), where=path, multiline=True):
                _check_article_ids(batch["article_id"], path)
                rows += batch.to_pylist()
    ids = [row["article_id"] for row in rows]
    images = [f"{path.name}/{pictures[i]}" if i in pictures else None for i in ids]
    if pictures and not any(images):
        raise DataError("no article has a picture although there are pictures", where=path, mend=_ZEROS)
    yield pa.record_batch([ids, [render(text or DEFAULT_TEXT, row) for row in rows], images], schema=ITEMS)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """None: its modalities are what an encoder makes of pictures and texts."""
    return {}


_ZEROS = "article ids need their leading zero: files that lost it were saved with numeric ids"


def _is_picture(name: str) -> bool:
    return Path(name).parts[0] in IMAGE_FOLDERS


def _check_article_ids(ids: pa.Array, where: Path) -> None:
    """Ids read as numbers and written again are nine digits long, and would silently match no picture."""
    lengths = pc.min_max(pc.binary_length(ids)).as_py()
    if lengths["min"] != lengths["max"] or lengths["min"] not in (10, None):
        wrong = ids.filter(pc.not_equal(pc.binary_length(ids), 10))
        raise DataError(f"article_id {wrong[0].as_py()!r} is not of ten characters", where=where, mend=_ZEROS)


def _there(raw: Path) -> Path:
    """The archive in the folder `raw`."""
    paths = [raw / _file(archive) for archive in get_args(Archive)]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise tabular.missing(paths[0])
    return path
