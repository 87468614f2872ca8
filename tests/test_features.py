"""The feature store: a vector depends on its content and encoder alone, rows meet by id, and absence is loud."""

import os
import shutil
import signal
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from befa import feature_store, features, tables
from befa.encoders.clip_config import OpenClipConfig
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoding import LocalEngine
from befa.errors import FeatureError
from befa.feature_store import FeatureStore
from befa.images import ImageFiles, decode
from befa.sources import demo

NAMED = {"dataset": "demo", "encoder_name": "clip"}


class Counting:
    """An encoder that notes what passes through its towers."""

    modalities = ("image", "text")

    def __init__(self, inner):
        self.inner, self.batches = inner, []
        self.identity, self.preprocessing = inner.identity, inner.preprocessing
        self.dimension, self.normalise, self.precision = inner.dimension, inner.normalise, inner.precision
        self.pixels, self.tokenize = inner.pixels, inner.tokenize
        self.device, self.text_lengths = inner.device, inner.text_lengths
        self.text_preprocessing = inner.text_preprocessing

    def encode_images(self, pixels_B3HW):
        self.batches.append(len(pixels_B3HW))
        return self.inner.encode_images(pixels_B3HW)

    def encode_texts(self, tokens_BL):
        self.batches.append(len(tokens_BL))
        return self.inner.encode_texts(tokens_BL)


@pytest.fixture
def encoder(clip_folder, clip_config):
    return Counting(OpenClipEncoder.load(clip_folder, clip_config))


@pytest.fixture
def items(catalogue):
    return pa.Table.from_batches(demo.items(catalogue, None))


def images(path, items, catalogue, encoder, *, batch_size=8, workers=0, progress=None):
    engine = LocalEngine(encoder, "image", ImageFiles(catalogue), batch_size=batch_size, workers=workers)
    return features.encode(path, items, engine, modality="image", **NAMED, progress=progress).counts


def texts(path, items, encoder, *, batch_size=8, workers=0, progress=None):
    engine = LocalEngine(encoder, "text", batch_size=batch_size, workers=workers)
    return features.encode(path, items, engine, modality="text", **NAMED, progress=progress).counts


def opened(path, modality="image", **other):
    return FeatureStore.open(path, **{"dataset": "demo", "encoder": "clip", "modality": modality} | other)


def test_coverage_and_columns_tell_what_became_of_every_item(tmp_path, items, catalogue, encoder):
    seen = []
    coverage = images(tmp_path / "i.parquet", items, catalogue, encoder, progress=lambda *done: seen.append(done))
    assert coverage == {
        "items": 40, "ok": 37, "missing": 2, "corrupt": 1, "duplicates": 0, "encoded": 37, "copied": 0,
    }  # fmt: skip
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][:2] == (40, 40)
    assert "read " in seen[-1][2]
    assert "encode " in seen[-1][2]
    assert encoder.batches == [8] * 5  # the last is padded
    table = pq.read_table(tmp_path / "i.parquet")
    assert table["item"].to_pylist() == sorted(items["item"].to_pylist())
    rows = {row["status"]: row for row in table.to_pylist()}
    assert rows["ok"]["reason"] is None
    assert len(rows["ok"]["source_sha256"]) == 64
    assert rows["missing"]["vector"] is None
    assert rows["missing"]["reason"] in ("no image", "no such member")
    assert "truncated" in rows["corrupt"]["reason"]

    coverage = texts(tmp_path / "t.parquet", items, encoder)
    assert (coverage["ok"], coverage["missing"], coverage["corrupt"]) == (39, 1, 0)
    assert coverage["truncated"] >= 1
    table = pq.read_table(tmp_path / "t.parquet")
    assert max(n for n in table["n_tokens"].to_pylist() if n) == 24
    assert table["truncated"].to_pylist().count(True) == coverage["truncated"]


