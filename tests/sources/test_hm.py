"""The H&M reader, on a small archive of the same form and, where it is there, on a real week."""

import zipfile
from pathlib import Path

import pytest

from befa.errors import ConfigError, DataError
from befa.images import ImageFiles
from befa.interactions import filter_events
from befa.sources import hm
from befa.sources.base import DatasetConfig

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
    return str(path)


@pytest.mark.parametrize("folder", ["images_128_128", "images"])
def test_both_layouts_are_read_without_unpacking(tmp_path, folder):
    hm.fetch(archive(tmp_path / "a.zip", folder=folder), tmp_path / "raw")
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["archive.zip"]
    events = [row for batch in hm.events(tmp_path / "raw") for row in batch.to_pylist()]
    assert [(e["user"], e["item"], e["time"] // 86_400) for e in events] == [
        ("00aa", "0108775015", 18_521),
        ("00aa", "0108775015", 18_521),
        ("00bb", "0110065001", 18_527),
    ]
    items = hm.items(tmp_path / "raw", None).to_pylist()
    assert [item["item"] for item in items] == ["0108775015", "0108775044", "0110065001"]
    assert items[0]["text"] == "Strap top, Vest top, Black. Jersey top, with narrow straps."
    assert items[1] == {"item": "0108775044", "text": "Strap top, Vest top, White.", "image": None}
    # "NA" is a name like any other, not a missing value.
    assert items[2]["text"] == "NA, Bra, Black. Moulded cups."
    assert ImageFiles(tmp_path / "raw").read(items[2]["image"]) == b"second picture"


def test_the_text_follows_its_template(tmp_path):
    hm.fetch(archive(tmp_path / "a.zip"), tmp_path / "raw")
    assert (
        hm.items(tmp_path / "raw", "a {colour_group_name} {product_type_name}")["text"][0].as_py() == "a Black Vest top"
    )
    with pytest.raises(ConfigError, match=r"no column 'colour_group'.*did you mean 'colour_group_name'"):
        hm.items(tmp_path / "raw", "{colour_group}")


def test_no_archive_named_says_which_to_name(tmp_path):
    with pytest.raises(DataError, match=r"no archive named.*set datasets\.hm\.source to a local copy"):
        hm.fetch(None, tmp_path / "raw")


def test_an_absent_archive_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no such archive in .*nowhere\.zip"):
        hm.fetch(str(tmp_path / "nowhere.zip"), tmp_path / "raw")
    assert not (tmp_path / "raw/archive.zip").exists()


def test_a_truncated_archive_leaves_nothing_behind(tmp_path):
    path = Path(archive(tmp_path / "a.zip"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"not a whole zip file in .*a\.zip; download the archive again"):
        hm.fetch(str(path), tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_damaged_table_is_noticed_at_once(tmp_path):
    path = Path(archive(tmp_path / "a.zip"))
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("transactions_train.csv").header_offset
    data = bytearray(path.read_bytes())
    data[start + 60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"transactions_train\.csv is damaged"):
        hm.fetch(str(path), tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no articles\.csv in"):
        hm.fetch(archive(tmp_path / "a.zip", leave_out=["articles.csv"]), tmp_path / "raw")


def test_ids_that_lost_their_zero_are_an_error(tmp_path):
    numbers = TRANSACTIONS.replace(",0108775015", ",108775015")
    hm.fetch(archive(tmp_path / "a.zip", transactions=numbers), tmp_path / "raw")
    with pytest.raises(DataError, match=r"article_id '108775015' is not of ten characters.*leading zero"):
        list(hm.events(tmp_path / "raw"))


@pytest.mark.skipif(not REAL.exists(), reason="the real week of H&M is not beside the project")
def test_a_real_week(tmp_path):
    hm.fetch(str(REAL), tmp_path / "raw")
    items = hm.items(tmp_path / "raw", None)
    assert (len(items), items["image"].null_count) == (11_780, 142)
    config = DatasetConfig(kind="hm", source=None, core=5)
    stats = filter_events(hm.events(tmp_path / "raw"), items, config).stats
    assert stats["read"] == {"interactions": 166_837}
    assert stats["window"]["users"] == 29_911
    # Counted by an independent pandas loop.
    assert (stats["users"], stats["items"], stats["interactions"]) == (8_946, 3_197, 64_991)
