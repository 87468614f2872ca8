"""The two files that a run leaves."""

import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from befa import archives
from befa.images import ImageFiles
from befa.pictures.links import Link
from befa.tables import whole

ARCHIVE, INDEX = "pictures.zip", "pictures.parquet"

COVERAGE = pa.schema(
    [
        *(("item", pa.string()), ("url", pa.string()), ("status", pa.string()), ("error", pa.string())),
        *(("image", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())),
    ]
)
"""One item a row, in sorted order. `status` is ok, failed (`error` has the reason) or no_link; `image` is a reference
for images.ImageFiles; `bytes` and `sha256` are of the picture as it came."""


@dataclass(frozen=True)
class Picture:
    """A picture that is there, as it came."""

    sha256: str
    size: int
    suffix: str
    source: Path | str
    """A file of the journal, or a reference into the earlier run's archive."""


def _member(item: str, picture: Picture) -> str:
    # Quoted, an id has no slash and nothing that a zip could read in two ways. The suffix has no dot: no two ids meet.
    return f"{quote(item, safe='')}.{picture.suffix}"


def row_of(link: Link, outcome: Picture | str) -> dict[str, Any]:
    """A row of COVERAGE; `outcome`: the picture, or the reason why there is none."""
    row: dict[str, Any] = dict.fromkeys(COVERAGE.names) | {"item": link.item, "url": link.url}
    if link.url is None:
        return row | {"status": "no_link"}
    if isinstance(outcome, str):
        return row | {"status": "failed", "error": outcome}
    image = f"{ARCHIVE}/{_member(link.item, outcome)}"
    return row | {"status": "ok", "image": image, "bytes": outcome.size, "sha256": outcome.sha256}


def write_archive(path: Path, outcomes: list[tuple[Link, Picture | str]], earlier: ImageFiles) -> None:
    """One picture at a time is in memory. Not compressed: pictures are already."""
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for link, picture in outcomes:
            if isinstance(picture, Picture):
                source = picture.source
                data = source.read_bytes() if isinstance(source, Path) else earlier.read(source)
                archives.add(archive, _member(link.item, picture), data)


def coverage_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of a run's rows, as `Fetched.coverage` has them."""
    statuses = Counter(row["status"] for row in rows)
    errors = Counter(row["error"] for row in rows if row["error"] is not None)
    return {
        "items": len(rows),
        **{status: statuses[status] for status in ("ok", "failed", "no_link")},
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "errors": dict(sorted(errors.items(), key=lambda entry: (-entry[1], entry[0]))),
    }