def test_the_file_says_what_made_it_and_nothing_of_when_or_where(tmp_path, items, encoder):
    texts(tmp_path / "t.parquet", items, encoder)
    identity = opened(tmp_path / "t.parquet", "text").identity
    assert set(identity) == {
        "schema_version", "dataset", "modality", "encoder", "encoder_identity", "preprocessing", "normalised",
        "precision", "dimension", "items_sha256",
    }  # fmt: skip
    assert encoder.identity["weights_sha256"] in identity["encoder_identity"]
    (tmp_path / "elsewhere").mkdir()
    texts(tmp_path / "elsewhere/t.parquet", items, encoder)
    assert (tmp_path / "elsewhere/t.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_all_shuffled_and_incremental_are_the_same_bytes(tmp_path, items, catalogue, encoder, modality):
    def encode(name, table):
        path = tmp_path / f"{name}.parquet"
        if modality == "image":
            return images(path, table, catalogue, encoder)
        return texts(path, table, encoder)

    encode("all", items)
    encode("shuffled", items.take(np.random.default_rng(0).permutation(len(items))))
    for stop in (3, 17, 18, 40):  # as after restarts, or as the catalogue grows
        last = encode("parts", items.slice(0, stop))
    whole = (tmp_path / "all.parquet").read_bytes()
    assert (tmp_path / "shuffled.parquet").read_bytes() == whole
    assert (tmp_path / "parts.parquet").read_bytes() == whole
    assert last["encoded"] + last["copied"] == last["ok"] - last["duplicates"]
    assert last["copied"] > 10
    encoder.batches.clear()
    assert encode("all", items)["encoded"] == 0
    assert encoder.batches == []
    assert (tmp_path / "all.parquet").read_bytes() == whole


@pytest.mark.parametrize("modality", ["image", "text"])
def test_five_kills_lose_at_most_a_part_each_and_change_no_byte(
    tmp_path, items, catalogue, encoder, modality, monkeypatch
):
    monkeypatch.setattr(features, "PART", 3)
    parts = tmp_path / "killed.parts"

    def encode(name, progress=None):
        if modality == "image":
            return images(tmp_path / name, items, catalogue, encoder, batch_size=3, progress=progress)
        return texts(tmp_path / name, items, encoder, batch_size=3, progress=progress)

    def kill_after_a_part(saved):
        def look(done, total, note):
            if parts.is_dir() and len(list(parts.glob("*.parquet"))) > saved:
                os.kill(os.getpid(), signal.SIGKILL)

        return look

    encode("whole.parquet")
    batches = len(encoder.batches)
    for saved in range(5):
        process = os.fork()
        if process == 0:
            encode("killed.parquet", kill_after_a_part(saved))
            os._exit(0)  # not reached
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status)
        assert not (tmp_path / "killed.parquet").exists()
    encoder.batches.clear()
    encode("killed.parquet")
    assert len(encoder.batches) <= batches - 5
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]


def test_parts_of_another_encoder_are_not_taken_up(tmp_path, items, encoder):
    parts = tmp_path / "t.parts"
    parts.mkdir()
    texts(tmp_path / "other.parquet", items, encoder)
    table = pq.read_table(tmp_path / "other.parquet")
    metadata = {**table.schema.metadata, b"precision": b"fp16"}
    pq.write_table(table.replace_schema_metadata(metadata), parts / "000000.parquet")
    (parts / "000001.parquet").write_bytes(b"torn")
    coverage = texts(tmp_path / "t.parquet", items, encoder)
    assert coverage["copied"] == 0
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert not parts.exists()


def test_only_what_changed_is_encoded_and_equal_contents_once(tmp_path, items, encoder):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    changed = items.to_pylist()
    changed[0]["text"], changed[1]["text"] = "a brand new title", "a brand new title"
    coverage = texts(path, pa.Table.from_pylist(changed, items.schema), encoder)
    assert coverage["encoded"] == 1
    assert coverage["duplicates"] == 1
    two = [changed[0]["item"], changed[1]["item"]]
    x, _ = opened(path, "text").aligned(two, max_missing=0.0)
    assert np.array_equal(x[0], x[1])
    renamed = items.set_column(0, "item", pa.array([f"9{item}" for item in items["item"].to_pylist()]))
    assert texts(path, renamed, encoder)["copied"] > 30  # a vector belongs to its content, not to an id


def test_another_encoder_or_normalisation_encodes_all_again(tmp_path, items, encoder, clip_folder, clip_config):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    unit = OpenClipConfig(architecture=clip_config.architecture, weights="trained", normalise=True)
    assert texts(path, items, Counting(OpenClipEncoder.load(clip_folder, unit)))["copied"] == 0
    lengths = np.linalg.norm(opened(path, "text").aligned(items["item"].to_pylist(), max_missing=0.1)[0], axis=1)
    assert np.nanmax(abs(lengths - 1)) < 1e-5


def test_an_unreadable_store_is_encoded_again_with_a_warning(tmp_path, items, encoder, caplog):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"PAR1"):
        path.write_bytes(broken)
        caplog.clear()
        assert texts(path, items, encoder)["copied"] == 0
        assert "unreadable" in caplog.text
        assert path.read_bytes() == whole


