"""What is known of a file before it is fetched, and whether the one that came is it."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from befa.config import configuration
from befa.downloads.addresses import ANOTHER
from befa.errors import DataError
from befa.progress import Progress

CHUNK = 1 << 20


@configuration
class KnownFile:
    """What is known of a file before it is fetched. Nothing known: whatever the mirror has is taken."""

    bytes: Annotated[int, Field(ge=0)] | None = None
    """Size."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum, in lower-case hexadecimal."""


@configuration
class Policy:
    """How patient a download is. Times in seconds."""

    tries: Annotated[int, Field(ge=1)] = 8
    """Tries in a row that bring nothing new; any new byte starts the count again, so that a long file gets through."""
    shortest_wait: Annotated[float, Field(ge=0)] = 1.0
    """Wait after the first failure; doubled with each, and up to this much is added at random."""
    longest_wait: Annotated[float, Field(ge=0)] = 60.0
    """Bound of every wait, also of one that the server asks for (Retry-After)."""
    connect_timeout: Annotated[float, Field(gt=0)] = 20.0
    """Longest time for a connection to be made."""
    read_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Longest silence in the middle of a file."""
    reserve_bytes: Annotated[int, Field(ge=0)] = 100_000_000
    """Disk space that is left free."""


UNKNOWN, PATIENT = KnownFile(), Policy()


class AbsentError(DataError):
    """The mirror answers, and does not have the file."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there."""

    name: str
    bytes: int
    sha256: str


def make_room(into: Path, needed: int, policy: Policy) -> None:
    """Raises DataError when the disk of the folder `into` has not `needed` bytes, and the reserve, free."""
    free = shutil.disk_usage(into).free
    if needed + policy.reserve_bytes > free:
        raise DataError(
            f"too little disk space: {needed:,} bytes are needed (and {policy.reserve_bytes:,} left free), "
            f"{free:,} are free",
            where=into,
            mend="make room, or put the folder on a larger disk",
        )


def fetched_file(path: Path, name: str, report: Progress) -> Fetched:
    """The file at `path`, read to its end; `name`: what it is called in the result and in the report."""
    checksum = hashlib.sha256()
    for data in _read(path, f"checking {name}", report):
        checksum.update(data)
    return Fetched(name, path.stat().st_size, checksum.hexdigest())


def copied_file(source: Path, target: Path, name: str, report: Progress) -> Fetched:
    """`fetched_file` of `source`, which is copied to `target` while it is read."""
    checksum = hashlib.sha256()
    with target.open("wb") as file:
        for data in _read(source, f"copying {name}", report):
            checksum.update(data)
            file.write(data)
    return Fetched(name, target.stat().st_size, checksum.hexdigest())


def _read(path: Path, note: str, report: Progress) -> Iterator[bytes]:
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            done += len(data)
            report(done, size, note)
            yield data


def difference_of(size: int, checksum: str, known: KnownFile) -> str | None:
    """In which way a file is not the one that is known, as the end of a sentence; None: it is."""
    if known.bytes is not None and size != known.bytes:
        return f"has {size:,} bytes, expected {known.bytes:,}"
    if known.sha256 is not None and checksum != known.sha256:
        return f"has the sha256 {checksum}, expected {known.sha256}"
    return None


def not_the_file(name: str, difference: str, where: object) -> DataError:
    """The error of a file that is another one; `difference`: see `difference_of`."""
    return DataError(f"{name} {difference}", where=where, mend=f"it is damaged or another file: {ANOTHER}")


def silent(done: int, total: int | None, note: str = "") -> None:
    """Takes the place of a report that nobody asked for."""
