"""Pictures that are there: those of an earlier run, and those that a run which was killed has left."""

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from PIL import Image

from befa.errors import DataError
from befa.images import FORMATS, CorruptImage, ImageFiles, decode
from befa.pictures.links import address_of
from befa.pictures.writing import ARCHIVE, COVERAGE, INDEX, Picture
from befa.tables import read_table

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
"""Where it differs from the format's name in lower case."""

log = logging.getLogger(__name__)


class Journal:
    """A folder with one file per picture, named by its address, that outlives a killed run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pictures(self, addresses: set[str]) -> dict[str, Picture]:
        """What an interrupted run left for `addresses`."""
        if not self.folder.is_dir():
            return {}
        present = {path.name for path in self.folder.iterdir()}
        left = {}
        for address in addresses:
            if self._path(address).name in present:
                # No second look at a file that was damaged since: it is fetched again.
                with contextlib.suppress(CorruptImage):
                    left[address] = self._picture(address, self._path(address).read_bytes())
        return left

    def add(self, address: str, data: bytes) -> Picture:
        """Keeps `data`. Raises CorruptImage with the reason if it is no picture."""
        decode(data)
        picture = self._picture(address, data)
        # Not tables.whole, which looks through the folder for what a kill left behind: this one is removed in the end.
        path = self._path(address)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
        return picture

    def remove(self) -> None:
        """Forgets everything; the final files have it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _path(self, address: str) -> Path:
        return self.folder / sha256(address.encode()).hexdigest()

    def _picture(self, address: str, data: bytes) -> Picture:
        return Picture(sha256(data).hexdigest(), len(data), _suffix(data), self._path(address))


def _suffix(data: bytes) -> str:
    """By the picture's real format: a link's own ending may be wrong, or not there."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            form = picture.format or ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise CorruptImage("not an image") from None
    return SUFFIXES.get(form, form.lower())


def kept_pictures(into: Path, earlier: ImageFiles, wanted: Mapping[str, int]) -> dict[str, Picture]:
    """Pictures of an earlier run for `wanted` addresses, if archive and table agree on them."""
    if not (into / INDEX).exists():
        return {}
    try:
        table = read_table(into / INDEX, COVERAGE.names)
    except DataError as error:
        log.warning("nothing is kept: %s", error)
        return {}
    kept, lost = {}, 0
    for row in table.to_pylist():
        if row["status"] != "ok" or (address := address_of(row["url"])) not in wanted or address in kept:
            continue
        try:
            # A run that was killed between the two files, or a damaged archive: such an item is fetched anew.
            agrees = sha256(earlier.read(row["image"])).hexdigest() == row["sha256"]
        except DataError:
            agrees = False
        if agrees:
            suffix = row["image"].rpartition(".")[2]
            kept[address] = Picture(row["sha256"], row["bytes"], suffix, source=row["image"])
        lost += not agrees
    if lost:
        log.warning("%d pictures of %s are not those of its table, and are fetched again", lost, into / ARCHIVE)
    return kept
