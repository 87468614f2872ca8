"""The TMALL reader: full files and samples, made here in the same form; and, where they are there, the real samples."""

import zipfile
from pathlib import Path

import pytest

from befa.datasets import DatasetConfig
from befa.errors import DataError
from befa.interactions import filter_events
from befa.sources import tmall

REAL = Path(__file__).parents[3] / "shared/data/tmall"

PRODUCTS = [
    ("277", "2014 秋装 新款", "http://img01.example/a.jpg", "2-7", "null", "s1"),
    ("185", "title with the separator \x01, and a comma", "null", "1-6", "b1", "s2"),
]
LOG = [
    ("277", "u9", "click", "2014-09-18 15:03:07"),
    ("185", "u10", "alipay", "2014-09-18 15:03:08"),
    ("277", "u10", "cart", "2014-09-19 00:00:00"),
]


def joined(rows):
    return "".join("\x01".join(row) + "\n" for row in rows).encode()


def full(folder, log=None):
    folder.mkdir(parents=True)
    files = {tmall.PRODUCT: joined(PRODUCTS)}
    for part, row in zip("abc", LOG, strict=True):
        files[f"{tmall.LOG}.part{part}"] = joined([row])
    if log is not None:
        files[f"{tmall.LOG}.parta"] = log
    for name, data in files.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.txt", data)
    return folder


def samples(folder):
    folder.mkdir(parents=True)
    products = "item_id,title,pict_url,category,brand_id,seller_id\n" + "".join(
        ",".join(row).replace("\x01", "") + "\n" for row in PRODUCTS
    )
    (folder / f"sam_{tmall.PRODUCT}.csv").write_bytes(products.encode("gb18030"))
    log = "item_id,user_id,action,vtime\ni277,u9,click,2014/9/18 15:03\ni185,u10,alipay,2014/9/18 15:03\n"
    (folder / f"sam_{tmall.LOG}.csv").write_text(log)
    return folder


def fetch(folder, into, **config):
    config = tmall.TmallConfig(mirror=str(folder), **config)
    return tmall.fetch(config, into, dataset="tmall", progress=lambda *_: None)


def rows(batches):
    return [row for batch in batches for row in batch.to_pylist()]


def test_the_full_files_are_read_inside_their_archives(tmp_path):
    names = fetch(full(tmp_path / "placed"), tmp_path / "raw")
    assert sorted(names) == sorted(path.name for path in (tmp_path / "raw").iterdir())
    assert [tuple(row.values()) for row in rows(tmall.events(tmp_path / "raw"))] == [
        ("u9", "277", 1411052587, "click"),
        ("u10", "185", 1411052588, "alipay"),
        ("u10", "277", 1411084800, "cart"),
    ]
    first, second = rows(tmall.items(tmp_path / "raw", "{title} [{category}]"))
    assert first == {"item": "277", "text": "2014 秋装 新款 [2-7]", "image": "http://img01.example/a.jpg"}
    assert second == {"item": "185", "text": "title with the separator , and a comma [1-6]", "image": None}


def test_the_samples_are_read_in_their_own_form(tmp_path):
    fetch(samples(tmp_path / "placed"), tmp_path / "raw", form="sample")
    assert [tuple(row.values()) for row in rows(tmall.events(tmp_path / "raw"))] == [
        ("u9", "277", 1411052580, "click"),
        ("u10", "185", 1411052580, "alipay"),
    ]
    first, second = rows(tmall.items(tmp_path / "raw", None))
    assert first["text"] == "2014 秋装 新款"
    assert second["text"] == "title with the separator , and a comma"


def test_what_is_absent_is_named_with_its_place(tmp_path):
    folder = full(tmp_path / "placed")
    (folder / f"{tmall.LOG}.partb.zip").unlink()
    with pytest.raises(DataError, match=rf"absent: {tmall.LOG}\.partb\.zip in .*placed; log in at tianchi"):
        fetch(folder, tmp_path / "raw")
    assert fetch(folder, tmp_path / "raw", parts=("a", "c"))[1:] == [f"{tmall.LOG}.part{p}.zip" for p in "ac"]
    absent = tmall.needs(tmall.TmallConfig(mirror=str(folder)), "tmall")
    assert [need.there for need in absent] == [True, True, False, True]


def test_a_few_malformed_lines_are_left_out_and_many_are_an_error(tmp_path, caplog):
    good = joined([LOG[0]] * 30_000)
    fetch(full(tmp_path / "few", log=good + b"277\x01u1\n"), tmp_path / "raw")
    assert len(rows(tmall.events(tmp_path / "raw"))) == 30_002
    assert "left out 1 malformed lines (first: 2 fields for 4" in caplog.text
    fetch(full(tmp_path / "many", log=joined([LOG[0]]) + b"277\x01u1\n" * 5), tmp_path / "other")
    with pytest.raises(DataError, match="malformed"):
        rows(tmall.events(tmp_path / "other"))


def test_a_damaged_archive_is_not_taken(tmp_path):
    folder = full(tmp_path / "placed")
    path = folder / f"{tmall.PRODUCT}.zip"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="not a whole zip file"):
        fetch(folder, tmp_path / "raw")
    assert not (tmp_path / "raw" / path.name).exists()


def test_a_file_in_the_others_place_is_noticed(tmp_path):
    folder = samples(tmp_path / "placed")
    (folder / f"sam_{tmall.PRODUCT}.csv").write_bytes((folder / f"sam_{tmall.LOG}.csv").read_bytes())
    with pytest.raises(DataError, match=r"4 of 6 fields.*is this the product file"):
        fetch(folder, tmp_path / "raw", form="sample")


@pytest.mark.skipif(not REAL.exists(), reason="the official samples of TMALL are not beside the project")
def test_the_official_samples(tmp_path):
    fetch(REAL, tmp_path, form="sample")
    config = DatasetConfig(kind="tmall", source=None, core=2)
    stats = filter_events(tmall.events(tmp_path), lambda: tmall.items(tmp_path, None), config).stats
    assert stats["read"]["interactions"] == 4_844
    assert sum(stats["read"]["actions"].values()) == 4_844
    assert len(rows(tmall.items(tmp_path, None))) == 562
    # The log's i161 is the product 161: every sold item has its title.
    assert stats["items_without_text"] == 0
