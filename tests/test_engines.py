"""Where and how encoding is done changes no byte: reading processes, a Ray cluster, cut texts, a second device."""

import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from befa import features, preparing, ray_engine
from befa.devices import device_for
from befa.encoders.base import Loading
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoding import LocalEngine
from befa.errors import ConfigError, DataError, FeatureError
from befa.images import ImageFiles
from befa.ray_engine import RayEngine
from befa.sources import demo

NAMED = {"dataset": "demo", "encoder_name": "clip"}


@pytest.fixture
def load(clip_folder, clip_config):
    return Loading(OpenClipEncoder, clip_folder, clip_config)


@pytest.fixture
def items(catalogue):
    return pa.Table.from_batches(demo.items(catalogue, None))


def local(load, modality, catalogue, **options):
    return LocalEngine(load("cpu"), modality, ImageFiles(catalogue), **{"batch_size": 8} | options)


def encode(path, items, engine, modality, **options):
    return features.encode(path, items, engine, modality=modality, **NAMED, **options)


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("workers", [1, 2])
def test_reading_processes_change_no_byte(tmp_path, items, catalogue, load, modality, workers):
    encode(tmp_path / "here", items, local(load, modality, catalogue), modality)
    before = torch.get_rng_state()
    outcome = encode(tmp_path / "there", items, local(load, modality, catalogue, workers=workers), modality)
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert outcome.speed.read_seconds > 0


class Broken(ImageFiles):
    """Pictures of which one makes the process that reads it die, or meets an error of the project's own."""

    def __init__(self, raw, how):
        super().__init__(raw)
        self.how, self.read_before = how, 0

    def read(self, reference):
        self.read_before += 1
        if self.read_before > 10:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("no such archive", where="images.zip", mend="download it")
        return super().read(reference)


