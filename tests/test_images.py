"""A picture is had from a file or a zip, as RGB; each thing that goes wrong has its own reason."""

import io
import multiprocessing
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from befa import images
from befa.errors import DataError
from befa.images import CorruptImage, ImageFiles, MissingImage, decode


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png_claiming(width, height):
    """A PNG's header for a picture of any size; there is no more of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


RED = encoded(Image.new("RGB", (8, 6), "red"))


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw/pictures").mkdir(parents=True)
    (tmp_path / "raw/pictures/1.jpg").write_bytes(RED)
    (tmp_path / "secret.png").write_bytes(RED)
    with zipfile.ZipFile(tmp_path / "raw/archive.zip", "w") as archive:
        archive.writestr("images_128_128/010/0108775015.jpg", RED)
        archive.writestr("damaged.png", RED)
    data = (tmp_path / "raw/archive.zip").read_bytes()
    place = data.index(RED, data.index(b"damaged.png")) + 40
    (tmp_path / "raw/archive.zip").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    return tmp_path / "raw"


@pytest.mark.parametrize("reference", ["pictures/1.jpg", "archive.zip/images_128_128/010/0108775015.jpg"])
def test_a_reference_leads_to_a_file_or_into_a_zip(raw, reference):
    assert ImageFiles(raw).read(reference) == RED


@pytest.mark.parametrize(
    "reference",
    [
        *("pictures/2.jpg", "pictures", "pictures/1.jpg/3", "archive.zip/nothing.png", "", "/etc/passwd"),
        *("../secret.png", "pictures/../../secret.png", "archive.zip/../../secret.png", "a\0b"),
    ],
)
def test_what_is_not_there_or_lies_outside_is_missing(raw, reference):
    with pytest.raises(MissingImage):
        ImageFiles(raw).read(reference)


def test_a_damaged_member_is_corrupt_and_a_damaged_archive_is_an_error_of_its_own(raw):
    with pytest.raises(CorruptImage, match="CRC"):
        ImageFiles(raw).read("archive.zip/damaged.png")
    (raw / "half.zip").write_bytes((raw / "archive.zip").read_bytes()[:100])
    for archive, says in (("half.zip", "not a whole zip file"), ("none.zip", "no such archive")):
        with pytest.raises(DataError, match=says) as raised:
            ImageFiles(raw).read(f"{archive}/1.png")
        assert not isinstance(raised.value, (MissingImage, CorruptImage))


def _reads_the_same(files, reference, expected):
    assert all(files.read(reference) == expected for _ in range(200))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_it_can_be_pickled_and_used_by_forked_processes_at_the_same_time(raw):
    reference = "archive.zip/images_128_128/010/0108775015.jpg"
    files = ImageFiles(raw)
    files.read(reference)  # the parent's handle is open
    assert pickle.loads(pickle.dumps(files)).read(reference) == RED
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_reads_the_same, args=(files, reference, RED)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def pixel(picture, form="PNG", **options):
    decoded = decode(encoded(picture, form, **options))
    assert decoded.mode == "RGB"
    return decoded.getpixel((0, 0))


def test_every_kind_of_picture_becomes_rgb():
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(transparent) == (255, 255, 255)  # flattened on white
    assert pixel(Image.new("RGBA", (4, 4), (0, 0, 0, 128))) == (127, 127, 127)
    assert pixel(Image.new("LA", (4, 4), (0, 0))) == (255, 255, 255)
    assert pixel(palette) == (10, 20, 30)
    assert pixel(palette, transparency=1) == (255, 255, 255)
    assert pixel(Image.new("1", (4, 4), 1)) == (255, 255, 255)
    assert pixel(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG") == (255, 255, 255)
    sixteen_bits = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert pixel(sixteen_bits) == (128, 128, 128)
    assert pixel(sixteen_bits, "TIFF") == (128, 128, 128)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no bytes"),
        (b"<html>404</html>", "not an image"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:700], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50))[:700], "cannot be decoded"),
        (png_claiming(30_000, 30_000), "too many"),
        (png_claiming(9_000, 9_000), "too many"),
        (png_claiming(64, 64), "cannot be decoded"),
        (png_claiming(1, 20_000), "no picture, but a line"),
        (encoded(Image.new("RGB", (4, 4)), "EPS"), "not an image"),
    ],
    ids=["empty", "page", "half a JPEG", "half a PNG", "bomb", "large", "header alone", "hairline", "EPS"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_whole_picture_has_a_reason(data, says):
    with pytest.raises(CorruptImage, match=says):
        decode(data)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1_000)
    (tmp_path / "large.jpg").write_bytes(b"0" * 1_001)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.jpg", b"0" * 1_001)
    for reference in ("large.jpg", "images.zip/large.jpg"):
        with pytest.raises(CorruptImage, match="the file is too large"):
            ImageFiles(tmp_path).read(reference)
