"""The generated catalogue: the same bytes every time, oddities included, and choices that follow what items are."""

import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from befa import interactions
from befa.datasets import EVENTS, ITEMS, DatasetConfig
from befa.errors import DataError
from befa.images import CorruptImage, ImageFiles, MissingImage, decode
from befa.rng import numpy_stream
from befa.sources import demo
from befa.sources.demo import drawing, tastes


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows(raw, text=None):
    return [row for batch in demo.items(raw, text) for row in batch.to_pylist()]


def test_the_same_configuration_gives_the_same_bytes_and_another_seed_others(catalogue, tmp_path):
    for name, seed in (("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        demo.fetch(demo.DemoConfig(size="tiny", seed=seed), tmp_path / name)
    first, other = all_bytes(catalogue), all_bytes(tmp_path / "other")
    assert first == all_bytes(tmp_path / "again")
    assert set(first) == set(other)
    assert not any(first[name] == other[name] for name in first)


def test_a_handful_of_files_whatever_the_number_of_items(catalogue):
    assert len(list(catalogue.iterdir())) == 5


def test_progress_counts_pictures(tmp_path):
    seen = []
    demo.fetch(demo.DemoConfig(size="tiny"), tmp_path, progress=lambda done, total, note: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(1, 41)]


def test_events_and_items_have_the_columns_of_every_source(catalogue):
    batches = list(demo.events(catalogue))
    assert all(batch.schema.equals(EVENTS, check_metadata=True) for batch in batches)
    times = pa.Table.from_batches(batches)["time"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert [batch.schema for batch in demo.items(catalogue, None)] == [ITEMS]
    with pytest.raises(DataError, match="download"):
        list(demo.events(catalogue / "nowhere"))


def test_a_text_template_is_over_the_sources_own_columns(catalogue):
    plain, framed = rows(catalogue), rows(catalogue, "No. {item}: {title}")
    assert framed[0]["text"] == f"No. {plain[0]['item']}: {plain[0]['text']}"


def oddities(catalogue):
    """Item ids by what is odd about them."""
    odd = {}
    files = ImageFiles(catalogue)
    for item in rows(catalogue):
        if item["text"] is None:
            odd.setdefault("empty title", []).append(item["item"])
        elif len(item["text"].split()) > 77:
            odd.setdefault("long title", []).append(item["item"])
        elif not item["text"].isascii():
            odd.setdefault("Chinese title", []).append(item["item"])
        if item["image"] is None:
            odd.setdefault("no reference", []).append(item["item"])
            continue
        try:
            decode(files.read(item["image"]))
        except MissingImage:
            odd.setdefault("no picture", []).append(item["item"])
        except CorruptImage:
            odd.setdefault("truncated", []).append(item["item"])
    return odd


def test_what_is_odd_survives_the_five_core(catalogue):
    config = DatasetConfig(kind="demo", source=None, core=5)
    kept = interactions.filter_events(demo.events(catalogue), lambda: demo.items(catalogue, None), config)
    odd = oddities(catalogue)
    assert {"empty title", "long title", "no reference", "no picture", "truncated"} <= set(odd)
    left = set(kept.items["item"].to_pylist())
    assert all(set(items) & left for items in odd.values())
    assert kept.stats["users"] >= 55
    assert kept.stats["items"] >= 35
    assert kept.stats["unique"]["interactions"] < kept.stats["read"]["interactions"]  # repeat purchases


def test_a_mask_covers_the_object_and_nothing_else():
    for category in drawing.SILHOUETTES:
        # The same draw with two colours: pixels that differ are the object's.
        pictures, masks = zip(
            *(
                drawing.draw(category, colour, "solid", rng=numpy_stream(1, "mask", category))
                for colour in ("red", "black")
            ),
            strict=True,
        )
        first, second = (np.asarray(picture).astype(int) for picture in pictures)
        mask = np.asarray(masks[0])
        assert pictures[0].size == (64, 64)
        assert 0.04 < mask.mean() < 0.75
        changed = np.abs(first - second).max(2) > 80
        assert (changed == mask).mean() > 0.99, category


def test_masks_belong_to_pictures(catalogue):
    with zipfile.ZipFile(catalogue / "images.zip") as images, zipfile.ZipFile(catalogue / "masks.zip") as masks:
        stems = [{name.rsplit(".", 1)[0] for name in archive.namelist()} for archive in (images, masks)]
        assert stems[0] == stems[1]
        assert Image.open(io.BytesIO(masks.read(masks.namelist()[0]))).mode == "1"


def test_users_choose_by_what_items_are_and_by_what_no_content_shows():
    truth = tastes.make(300, 200, seed=3, special=np.array([0]))
    user_E, item_E, _ = tastes.choices(truth, mean=12.0, seed=3)

    def lift(values_UI):
        """Mean over the choices, in standard deviations over all pairs."""
        return (values_UI[user_E, item_E].mean() - values_UI.mean()) / values_UI.std()

    for name, of_I in truth.attributes.items():
        assert lift(truth.tastes[name][:, of_I]) > 0.3, name
    assert lift(truth.tastes["hidden"] @ truth.hidden_Ih.T) > 0.3
    counts = np.bincount(item_E, minlength=200)
    assert np.corrcoef(counts, truth.popularity_I)[0, 1] > 0.3


def test_titles_name_the_attributes(catalogue):
    truth = pq.read_table(catalogue / "truth.parquet").to_pylist()
    texts = {item["item"]: item["text"] for item in rows(catalogue)}
    from befa.sources.demo.wording import CHINESE, COLOUR_WORDS, NOUNS, PATTERN_WORDS

    words = {"category": NOUNS, "colour": COLOUR_WORDS, "pattern": PATTERN_WORDS}
    for row in truth:
        text = texts[row["item"]]
        for attribute, synonyms in words.items():
            value = row[attribute]
            assert text is None or any(word.lower() in text.lower() for word in (*synonyms[value], CHINESE[value]))
