"""The H&M reader, on a small archive of the same form and, where it is there, on a real week."""

import zipfile
from pathlib import Path

import pytest

from befa.datasets import DatasetConfig
from befa.downloads import KnownFile
from befa.errors import ConfigError, DataError
from befa.images import ImageFiles
from befa.interactions import filter_events
from befa.sources import hm

REAL = Path(__file__).parents[3] / "shared/data/hm/handm-dataset-128x128.zip"

ARTICLES = """article_id,product_code,prod_name,product_type_name,colour_group_name,detail_desc
0108775015,108775,Strap top,Vest top,Black,"Jersey top, with
narrow straps."
0108775044,108775,Strap top,Vest top,White,
0110065001,110065,NA,Bra,Black,Moulded cups.
"""
TRANSACTIONS = """t_dat,customer_id,article_id,price,sales_channel_id
2020-09-16,00aa,0108775015,0.05,2
2020-09-16,00aa,0108775015,0.05,2
2020-09-22,00bb,0110065001,0.01,1
"""


def archive(path, articles=ARTICLES, transactions=TRANSACTIONS, folder="images_128_128", leave_out=()):
    members = {
        "articles.csv": articles,
        "transactions_train.csv": transactions,
        f"{folder}/010/0108775015.jpg": "first picture",
        f"{folder}/011/0110065001.jpg": "second picture",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            if name not in leave_out:
                file.writestr(name, content)
    return path


def fetch(path, raw, **config):
    return hm.fetch(hm.HmConfig(mirror=str(path), **config), raw, dataset="hm", progress=lambda *_: None)


def items(raw, text=None):
    return [row for batch in hm.items(raw, text) for row in batch.to_pylist()]


@pytest.mark.parametrize("folder", ["images_128_128", "images"])
def test_both_layouts_are_read_without_unpacking(tmp_path, folder):
    assert fetch(archive(tmp_path / "a.zip", folder=folder), tmp_path / "raw") == ["handm-dataset-128x128.zip"]
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["handm-dataset-128x128.zip"]
    events = [row for batch in hm.events(tmp_path / "raw") for row in batch.to_pylist()]
    assert [(e["user"], e["item"], e["time"] // 86_400) for e in events] == [
        ("00aa", "0108775015", 18_521),
        ("00aa", "0108775015", 18_521),
        ("00bb", "0110065001", 18_527),
    ]
    first, second, third = items(tmp_path / "raw")
    assert [row["item"] for row in (first, second, third)] == ["0108775015", "0108775044", "0110065001"]
    assert first["text"] == "Strap top, Vest top, Black. Jersey top, with narrow straps."
    assert second == {"item": "0108775044", "text": "Strap top, Vest top, White.", "image": None}
    # "NA" is a name like any other, not a missing value.
    assert third["text"] == "NA, Bra, Black. Moulded cups."
    assert ImageFiles(tmp_path / "raw").read(third["image"]) == b"second picture"


def test_the_text_follows_its_template(tmp_path):
    fetch(archive(tmp_path / "a.zip"), tmp_path / "raw")
    assert items(tmp_path / "raw", "a {colour_group_name} {product_type_name}")[0]["text"] == "a Black Vest top"
    with pytest.raises(ConfigError, match=r"no column 'colour_group'.*did you mean 'colour_group_name'"):
        items(tmp_path / "raw", "{colour_group}")


def test_a_folder_that_holds_the_archive_is_a_mirror_too(tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    archive(tmp_path / "mirror/handm-dataset-128x128.zip")
    monkeypatch.setenv("BEFA_MIRROR_HM", str(tmp_path / "mirror"))
    assert all(need.there for need in hm.needs(hm.HmConfig(), "hm"))
    names = hm.fetch(hm.HmConfig(), tmp_path / "raw", dataset="hm", progress=lambda *_: None)
    assert names == ["handm-dataset-128x128.zip"]


def test_without_mirror_and_account_the_mend_names_both(tmp_path, monkeypatch):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "BEFA_MIRROR_HM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"no credentials for Kaggle"):
        hm.fetch(hm.HmConfig(), tmp_path / "raw", dataset="hm", progress=lambda *_: None)
    (need,) = hm.needs(hm.HmConfig(), "hm")
    assert not need.there
    assert "API token" in need.mend
    assert "datasets.hm.source.mirror" in need.mend


def test_an_absent_archive_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no such mirror in .*nowhere\.zip"):
        fetch(tmp_path / "nowhere.zip", tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_truncated_archive_leaves_nothing_behind(tmp_path):
    path = archive(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"not a whole zip file"):
        fetch(path, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_damaged_table_is_noticed_at_once(tmp_path):
    path = archive(tmp_path / "a.zip")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("transactions_train.csv").header_offset
    data = bytearray(path.read_bytes())
    data[start + 60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"transactions_train\.csv is damaged"):
        fetch(path, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no articles\.csv in"):
        fetch(archive(tmp_path / "a.zip", leave_out=["articles.csv"]), tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("../outside.csv", "a")
    with pytest.raises(DataError, match=r"member '\.\./outside\.csv'"):
        fetch(tmp_path / "b.zip", tmp_path / "raw")


def test_an_archive_of_another_checksum_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected"):
        fetch(archive(tmp_path / "a.zip"), tmp_path / "raw", file=KnownFile(sha256="0" * 64))


def test_what_kaggle_brought_is_compared_with_what_is_known(tmp_path, monkeypatch):
    monkeypatch.delenv("BEFA_MIRROR_HM", raising=False)
    config = hm.HmConfig(file=KnownFile(sha256="0" * 64))
    (tmp_path / "raw").mkdir()
    # As Kaggle's client leaves it.
    path = archive(tmp_path / "raw/handm-dataset-128x128.zip")
    with pytest.raises(DataError, match="expected"):
        hm.fetch(config, tmp_path / "raw", dataset="hm", progress=lambda *_: None)
    assert not path.exists()


def test_what_an_unfinished_try_left_is_taken_up_under_its_name_only(tmp_path, monkeypatch):
    """34 GB are not fetched again; and the parameters may ask for the other archive now."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "BEFA_MIRROR_HM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    fetch(archive(tmp_path / "a.zip"), tmp_path / "raw")
    names = hm.fetch(hm.HmConfig(), tmp_path / "raw", dataset="hm", progress=lambda *_: None)
    assert names == ["handm-dataset-128x128.zip"]
    config = hm.HmConfig(archive="h-and-m-personalized-fashion-recommendations")
    monkeypatch.setattr(hm, "COMPETITION_BYTES", 0)
    with pytest.raises(DataError, match="no credentials for Kaggle"):
        hm.fetch(config, tmp_path / "raw", dataset="hm", progress=lambda *_: None)


def test_ids_that_lost_their_zero_are_an_error(tmp_path):
    numbers = TRANSACTIONS.replace(",0108775015", ",108775015")
    fetch(archive(tmp_path / "a.zip", transactions=numbers), tmp_path / "raw")
    with pytest.raises(DataError, match=r"article_id '108775015' is not of ten characters.*leading zero"):
        list(hm.events(tmp_path / "raw"))


@pytest.mark.skipif(not REAL.exists(), reason="the real week of H&M is not beside the project")
@pytest.mark.parametrize(
    ("require", "sizes"),
    # Counted by an independent pandas loop.
    [((), (8_946, 3_197, 64_991)), (("image",), (8_934, 3_193, 64_897))],
)
def test_a_real_week(tmp_path, require, sizes):
    fetch(REAL, tmp_path)
    config = DatasetConfig(kind="hm", source=None, core=5, require=require)
    stats = filter_events(hm.events(tmp_path), lambda: hm.items(tmp_path, None), config).stats
    assert stats["read"] == {"interactions": 166_837}
    assert stats["window"]["users"] == 29_911
    assert (stats["users"], stats["items"], stats["interactions"]) == sizes
    table = items(tmp_path)
    assert (len(table), sum(row["image"] is None for row in table)) == (11_780, 142)
