"""What has come of a file so far."""

import hashlib
import os
import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from befa.downloads.files import CHUNK
from befa.errors import DataError
from befa.tables import read_json, write_json


class Part:
    """What has come so far, with its checksum, and what tells whether a rest belongs to it."""

    def __init__(self, target: Path, address: str, *, trusted: bool) -> None:
        """Takes up the part of an earlier process if its rest can be asked for safely, else starts with nothing.

        `trusted`: the whole file's checksum is known, so that a wrong rest would be noticed at the end.
        """
        self.path, self.sidecar = part_and_sidecar(target)
        self.address = address
        self.size, self.hash = 0, hashlib.sha256()
        self.total: int | None = None
        self.marks: dict[str, str | None] = {}
        self.file: Any = None
        kept = self._kept()
        if self.path.is_file() and (kept or trusted):
            self.total, self.marks = kept.get("total"), {key: kept.get(key) for key in ("if_range", "etag", "modified")}
            self._read(self.path.stat().st_size)
        else:
            self.discard()

    def _kept(self) -> dict[str, Any]:
        """The sidecar, if it is of the same address and holds a validator."""
        try:
            kept = read_json(self.sidecar)
        except DataError:
            return {}
        fits = isinstance(kept, dict) and kept.get("address") == self.address and kept.get("if_range")
        return kept if fits else {}

    def _read(self, size: int) -> None:
        # A part that is whole already (killed before it was renamed) gives up a byte: the server is then asked for
        # that one, and so says whether its file is still the same.
        self.size = size if self.total is None else max(0, min(size, self.total - 1))
        os.truncate(self.path, self.size)
        with self.path.open("rb") as file:
            while data := file.read(CHUNK):
                self.hash.update(data)

    def headers(self) -> dict[str, str]:
        """What asks for the rest, on condition that the file is still the same."""
        if not self.size:
            return {}
        condition = self.marks.get("if_range")
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": condition} if condition else {})

    def continues(self, response: httpx.Response) -> bool:
        """Whether a 206 goes on where the part ends, in a file of the same length and marks. Some ignore If-Range."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != self.size:
            return False
        total = None if found[3] == "*" else int(found[3])
        if None not in (total, self.total) and total != self.total:
            return False
        marks = marks_of(response)
        if any(marks[key] != self.marks[key] for key in marks if marks[key] and self.marks.get(key)):
            return False
        self.total = self.total if total is None else total
        return True

    def begin(self, response: httpx.Response, known_bytes: int | None) -> None:
        """Starts anew, with the length and the marks that the response gives."""
        self.discard()
        length = response.headers.get("Content-Length", "")
        self.total = int(length) if length.isdecimal() else known_bytes
        self.marks = marks_of(response)
        if self.marks["if_range"]:
            write_json(self.sidecar, {"address": self.address, "total": self.total, **self.marks})

    def append(self, data: bytes) -> None:
        """Adds what has come next."""
        if self.file is None:
            self.file = self.path.open("ab")
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Ends writing, until more is added."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def discard(self) -> None:
        """Forgets everything, so that nothing false is resumed."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)
        self.size, self.hash, self.total, self.marks = 0, hashlib.sha256(), None, {}

    def rename(self, target: Path) -> None:
        """Gives the whole file its name, once it is on the disk."""
        with self.path.open("rb+" if self.size else "ab") as written:  # an empty file has no part yet
            os.fsync(written.fileno())
        self.path.replace(target)
        self.sidecar.unlink(missing_ok=True)


def marks_of(response: httpx.Response) -> dict[str, str | None]:
    """What tells one state of the file from another; `if_range` is the one that proves it to the byte, if any does.

    A weak ETag proves nothing, nor does a Last-Modified of the very second in which it is read (RFC 9110, 8.8.2.2).
    """
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    strong = etag if etag and etag.startswith('"') else None
    if etag is None and modified is not None:
        with suppress(ValueError, TypeError):
            age = parsedate_to_datetime(response.headers.get("Date", "")) - parsedate_to_datetime(modified)
            strong = modified if age.total_seconds() >= 1 else None
    return {"if_range": strong, "etag": etag, "modified": modified}


def part_and_sidecar(target: Path) -> tuple[Path, Path]:
    """Where the part of `target` lies, and what identifies it."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def clear(target: Path) -> None:
    """Removes what a download that is no longer needed has left: the whole folder is taken for raw data later on."""
    for path in part_and_sidecar(target):
        path.unlink(missing_ok=True)
