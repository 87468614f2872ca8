"""A sample of pictures, and the numbers and rows that several cells' heatmaps of it give."""

import numpy as np
import torch
from PIL import Image
from test_explaining import encoder, explained
from test_training import small_problem

from befa.attribution import study
from befa.attribution.explaining import AttributionConfig
from befa.attribution.heatmap import METHODS
from befa.attribution.measures import COMPARED

N_ITEMS = 9


def picture_of(item):
    """Items 0, 3 and 6 have none."""
    return Image.new("RGB", (64, 40), (10 * item, 90, 200 - 10 * item)) if item % 3 else None


def mask_of(item):
    """Item 4's object is its left half; others' are not known."""
    mask = np.zeros((40, 64, 3), np.uint8)
    mask[:, :32] = 255
    return Image.fromarray(mask) if item == 4 else None


def sampled(**config):
    return study.sample(N_ITEMS, picture_of, mask_of, encoder(), AttributionConfig(**config))


def test_a_sample_is_of_items_with_pictures_drawn_by_its_seed():
    every = sampled(items=64)
    assert sorted(one.item for one in every) == [1, 2, 4, 5, 7, 8]
    few, again, other = (sampled(items=3, seed=seed) for seed in (1, 1, 2))
    assert [one.item for one in few] == [one.item for one in again] == [one.item for one in every][:3]
    assert [one.item for one in few] != [one.item for one in other]


def test_an_object_is_cut_as_its_picture_is():
    [object_HW] = [one.object_HW for one in sampled(items=64) if one.object_HW is not None]
    assert object_HW.shape == (32, 32)  # the middle of 64 x 40
    assert object_HW[:, :14].all()
    assert not object_HW[:, 18:].any()
    assert all(one.seen.size == (32, 32) and one.pixels_3HW.shape == (3, 32, 32) for one in sampled(items=64))


def test_scores_are_each_cells_and_their_difference_and_rows_every_heatmap():
    few, cells = sampled(items=64)[:4], explained(encoder(), small_problem()[0])
    reports = []
    found = study.heatmaps_of(cells, few, AttributionConfig(), lambda done, total, note="": reports.append(done))
    assert reports == [1, 2, 3, 4]
    behaviour = {"none": {"angle": 1.0}, "befa": {"angle": 2.0}}
    scores = study.scores(found, few, behaviour, 1)
    assert list(scores) == ["items", "with_object", "none", "befa", "difference"]
    assert (scores["items"], scores["with_object"]) == (4, sum(one.object_HW is not None for one in few))
    for name, cell in behaviour.items():
        assert scores[name]["behaviour"] == cell
        assert {method: of["items"] for method, of in scores[name].items() if method in METHODS} == dict.fromkeys(
            METHODS, 4
        )
    for method, of in scores["difference"].items():
        assert of.keys() == {"pictures", *COMPARED}
        changes = [scores[name][method]["energy"] for name in behaviour]
        if of["pictures"] == scores["none"][method]["measured"] == scores["befa"][method]["measured"] > 0:
            np.testing.assert_allclose(of["energy"]["mean"], changes[1] - changes[0], atol=1e-12)
    assert "difference" not in study.scores(found, few, {"none": {}}, 1)
    rows = study.rows(found, few, [f"raw{item}" for item in range(N_ITEMS)])
    assert len(rows) == len(few) * len(cells) * len(METHODS)
    first = next(row for row in rows if (row["adapter"], row["method"]) == ("befa", "grad_cam"))
    assert first["item"] == f"raw{few[0].item}"
    np.testing.assert_array_equal(torch.tensor(first["heat"]), found["befa", "grad_cam"][0].heat_hw.flatten())