def test_a_vector_is_the_encoders_own(tmp_path, items, catalogue, encoder):
    images(tmp_path / "i.parquet", items, catalogue, encoder)
    item = next(row for row in items.to_pylist() if row["image"])
    x, _ = opened(tmp_path / "i.parquet").aligned([item["item"]], max_missing=0.0)
    pixels = encoder.pixels(decode(ImageFiles(catalogue).read(item["image"])))
    torch.testing.assert_close(torch.from_numpy(x), encoder.inner.encode_images(pixels[None]))


def test_rows_meet_by_id_and_absent_ones_are_nan(tmp_path, items, catalogue, encoder):
    images(tmp_path / "i.parquet", items, catalogue, encoder)
    store = opened(tmp_path / "i.parquet")
    assert store.dimension == 16
    ids = items["item"].to_pylist()
    x, present = store.aligned(ids, max_missing=0.1)
    assert present.sum() == 37
    assert np.isnan(x[~present]).all()
    assert np.isfinite(x[present]).all()
    backwards, present_backwards = store.aligned([*ids[::-1], "unheard of"], max_missing=0.2)
    assert np.array_equal(backwards[:-1][::-1], x, equal_nan=True)
    assert present_backwards[:-1][::-1].tolist() == present.tolist()
    assert not present_backwards[-1]
    with pytest.raises(FeatureError) as raised:
        store.aligned(ids, max_missing=0.01)
    absent = next(item for item, there in zip(ids, present, strict=True) if not there)
    assert str(raised.value) == (
        f"7.5% of items have no vector (allowed 1.0%) in {tmp_path}/i.parquet; run dvc repro encode_images@demo-clip "
        f"or raise features.demo.max_missing; first absent: {absent}"
    )


@pytest.mark.parametrize("other", [{"dataset": "hm"}, {"encoder": "clip_large"}, {"modality": "text"}])
def test_a_store_of_another_making_is_refused(tmp_path, items, catalogue, encoder, other):
    images(tmp_path / "i.parquet", items, catalogue, encoder)
    asked = {"dataset": "demo", "encoder": "clip", "modality": "image"} | other
    name, value = next(iter(other.items()))
    mend = f"run dvc repro encode_{asked['modality']}s@{asked['dataset']}-{asked['encoder']}"
    with pytest.raises(FeatureError, match=rf"{name} is '\w+', not '{value}' in .*i\.parquet; {mend}"):
        FeatureStore.open(tmp_path / "i.parquet", **asked)


def test_no_store_a_broken_one_and_a_foreign_one(tmp_path):
    with pytest.raises(FeatureError, match=r"no such file.*run dvc repro encode_images@demo-clip"):
        opened(tmp_path / "i.parquet")
    (tmp_path / "i.parquet").write_bytes(b"no parquet")
    with pytest.raises(FeatureError, match=r"not a readable Parquet file.*run dvc repro"):
        opened(tmp_path / "i.parquet")
    tables.write_table(tmp_path / "i.parquet", pa.table({"item": ["a"], "vector": [[1.0]]}))
    with pytest.raises(FeatureError, match="schema_version is not stated"):
        opened(tmp_path / "i.parquet")


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (pa.array([108775015, 108775044]), "item ids are int64: an id was read as a number"),
        (pa.array(["a", "a"]), "1 item ids occur more than once"),
        (pa.array(["a", None]), "1 items have no id"),
    ],
)
def test_ids_are_strings_and_single(tmp_path, encoder, ids, says):
    with pytest.raises(FeatureError, match=says):
        texts(tmp_path / "t.parquet", pa.table({"item": ids, "text": ["one", "two"]}), encoder)
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_ids_became_numbers_is_refused(tmp_path, items, encoder):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    table = pq.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    tables.write_table(path, table.set_column(0, "item", table["item"].cast(pa.int64())), metadata)
    with pytest.raises(FeatureError, match=r"item ids are int64.*leading zeros are lost"):
        opened(path, "text")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_vector_that_would_poison_a_cosine_is_named(tmp_path, items, encoder, value):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    table = pq.read_table(path)
    rows = table.to_pylist()
    bad = next(row for row in rows if row["vector"])
    bad["vector"] = np.full(16, value, "<f4").tobytes()
    metadata = {key.decode(): text.decode() for key, text in table.schema.metadata.items()}
    tables.write_table(path, pa.Table.from_pylist(rows, table.schema), metadata)
    with pytest.raises(FeatureError, match=rf"1 vectors are not finite or zero \(first: item {bad['item']}\)"):
        opened(path, "text").aligned(items["item"].to_pylist(), max_missing=0.5)


