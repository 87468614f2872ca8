"""The MicroLens reader, on small files of the same form and, where they are there, on the real ones."""

import zipfile
from pathlib import Path

import pytest

from befa.datasets import DatasetConfig
from befa.downloads import AbsentError, KnownFile
from befa.errors import DataError
from befa.images import ImageFiles
from befa.interactions import filter_events
from befa.report.published import TABLE_1
from befa.sources import microlens

REAL = Path(__file__).parents[3] / "shared/data/microlens"

CSV = "user,item,timestamp\n1,20,1583378629552\n1,3,1584378629001\n2,3,1583378629999\n"
TSV = "1\t20 3\n2\t3\n"
TITLES = 'item,title\n3,"Say ""hello"", twice\nand again"\n20,\n'


def mirror(folder, *, pairs=CSV, tsv=TSV, covers=True):
    folder.mkdir()
    texts = {microlens.PAIRS: pairs, microlens.PAIRS_OF_USERS: tsv, microlens.TITLES: TITLES}
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text)
    if covers:
        with zipfile.ZipFile(folder / microlens.COVERS, "w") as archive:
            archive.writestr("MicroLens-50k_covers/3.jpg", b"cover")
    return folder


def fetch(folder, into, **config):
    config = microlens.MicrolensConfig(mirror=str(folder), **config)
    return microlens.fetch(config, into, dataset="microlens", progress=lambda *_: None)


def rows(batches):
    return [row for batch in batches for row in batch.to_pylist()]


def test_files_that_windows_wrote_are_read(tmp_path):
    fetch(mirror(tmp_path / "mirror", pairs=None), tmp_path / "raw")
    for name in (microlens.PAIRS_OF_USERS, microlens.TITLES):
        text = (tmp_path / "raw" / name).read_text()
        (tmp_path / "raw" / name).write_text(text, encoding="utf-8-sig", newline="\r\n")
    assert [row["user"] for row in rows(microlens.events(tmp_path / "raw"))] == ["1", "1", "2"]
    assert [row["item"] for row in rows(microlens.items(tmp_path / "raw", None))] == ["3", "20"]


@pytest.mark.parametrize("name", [microlens.PAIRS_OF_USERS, microlens.TITLES])
def test_what_is_no_text_is_one_error(tmp_path, name):
    fetch(mirror(tmp_path / "mirror", pairs=None), tmp_path / "raw")
    (tmp_path / "raw" / name).write_bytes("item,title\n3,Grüße\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=rf"not a text in UTF-8 in .*{name}; save it as UTF-8"):
        rows(microlens.events(tmp_path / "raw")), rows(microlens.items(tmp_path / "raw", None))


def test_a_title_without_end_is_one_error(tmp_path):
    fetch(mirror(tmp_path / "mirror", pairs=None), tmp_path / "raw")
    (tmp_path / "raw" / microlens.TITLES).write_text(f'item,title\n3,"{"a" * 200_000}\n')
    with pytest.raises(DataError, match=r"a table cannot be read \(field larger than field limit"):
        rows(microlens.items(tmp_path / "raw", None))


def test_the_mend_names_the_datasets_own_stage(tmp_path):
    with pytest.raises(DataError, match=r"run `dvc repro download@microlens_titles`"):
        rows(microlens.events(tmp_path / "microlens_titles"))


def test_the_csv_wins_and_the_tsv_does(tmp_path):
    names = fetch(mirror(tmp_path / "both"), tmp_path / "raw")
    assert names == [microlens.PAIRS, microlens.TITLES, microlens.COVERS]
    assert [tuple(row.values()) for row in rows(microlens.events(tmp_path / "raw"))] == [
        ("1", "20", 1583378629),
        ("1", "3", 1584378629),
        ("2", "3", 1583378629),
    ]
    names = fetch(mirror(tmp_path / "tsv", pairs=None), tmp_path / "other")
    assert names[0] == microlens.PAIRS_OF_USERS
    # Without times, a user's items are in their order.
    assert [tuple(row.values()) for row in rows(microlens.events(tmp_path / "other"))] == [
        ("1", "20", 0),
        ("1", "3", 1),
        ("2", "3", 0),
    ]
    for folder, metadata in (("raw", None), ("other", {b"place": b"user"})):
        assert next(microlens.events(tmp_path / folder)).schema.metadata == metadata


def test_titles_and_covers_belong_to_items(tmp_path):
    fetch(mirror(tmp_path / "mirror"), tmp_path / "raw")
    first, second = rows(microlens.items(tmp_path / "raw", None))
    assert first["text"] == 'Say "hello", twice and again'
    assert ImageFiles(tmp_path / "raw").read(first["image"]) == b"cover"
    assert second == {"item": "20", "text": None, "image": None}


def test_pairs_and_titles_are_enough(tmp_path, caplog):
    folder = mirror(tmp_path / "mirror", covers=False)
    assert fetch(folder, tmp_path / "raw") == [microlens.PAIRS, microlens.TITLES]
    assert "no covers" in caplog.text
    assert [row["image"] for row in rows(microlens.items(tmp_path / "raw", None))] == [None, None]
    with pytest.raises(AbsentError, match="covers"):
        fetch(folder, tmp_path / "raw", covers="required")


def test_covers_that_were_cut_off_are_not_taken_up_again(tmp_path):
    folder = mirror(tmp_path / "mirror")
    whole = (folder / microlens.COVERS).read_bytes()
    (folder / microlens.COVERS).write_bytes(whole[:-30])
    with pytest.raises(DataError, match="zip"):
        fetch(folder, tmp_path / "raw")
    (folder / microlens.COVERS).write_bytes(whole)
    assert microlens.COVERS in fetch(folder, tmp_path / "raw")


def test_a_wrong_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected"):
        fetch(mirror(tmp_path / "mirror"), tmp_path / "raw", files={microlens.PAIRS: KnownFile(bytes=9_431_093)})
    with pytest.raises(AbsentError, match=r"no MicroLens-50k_pairs\.tsv"):
        fetch(mirror(tmp_path / "neither", pairs=None, tsv=None), tmp_path / "raw")


def test_a_line_that_is_no_user_and_items_is_named(tmp_path):
    fetch(mirror(tmp_path / "mirror", pairs=None, tsv="1\t2 3\n4 5 6\n"), tmp_path / "raw")
    with pytest.raises(DataError, match="line 2 is not a user, a tab and items"):
        list(microlens.events(tmp_path / "raw"))


@pytest.mark.skipif(not REAL.exists(), reason="the real MicroLens files are not beside the project")
def test_the_papers_table_1_digit_for_digit(tmp_path):
    fetch(REAL, tmp_path)
    config = DatasetConfig(kind="microlens", source=None, core=5)
    stats = filter_events(microlens.events(tmp_path), lambda: microlens.items(tmp_path, None), config).stats
    paper = TABLE_1["microlens"]
    assert [stats[name] for name in ("users", "items", "interactions")] == [46_420, 14_079, 332_730]
    assert [paper[name] for name in ("users", "items", "interactions")] == [46_420, 14_079, 332_730]
    assert stats["items_without_text"] == 0