def test_a_reading_process_that_dies_is_one_clear_error_and_the_next_run_goes_on(
    tmp_path, items, catalogue, load, monkeypatch
):
    monkeypatch.setattr(features, "PART", 8)
    broken = LocalEngine(load("cpu"), "image", Broken(catalogue, "killed"), batch_size=8, workers=1)
    with pytest.raises(FeatureError, match=r"a process that reads images died.*encode\.workers"):
        encode(tmp_path / "i.parquet", items, broken, "image")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    encode(tmp_path / "whole.parquet", items, local(load, "image", catalogue), "image")
    encode(tmp_path / "i.parquet", items, local(load, "image", catalogue), "image")
    assert (tmp_path / "i.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_error_of_a_reading_process_arrives_as_it_is(tmp_path, items, catalogue, load):
    broken = LocalEngine(load("cpu"), "image", Broken(catalogue, "error"), batch_size=8, workers=1)
    with pytest.raises(DataError, match=r"^no such archive in images\.zip; download it$") as raised:
        encode(tmp_path / "i.parquet", items, broken, "image")
    assert raised.value.mend == "download it"


def test_texts_of_every_length_are_encoded_as_if_they_were_not_cut(items, catalogue, load):
    encoder = load("cpu")
    assert encoder.text_lengths == (16, 24)
    titles = [title for title in items["text"].to_pylist() if title] + ["a", "two words", "word " * 50]
    tokens, n_tokens, _ = encoder.tokenize(titles)
    whole = encoder.encode_texts(tokens)
    short = n_tokens <= 16
    assert 3 < short.sum() < len(titles)
    cut = encoder.encode_texts(tokens[short, :16])
    torch.testing.assert_close(cut, whole[short], rtol=0, atol=2e-6 * whole.abs().max().item())


def test_texts_that_nobody_likes(tmp_path, load, catalogue):
    texts = {
        "empty": "", "blank": " \t\n　", "none": None, "chinese": "秋装 新款 打底衫", "emoji": "mug ☕ 🐈‍⬛",
        "long": "wide " * 2000, "one_word": "x" * 10_000, "nul": "a\x00b", "right_to_left": "שלום",
        "control": "\u202e\ufeff a", "html": "<b>bold</b> &amp; more",
    }  # fmt: skip
    table = pa.table({"item": list(texts), "text": pa.array(texts.values(), pa.string())})
    outcome = encode(tmp_path / "t.parquet", table, local(load, "text", catalogue), "text")
    rows = {row["item"]: row for row in pq.read_table(tmp_path / "t.parquet").to_pylist()}
    assert {item for item, row in rows.items() if row["status"] == "missing"} == {"empty", "blank", "none"}
    assert all(rows[item]["reason"] == "no text" for item in ("empty", "blank", "none"))
    assert {item for item, row in rows.items() if row["truncated"]} >= {"long", "one_word"}
    assert outcome.counts["ok"] == 8
    vectors = np.stack([np.frombuffer(row["vector"], "<f4") for row in rows.values() if row["vector"]])
    assert np.isfinite(vectors).all()
    assert rows["long"]["n_tokens"] == rows["one_word"]["n_tokens"] == 24


def test_bf16_is_another_identity_and_near(tmp_path, items, clip_folder, clip_config, load, catalogue):
    from dataclasses import replace

    half = OpenClipEncoder.load(clip_folder, replace(clip_config, precision="bf16"))
    path = tmp_path / "t.parquet"
    encode(path, items, local(load, "text", catalogue), "text")
    exact = {row["item"]: row["vector"] for row in pq.read_table(path).to_pylist()}
    assert encode(path, items, LocalEngine(half, "text", batch_size=8), "text").counts["copied"] == 0
    for row in pq.read_table(path).to_pylist():
        if row["vector"]:
            a, b = np.frombuffer(row["vector"], "<f4"), np.frombuffer(exact[row["item"]], "<f4")
            assert not np.array_equal(a, b)
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


def test_a_device_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto") == device_for("cpu") == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        device_for("cuda")


def test_the_number_of_processes_follows_the_work(monkeypatch, load, catalogue):
    seen = []
    monkeypatch.setattr(preparing, "DataLoader", lambda parts, num_workers, **options: seen.append(num_workers) or [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    reader = preparing.Reader("text", load("cpu"), None, frozenset())
    for pairs, workers in ((3, None), (1000, None), (1000, 5)):
        list(preparing.chunks(reader, [("a", "b")] * pairs, 8, workers))
    assert seen == [0, preparing.MOST_WORKERS, 5]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    yield
    ray.shutdown()


@pytest.mark.xdist_group("ray")
def test_two_workers_of_a_ray_cluster_give_the_same_bytes(tmp_path, items, catalogue, load, cluster, monkeypatch):
    monkeypatch.setattr(features, "PART", 8)
    for modality, files in (("image", ImageFiles(catalogue)), ("text", None)):
        engine = RayEngine(load, modality, files, batch_size=8, device="cpu", partitions=2)
        here, there = tmp_path / f"here.{modality}", tmp_path / f"there.{modality}"
        expected = encode(here, items, local(load, modality, catalogue), modality)
        found = encode(there, items, engine, modality)
        assert there.read_bytes() == here.read_bytes()
        assert found.counts == expected.counts
        # What the cluster encoded, the machine alone takes over, and the other way round.
        assert encode(there, items, local(load, modality, catalogue), modality).counts["encoded"] == 0
        assert encode(here, items, engine, modality).counts["encoded"] == 0
        del engine  # its partitions hold the cluster's CPUs


@pytest.mark.xdist_group("ray")
def test_a_node_that_does_not_see_the_files_is_an_error_not_missing_pictures(tmp_path, items, load, cluster):
    nowhere = ImageFiles(tmp_path / "not_shared")
    with pytest.raises(FeatureError, match=r"sees no such folder in .*not_shared; give all nodes"):
        RayEngine(load, "image", nowhere, batch_size=8, device="cpu", partitions=2)


@pytest.mark.xdist_group("ray")
def test_no_gpu_in_the_cluster(load, cluster):
    with pytest.raises(ConfigError, match="the Ray cluster has no GPU"):
        RayEngine(load, "text", batch_size=8, device="cuda", partitions=2)


def test_an_item_is_always_in_the_same_partition():
    places = [ray_engine.partition_of(f"{item:010d}", 4) for item in range(4000)]
    assert min(np.bincount(places)) > 900
    assert places[:6] == [ray_engine.partition_of(f"{item:010d}", 4) for item in range(6)]
