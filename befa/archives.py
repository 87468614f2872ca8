"""Zip files that are read in place and never unpacked: whether they may be trusted, whole; and how ours are written."""

import logging
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from befa.errors import DataError
from befa.progress import Progress

log = logging.getLogger(__name__)

CHUNK = 1 << 20
RATIO = 2_000
"""Unpacked bytes per packed byte that no honest member reaches. Deflate itself ends near 1,032."""
SMALL = 100_000_000
"""Members of at most so many bytes may have any ratio: a megabyte of zeros is no attack."""


def check(path: Path, *, largest: int = 200_000_000_000) -> None:
    """Refuses a zip file whose directory is broken or plays tricks. No member is read: it takes seconds at most.

    `largest` is the most bytes that the members may hold together: 200 GB is several times the largest catalogue
    (all of H&M's pictures: 30 GB), and less than what a bomb that is worth its name claims.

    Raises DataError naming the member: a name that leads out of a folder, stands twice, or means another thing on
    another system (drive letter, backslash, NUL); a symbolic link; an encrypted member; one packed beyond belief.
    """
    with opened(path) as archive:
        seen: set[str] = set()
        total = 0
        for info in archive.infolist():
            fault = _fault(info) or ("stands twice in the archive" if info.filename in seen else None)
            if fault is not None:
                # Through repr: a name of this kind may hold control characters.
                raise DataError(f"member {info.orig_filename!r} {fault}", where=path, mend=_ELSEWHERE)
            seen.add(info.filename)
            total += info.file_size
        if total > largest:
            raise DataError(f"its members hold {total:,} bytes, allowed are {largest:,}", where=path, mend=_ELSEWHERE)


def first_broken(
    archive: Path | zipfile.ZipFile, skip: Callable[[str], bool], progress: Progress | None = None
) -> str | None:
    """Name of the first member that cannot be read or whose CRC is wrong, folders and skipped ones aside; else None.

    Members are read to their end and thrown away. Raises DataError when `archive` is a path and no whole zip file.
    """
    if isinstance(archive, Path):
        with opened(archive) as readable:
            return first_broken(readable, skip, progress)
    members = [info for info in archive.infolist() if not info.is_dir() and not skip(info.filename)]
    done, total = 0, sum(info.file_size for info in members)
    for info in members:
        try:
            with archive.open(info) as member:
                while data := member.read(CHUNK):
                    done += len(data)
                    if progress is not None:
                        progress(done, total, info.filename)
        # RuntimeError: encrypted, or packed by a method that this Python does not know.
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
            log.debug("%s: %s", info.filename, error)
            return info.filename
    return None


_ELSEWHERE = "do not use it; download it again, from a source you trust"


def opened(path: Path) -> zipfile.ZipFile:
    """The zip file at `path`, to be read. Raises DataError when there is none, or no whole one."""
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError("no such archive", where=path, mend="download it first") from None
    except Exception as error:  # BadZipFile, struct.error, ValueError, NotImplementedError, ...: no common base
        log.debug("%s: %s", path, error)
        raise DataError("not a whole zip file", where=path, mend="download it again") from None


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Writes a member that says nothing of when, where or by whom it was made: the same data, the same bytes."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    archive.writestr(info, data)


def _fault(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with one entry of the directory, as the end of a sentence."""
    name = info.orig_filename  # as it stands in the file: `filename` is cut at a NUL
    if not name or "\0" in name:
        return "has no name or a NUL in it"
    if name.startswith("/"):
        return "is an absolute path"
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        return "has a backslash or a drive letter in its name"
    if ".." in name.split("/"):
        return "leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.file_size > SMALL and info.file_size > RATIO * info.compress_size:
        return f"unpacks {info.compress_size:,} bytes to {info.file_size:,}, as a zip bomb does"
    return None
