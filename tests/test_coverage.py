"""The coverage report: counts, and a geometry whose values are known."""

import numpy as np
import pyarrow as pa
import pytest

from befa import coverage, feature_store


def store(path, values, ids=None, items=None):
    ids = ids or [f"{n:04d}" for n in range(len(values))]
    items = pa.chunked_array([items or ids])
    feature_store.write_given(path, items, ids, values.astype(np.float32), dataset="shop", modality="audio")
    return path


def test_counts_say_who_has_a_vector_and_why_others_have_none(tmp_path):
    values = np.random.default_rng(1).normal(size=(20, 4))
    values[3], values[5], values[7] = 0, np.nan, values[8]
    ids = [f"{n:04d}" for n in range(20)]
    found = coverage.report(store(tmp_path / "s.parquet", values, ids, [*ids, "9998", "9999"]))
    assert (found["items"], found["ok"], found["missing"], found["corrupt"]) == (22, 18, 2, 2)
    assert found["duplicates"] == 1
    assert found["reasons"] == {"no vector": 2, "not finite, or zero": 2}


def test_the_mean_cosine_is_that_of_a_loop():
    x = np.random.default_rng(2).normal(size=(30, 5)) + 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(30) for j in range(30) if i != j]
    assert coverage.geometry(x)["mean_cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_one_direction_is_told_from_all_and_a_hub_from_none():
    rng = np.random.default_rng(3)
    all_directions = coverage.geometry(rng.normal(size=(400, 8)))
    assert abs(all_directions["mean_cosine"]) < 0.02
    narrow = coverage.geometry(rng.normal(size=(400, 8)) + 10)
    assert narrow["mean_cosine"] > 0.95
    # Points around a circle's rim have each other as neighbours, and nobody is a hub ...
    angles = np.linspace(0, 2 * np.pi, 401)[:400]
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    even = coverage.geometry(ring)
    assert abs(even["hubness"]) < 0.5
    assert even["never_a_neighbour"] == 0
    # ... but in many dimensions the few near the mean direction are everybody's neighbour.
    hubs = coverage.geometry(np.concatenate([rng.normal(size=(390, 200)) + 0.3, np.full((10, 200), 0.3)]))
    assert hubs["hubness"] > 3
    assert hubs["largest_hub"] > 0.9
    assert hubs["never_a_neighbour"] > 0.2


def test_a_handful_of_items_has_no_geometry():
    assert set(coverage.geometry(np.eye(5)).values()) == {None}


def test_overlap_is_one_for_a_rotation_and_near_chance_for_noise(tmp_path):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    first = store(tmp_path / "a.parquet", x)
    turned = coverage.overlap(first, store(tmp_path / "b.parquet", 3 * x @ rotation))
    assert turned["items"] == 300
    assert turned["neighbour_overlap"] > 0.99
    noise = coverage.overlap(first, store(tmp_path / "c.parquet", rng.normal(size=(300, 9))))
    assert noise["neighbour_overlap"] == pytest.approx(10 / 299, abs=0.02)
    few = store(tmp_path / "d.parquet", x[:5], [f"{n:04d}" for n in range(5)])
    assert coverage.overlap(first, few) == {"items": 5, "neighbour_overlap": None}


def test_duplicates_have_each_other_as_neighbours_whatever_their_number():
    """A shop's placeholder picture: the lowest rows of the many equal ones are everybody's neighbours."""
    x = np.random.default_rng(5).normal(size=(3000, 8))
    x[1000:] = x[0]
    found = coverage.geometry(x)
    assert found["largest_hub"] == pytest.approx(2000 / 3000, abs=0.02)
    assert found == coverage.geometry(x.astype(np.float32).astype(np.float64) * 3)
