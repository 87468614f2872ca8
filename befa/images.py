"""Reading and decoding pictures: plain files or members of a zip, never unpacked; every failure has a reason."""

import io
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from befa.errors import DataError

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded. A few bytes can claim any size, and would take the memory that they claim."""

MAX_RATIO = 1_000
"""Of a picture's sides. An encoder scales the shorter one to its own input before it cuts the longer: of a hairline, a
few bytes too, to gigabytes."""

MAX_BYTES = 100_000_000
"""Largest file of a picture that is read."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000")
"""What is taken for a picture. Pillow knows more (EPS starts Ghostscript); no catalogue here needs them."""


class ImageError(DataError):
    """One picture cannot be had; `what` is the reason. The feature store records it and goes on."""


class MissingImage(ImageError):  # noqa: N818 - named for the status it leads to
    """There is no picture under this reference."""


class CorruptImage(ImageError):  # noqa: N818
    """There are bytes under this reference, but they are no whole picture."""


class ImageFiles:
    """Pictures below a dataset's raw folder, by reference: "pictures/1.jpg", or "images.zip/0001.png" inside a zip.

    A zip is opened once per process and its directory is kept. Objects may be pickled and used after a fork: a
    process never reads through another one's file handle. Several threads may read at the same time.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"raw": self.raw, "_archives": {}, "_process": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def read(self, reference: str) -> bytes:
        """The bytes under `reference`.

        Raises MissingImage (nothing is there, or the reference leads out of the raw folder), CorruptImage (the
        member's checksum is wrong), and DataError when a whole archive is absent or broken.
        """
        parts = PurePosixPath(reference).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in reference:
            raise MissingImage("the reference is no path below the raw folder", where=repr(reference))
        for depth, part in enumerate(parts[:-1], start=1):
            if part.lower().endswith(".zip") and not self.raw.joinpath(*parts[:depth]).is_dir():
                return self._member(self.raw.joinpath(*parts[:depth]), "/".join(parts[depth:]))
        path = self.raw.joinpath(*parts)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise CorruptImage("the file is too large", where=reference)
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingImage("no such file", where=reference) from None
        except OSError as error:
            raise CorruptImage(f"cannot be read ({error.strerror})", where=reference) from None

    def _member(self, path: Path, name: str) -> bytes:
        archive = self._archive(path)
        try:
            if archive.getinfo(name).file_size > MAX_BYTES:
                raise CorruptImage("the file is too large", where=f"{path.name}/{name}")
            return archive.read(name)
        except CorruptImage:
            raise
        except KeyError:
            raise MissingImage("no such member", where=f"{path.name}/{name}") from None
        except Exception as error:  # BadZipFile, EOFError, zlib.error, LZMAError, ...: no common base
            raise CorruptImage(f"cannot be unpacked ({error})", where=f"{path.name}/{name}") from None

    def _archive(self, path: Path) -> zipfile.ZipFile:
        if self._process != os.getpid():  # after a fork or in another process: its handles are not ours
            self._archives, self._process = {}, os.getpid()
        if path not in self._archives:
            try:
                self._archives[path] = zipfile.ZipFile(path)
            except FileNotFoundError:
                raise DataError("no such archive of pictures", where=path, mend="run its download stage") from None
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"not a whole zip file ({error})", where=path, mend="download it again") from None
        return self._archives[path]


def decode(data: bytes) -> Image.Image:
    """The picture in `data` as 8-bit RGB: alpha flattened on white, 16 bits scaled to 8, an animation's first frame.

    The EXIF orientation is not applied, as in open_clip's preprocessing. Raises CorruptImage with the reason for
    empty, truncated or foreign bytes, for pictures of more than MAX_PIXELS pixels, and for sides beyond MAX_RATIO.
    """
    if not data:
        raise CorruptImage("no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise CorruptImage(f"{picture.width} x {picture.height} pixels are too many")
            if max(picture.size) > MAX_RATIO * min(picture.size):
                raise CorruptImage(f"{picture.width} x {picture.height} pixels are no picture, but a line")
            picture.load()
            return _rgb(picture)
    except CorruptImage:
        raise
    except Image.UnidentifiedImageError:
        raise CorruptImage("not an image") from None
    except Image.DecompressionBombError:
        raise CorruptImage("too many pixels") from None
    except Exception as error:  # decoders raise whatever comes (OSError, SyntaxError, struct.error, IndexError)
        # Addresses and buffer sizes in a message would differ from run to run: keep its first words only.
        raise CorruptImage(f"cannot be decoded ({str(error).split('(')[0].strip() or type(error).__name__})") from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow also reads as 32-bit integers
        values = np.asarray(picture).astype(np.int64)
        shift = 8 if picture.mode != "I" or values.max(initial=0) > 255 else 0
        return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise CorruptImage("pixels are floating-point numbers of unknown range")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return picture.convert("RGB")
