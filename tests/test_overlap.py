"""The overlap of neighbours as a stage: every pair of a dataset's stores once, empty ones by name."""

import numpy as np
import pyarrow as pa
import pytest

from befa import feature_store, tables
from befa.errors import ConfigError, DataError
from befa.paths import Layout
from befa.report import overlap
from pipelines.stages import overlap as stage

PARAMS = """
datasets: {shop: {}}
"""


def write_store(path, vectors):
    """Items 000, 001, ...; those of NaN are absent. As an encoder's store, but for the metadata."""
    ids = [f"{row:03d}" for row in range(len(vectors))]
    items, values = pa.chunked_array([ids], pa.string()), np.asarray(vectors, np.float32)
    feature_store.write_given(path, items, ids, values, dataset="shop", modality="audio")


@pytest.fixture
def layout(tmp_path):
    """CLIP's images and texts turned against each other, and an encoder of texts that sees something else."""
    layout, rng = Layout(tmp_path), np.random.default_rng(1)
    layout.params.write_text(PARAMS)
    pictures = rng.normal(size=(40, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    texts = 2 * pictures @ rotation
    texts[3] = np.nan
    write_store(layout.features("shop", "clip", "image"), pictures)
    write_store(layout.features("shop", "clip", "text"), texts)
    write_store(layout.features("shop", "sbert", "image"), np.full((40, 5), np.nan))
    write_store(layout.features("shop", "sbert", "text"), rng.normal(size=(40, 5)))
    return layout


def test_every_pair_of_stores_is_compared_once(layout, capsys):
    stage.run("shop", layout)
    result = tables.read_json(layout.report("shop") / "overlap.json")
    assert result["skipped"] == ["sbert/image"]
    assert list(result["pairs"]) == ["clip/image ~ clip/text", "clip/image ~ sbert/text", "clip/text ~ sbert/text"]
    turned, other, _ = result["pairs"].values()
    assert turned == {"items": 39, "neighbour_overlap": 1.0, "by_chance": round(10 / 38, 6)}
    assert other["items"] == 40
    assert other["neighbour_overlap"] == pytest.approx(other["by_chance"], abs=0.1)
    text = (layout.report("shop") / "overlap.md").read_text()
    assert "| clip/image | clip/text | 39 | 100.0% | 26.3% |" in text
    assert "sbert/image is left out: it has no vector." in text
    assert "100.0%" in capsys.readouterr().out


def test_too_few_common_items_have_no_overlap(layout):
    few = np.full((40, 5), np.nan)
    few[:11] = np.random.default_rng(2).normal(size=(11, 5))
    write_store(layout.features("shop", "sbert", "text"), few)
    stores = {name: layout.features("shop", *name.split("/")) for name in ("clip/image", "sbert/text")}
    result = overlap.table("shop", stores)
    assert result["pairs"] == {"clip/image ~ sbert/text": {"items": 11, "neighbour_overlap": None, "by_chance": None}}
    assert "| clip/image | sbert/text | 11 | - | - |" in overlap.markdown(result)


def test_an_unknown_dataset_and_an_absent_store_are_errors(layout):
    with pytest.raises(ConfigError, match="unknown dataset 'shopp'; did you mean 'shop'"):
        stage.run("shopp", layout)
    layout.features("shop", "clip", "text").unlink()
    with pytest.raises(DataError, match=r"no such file in .*clip/text\.parquet"):
        stage.run("shop", layout)
    assert not layout.report("shop").exists()
