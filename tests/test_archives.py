"""Archives that are read in place: tricks are refused by name, damage is found."""

import stat
import zipfile

import pytest

from befa.archives import check, first_broken
from befa.errors import DataError


def archive(path, members, **kwargs):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **kwargs) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def replace(path, before, after):
    """Changes bytes of the file: zipfile itself writes no archive that is wrong."""
    data = path.read_bytes()
    assert before in data
    assert len(before) == len(after)
    path.write_bytes(data.replace(before, after))
    return path


def test_an_honest_archive_passes(tmp_path):
    members = [("pictures/", ""), ("pictures/1.jpg", "one"), ("..name..", "two"), ("text.csv", "a,b\n" * 1000)]
    path = archive(tmp_path / "a.zip", members)
    check(path)
    assert first_broken(path, lambda name: False) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd", "absolute path"),
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("a\\..\\outside", "backslash"),
        ("C:/outside", "drive letter"),
    ],
)
def test_names_that_lead_out_are_refused(tmp_path, name, fault):
    path = archive(tmp_path / "a.zip", [("fine", "x"), (name, "x")])
    with pytest.raises(DataError, match=rf"member .*{fault}.* in .*a\.zip; do not use it"):
        check(path)


def test_a_nul_in_a_name_is_refused(tmp_path):
    path = replace(archive(tmp_path / "a.zip", [("table.csv.exe", "x")]), b"table.csv.exe", b"table.csv\0exe")
    with pytest.raises(DataError, match=r"member 'table\.csv\\x00exe' has no name or a NUL"):
        check(path)


def test_a_symbolic_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("pictures")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError, match=r"member 'pictures' is a symbolic link"):
        check(archive(tmp_path / "a.zip", [(link, "/etc")]))


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("table.csv", "x")])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"member 'table\.csv' is encrypted"):
        check(path)
    assert first_broken(path, lambda name: False) == "table.csv"


def test_a_name_that_stands_twice_is_refused(tmp_path):
    path = replace(archive(tmp_path / "a.zip", [("one", "x"), ("two", "y")]), b"two", b"one")
    with pytest.raises(DataError, match=r"member 'one' stands twice"):
        check(path)


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file, file.open("zeros", "w") as member:
        for _ in range(101):
            member.write(bytes(1_000_000))
    with pytest.raises(DataError, match=r"member 'zeros' unpacks .* to 101,000,000, as a zip bomb does"):
        check(path)


def test_more_than_the_largest_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("one", "x" * 60), ("two", "y" * 60)])
    check(path, largest=120)
    with pytest.raises(DataError, match=r"its members hold 120 bytes, allowed are 119"):
        check(path, largest=119)


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"PK\3\4 and then nothing"])
def test_what_is_no_zip_file_is_refused(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole zip file in .*a\.zip; download it again"):
        check(path)
    with pytest.raises(DataError, match=r"not a whole zip file"):
        first_broken(path, lambda name: False)


def test_a_truncated_or_absent_archive_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("one", "x" * 1000)])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="not a whole zip file"):
        check(path)
    with pytest.raises(DataError, match="no such archive"):
        check(tmp_path / "b.zip")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_directory_is_an_error_or_nothing_never_a_crash(tmp_path, seed):
    path = archive(tmp_path / "a.zip", [("one", "x" * 100), ("two", "y" * 100)])
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\1\2")
    place = start + (seed * 37) % (len(data) - start)
    data[place] ^= 0xFF
    path.write_bytes(data)
    try:
        check(path)
        first_broken(path, lambda name: False)
    except DataError:
        pass


def test_the_first_damaged_member_is_named_unless_it_is_skipped(tmp_path):
    path = archive(tmp_path / "a.zip", [("one.jpg", "x" * 50), ("table.csv", "y" * 50)])
    with zipfile.ZipFile(path) as file:
        starts = [info.header_offset + 30 + len(info.filename) for info in file.infolist()]
    data = bytearray(path.read_bytes())
    for start in starts:
        data[start + 1] ^= 0xFF
    path.write_bytes(data)
    assert first_broken(path, lambda name: False) == "one.jpg"
    with zipfile.ZipFile(path) as file:
        assert first_broken(file, lambda name: name.endswith(".jpg")) == "table.csv"
    assert first_broken(path, lambda name: True) is None


def test_progress_is_told_in_unpacked_bytes(tmp_path):
    path = archive(tmp_path / "a.zip", [("one", "x" * 50), ("two", "y" * 70), ("three", "z")])
    told = []
    first_broken(path, lambda name: name == "three", lambda done, total, note="": told.append((done, total, note)))
    assert told == [(50, 120, "one"), (120, 120, "two")]