def test_an_encoder_that_gives_no_numbers_writes_nothing(tmp_path, items, encoder):
    encoder.encode_texts = lambda tokens_BL: torch.full((len(tokens_BL), 16), float("nan"))
    with pytest.raises(FeatureError, match=r"\d of \d text vectors that are not finite or zero"):
        texts(tmp_path / "t.parquet", items, encoder)
    assert list(tmp_path.iterdir()) == []


def test_no_item_has_content_and_no_items_at_all(tmp_path, encoder):
    none = pa.table({"item": ["a", "b"], "text": pa.array([None, "  "], pa.string())})
    assert texts(tmp_path / "t.parquet", none, encoder)["missing"] == 2
    with pytest.raises(FeatureError, match=r"100\.0% of items have no vector"):
        opened(tmp_path / "t.parquet", "text").aligned(["a", "b"], max_missing=0.5)
    assert texts(tmp_path / "t.parquet", none.slice(0, 0), encoder)["items"] == 0
    assert opened(tmp_path / "t.parquet", "text").aligned([], max_missing=0.0)[0].shape == (0, 16)


def test_a_mended_picture_is_taken_up(tmp_path, items, catalogue, encoder):
    raw = tmp_path / "raw"
    shutil.copytree(catalogue, raw)
    path = tmp_path / "i.parquet"
    images(path, items, raw, encoder)
    corrupt = next(row["item"] for row in pq.read_table(path).to_pylist() if row["status"] == "corrupt")
    with zipfile.ZipFile(catalogue / "images.zip") as old, zipfile.ZipFile(raw / "images.zip", "w") as new:
        for name in old.namelist():
            if name != f"{corrupt}.jpg":
                new.writestr(name, old.read(name))
        with new.open(f"{corrupt}.jpg", "w") as member:
            Image.new("RGB", (64, 64), "red").save(member, "JPEG")
    coverage = images(path, items, raw, encoder)
    assert (coverage["corrupt"], coverage["encoded"], coverage["copied"]) == (0, 1, 37)


def test_vectors_of_a_slice_are_its_own():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = pa.chunked_array([feature_store.vector_column(x, np.ones(4, dtype=bool))])
    assert np.array_equal(feature_store.vectors(column.slice(2)), x[2:])
    two = pa.chunked_array([*column.chunks, *column.slice(1, 2).chunks])
    assert np.array_equal(feature_store.vectors(two), np.concatenate([x, x[1:3]]))


def test_given_vectors_have_each_id_once(tmp_path):
    with pytest.raises(FeatureError, match="1 item ids occur more than once in the ids of 'audio'"):
        feature_store.write_given(
            tmp_path / "x.parquet",
            pa.chunked_array([["a"]]),
            ["a", "a"],
            np.ones((2, 3)),
            dataset="small",
            modality="audio",
        )


def test_given_vectors_meet_their_items_by_id(tmp_path):
    values = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    values[1] = 0
    counts = feature_store.write_given(
        tmp_path / "x.parquet",
        pa.chunked_array([["d", "b", "a", "e", "c"]]),
        ["c", "d", "other", "a"],
        values,
        dataset="small",
        modality="audio",
    )
    assert counts == {"items": 5, "ok": 2, "missing": 2, "corrupt": 1, "dimension": 2}
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["item"] for row in rows] == ["a", "b", "c", "d", "e"]
    assert [row["status"] for row in rows] == ["ok", "missing", "ok", "corrupt", "missing"]
    assert [row["vector"] and np.frombuffer(row["vector"], "<f4").tolist() for row in rows] == [
        [7, 8],
        None,
        [1, 2],
        None,
        None,
    ]
    assert [row["reason"] for row in rows] == [None, "no vector", None, "not finite, or zero", "no vector"]


def test_given_rows_that_are_no_direction_are_corrupt(tmp_path):
    values = np.array([[0, 5], [0, 0], [np.nan, 1], [np.inf, 1], [1, 2]], dtype=np.float64)
    ids = list("abcde")
    feature_store.write_given(
        tmp_path / "x.parquet", pa.chunked_array([ids]), ids, values, dataset="small", modality="audio"
    )
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "corrupt", "corrupt", "corrupt", "ok"]
    assert [row["source_sha256"] is None for row in rows] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "key", ["schema_version", "modality", "encoder_identity", "preprocessing", "normalised", "precision", "dimension"]
)
def test_a_store_of_another_making_is_encoded_again(tmp_path, items, encoder, key):
    path = tmp_path / "t.parquet"
    texts(path, items, encoder)
    table = pq.read_table(path)
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert texts(path, items, encoder)["encoded"] == 0
    tables.write_table(path, table, metadata | {key: "another"})
    assert texts(path, items, encoder)["copied"] == 0
