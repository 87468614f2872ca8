"""H&M (Kaggle): the archive `handm-dataset-128x128` or the competition's, read without unpacking it.

Layout: `transactions_train.csv`, `articles.csv`, and `0xx/0xxxxxxxxx.jpg` under `images_128_128/` or `images/`.
An article_id is a string of ten digits with a leading zero. Terms: non-commercial, no redistribution.
"""

import logging
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from befa.errors import DataError
from befa.sources.base import EVENTS, ITEMS, render
from befa.tables import whole

log = logging.getLogger(__name__)

Config = str | None
"""Path of a local copy of the archive. There is no default: the data need a Kaggle account."""

ARCHIVE = "archive.zip"
DEFAULT_TEXT = "{prod_name}, {product_type_name}, {colour_group_name}. {detail_desc}"
IMAGE_FOLDERS = ("images_128_128", "images")
CHUNK = 1 << 20


def fetch(config: str | None, into: Path) -> None:
    """Copies the archive into the raw folder, checking every member's CRC on the way.

    Raises DataError when no archive is named, or it is absent, truncated, or not H&M's.
    """
    if config is None:
        raise DataError(
            "no archive named for H&M",
            where="params.yaml",
            mend="set datasets.hm.source to a local copy of Kaggle's odins0n/handm-dataset-128x128 "
            "or of h-and-m-personalized-fashion-recommendations (a zip file)",
        )
    archive = Path(config).expanduser()
    if not archive.is_file():
        raise DataError("no such archive", where=archive, mend="correct datasets.hm.source in params.yaml")
    with whole(into / ARCHIVE) as part:
        shutil.copyfile(archive, part)
        with _open(part, shown=archive) as copy:
            for name in ("transactions_train.csv", "articles.csv"):
                if name not in copy.namelist():
                    raise DataError(f"no {name}", where=archive, mend="name the archive as Kaggle delivers it")
            broken = _first_broken(copy)
            if broken is not None:
                raise DataError(f"{broken} is damaged", where=archive, mend="download the archive again")


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Transactions in file order; repeat purchases are repeated rows, times are days."""
    types = {"t_dat": pa.date32(), "customer_id": pa.string(), "article_id": pa.string()}
    with _open(raw / ARCHIVE) as archive, archive.open("transactions_train.csv") as file:
        for batch in _csv(file, types, raw / ARCHIVE):
            seconds = pc.cast(pc.cast(batch["t_dat"], pa.timestamp("s")), pa.int64())
            yield pa.record_batch([batch["customer_id"], batch["article_id"], seconds], schema=EVENTS)


def items(raw: Path, text: str | None) -> pa.Table:
    """Articles with their text by template (over all columns of articles.csv) and their image, if there is one."""
    with _open(raw / ARCHIVE) as archive:
        pictures = {Path(name).stem: name for name in archive.namelist() if name.endswith(".jpg") and _is_picture(name)}
        with archive.open("articles.csv") as file:
            # Every column as text: a number would lose its leading zeros.
            header = file.readline().decode().strip().split(",")
            file.seek(0)
            rows = pa.Table.from_batches(_csv(file, dict.fromkeys(header, pa.string()), raw / ARCHIVE)).to_pylist()
    table = {
        "item": [row["article_id"] for row in rows],
        "text": [render(text or DEFAULT_TEXT, row) for row in rows],
        "image": [f"{ARCHIVE}/{pictures[i]}" if (i := row["article_id"]) in pictures else None for row in rows],
    }
    if not any(table["image"]) and pictures:
        raise DataError("no article has a picture although there are pictures", where=raw / ARCHIVE, mend=_ZEROS)
    return pa.table(table, schema=ITEMS)


_ZEROS = "article ids need their leading zero: files that lost it were saved with numeric ids"


def _is_picture(name: str) -> bool:
    return Path(name).parts[0] in IMAGE_FOLDERS


def _csv(file: object, types: dict[str, pa.DataType], where: Path) -> Iterator[pa.RecordBatch]:
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        with pyarrow.csv.open_csv(file, convert_options=convert, parse_options=parse) as reader:
            for batch in reader:
                _check_article_ids(batch["article_id"], where)
                yield batch
    except (pa.ArrowInvalid, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"a table cannot be read ({reason})", where=where, mend="download the archive again") from None


def _check_article_ids(ids: pa.Array, where: Path) -> None:
    """Ids read as numbers and written again are nine digits long, and would silently match no picture."""
    wrong = ids.filter(pc.not_equal(pc.utf8_length(ids), 10))
    if len(wrong):
        raise DataError(f"article_id {wrong[0].as_py()!r} is not of ten characters", where=where, mend=_ZEROS)


def _open(path: Path, shown: Path | None = None) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError("no archive", where=path, mend="run `dvc repro download@hm`") from None
    except zipfile.BadZipFile:
        raise DataError("not a whole zip file", where=shown or path, mend="download the archive again") from None


def _first_broken(archive: zipfile.ZipFile) -> str | None:
    """Name of the first member whose CRC is wrong, pictures aside: one bad picture is the feature store's to record."""
    for info in archive.infolist():
        if info.is_dir() or _is_picture(info.filename):
            continue
        try:
            with archive.open(info) as member:
                while member.read(CHUNK):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            log.debug("%s: %s", info.filename, error)
            return info.filename
    return None
