"""Drift and omission on heatmaps whose answer is known."""

import pytest
import torch

from befa.attribution.heatmap import Heatmap
from befa.attribution.measures import agreement, differences, measured
from befa.errors import DataError
from befa.rng import numpy_stream


@pytest.fixture
def mask():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    return mask


def test_heat_on_the_object_alone_is_neither_drift_nor_omission(mask):
    found = agreement(mask.float(), mask)
    assert (found.pointing, found.energy, found.coverage, found.chance) == (1, 1, 1, 0.25)
    assert (found.drift, found.omission) == (0, 0)


def test_heat_beside_the_object_is_all_drift_and_omission(mask):
    found = agreement((~mask).float(), mask)
    assert (found.pointing, found.energy, found.coverage) == (0, 0, 0)


def test_even_heat_is_chance(mask):
    found = agreement(torch.full((8, 8), 0.3), mask)
    assert found.energy == pytest.approx(0.25)
    assert found.coverage == pytest.approx(0.25)
    assert found.pointing == pytest.approx(0.25)


def test_half_of_the_object_seen(mask):
    heat = torch.zeros(8, 8)
    heat[:4, :2] = 2.0  # the left half of the object
    heat[4:, 4:6] = 1.0  # as much elsewhere
    found = agreement(heat, mask)
    assert found.pointing == 1
    assert found.energy == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(0.5)


def test_a_coarse_map_is_brought_to_the_masks_size(mask):
    found = agreement(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), mask)
    assert found.pointing == 1
    assert 0.5 < found.energy < 1
    assert found.coverage > 0.8


def test_a_mask_without_object_is_an_error(mask):
    for wrong in (torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)):
        with pytest.raises(DataError, match="no object"):
            agreement(torch.ones(2, 2), wrong)


def test_a_heatmap_of_zeros_agrees_with_nothing(mask):
    with pytest.raises(DataError, match="0 everywhere"):
        agreement(torch.zeros(2, 2), mask)


def heatmap(heat, floor=0.5, weights=(1.0, 3.0)):
    return Heatmap(heat, torch.tensor(weights), floor)


def test_means_are_over_heatmaps_with_heat_and_object(mask):
    on, beside, rounding = mask.float(), (~mask).float(), 0.4 * mask.float()
    found = measured(
        [heatmap(on), heatmap(beside, weights=(2.0, 2.0)), heatmap(rounding, weights=(-9.0, 9.0)), heatmap(on)],
        [mask, mask, mask, None],
    )
    assert (found["items"], found["without_heat"], found["measured"]) == (4, 1, 2)
    assert found["pointing"] == found["energy"] == found["coverage"] == 0.5
    assert found["drift"] == found["omission"] == 0.5
    assert found["chance"] == 0.25
    assert found["peak"] == 1
    assert found["weights_spread"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert found["negative_weights"] == 0.5 / 4  # of all, those without heat too


def test_a_mask_without_an_object_or_with_nothing_else_is_no_known_object(mask):
    heat = heatmap(mask.float())
    none, all_ = torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)
    assert measured([heat] * 3, [mask, none, all_]) == measured([heat] * 3, [mask, None, None])


def test_the_mean_of_nothing_is_none(mask):
    nothing = measured([heatmap(0.4 * mask.float()), heatmap(torch.zeros(8, 8))], [mask, mask])
    assert (nothing["items"], nothing["without_heat"], nothing["measured"]) == (2, 2, 0)
    assert nothing["peak"] == pytest.approx(0.2)
    assert {nothing[name] for name in ("pointing", "energy", "coverage", "drift", "omission", "weights_spread")} == {
        None
    }
    unknown = measured([heatmap(mask.float())], [None])
    assert (unknown["without_heat"], unknown["measured"], unknown["energy"]) == (0, 0, None)
    assert unknown["weights_spread"] == 0.5


def compared(before, after, objects):
    return differences(before, after, objects, rng=numpy_stream(1, "bootstrap"))


def test_a_difference_is_over_the_pictures_with_heat_on_both_sides(mask):
    on, beside, cold = (heatmap(heat) for heat in (mask.float(), (~mask).float(), 0.4 * mask.float()))
    # The means before and after are over four pictures and two: 1/4 and 1, which no picture's change explains.
    before, after = [on, beside, beside, beside, cold, on], [on, on, cold, cold, on, beside]
    found = compared(before, after, [mask, mask, mask, mask, mask, None])
    assert found["pictures"] == 2
    for name in ("pointing", "energy", "coverage"):
        assert found[name]["mean"] == pytest.approx(0.5)
        assert (found[name]["low"], found[name]["high"]) == (0, 1)


def test_the_interval_is_narrow_where_pictures_agree_and_the_same_again(mask):
    on, beside = heatmap(mask.float()), heatmap((~mask).float())
    before = [on] * 40 + [beside] * 10
    found = compared(before, [beside] * 50, [mask] * 50)
    assert found["energy"]["mean"] == pytest.approx(-0.8)
    # Normal theory: 1.96 * sqrt(.8 * .2 / 50) = 0.11 each way.
    assert found["energy"]["low"] == pytest.approx(-0.91, abs=0.02)
    assert found["energy"]["high"] == pytest.approx(-0.69, abs=0.02)
    assert found == compared(before, [beside] * 50, [mask] * 50)
    assert compared([on] * 50, [beside] * 50, [mask] * 50)["energy"] == {"mean": -1, "low": -1, "high": -1}


def test_one_picture_has_no_interval_and_none_no_difference(mask):
    on, beside = heatmap(mask.float()), heatmap((~mask).float())
    assert compared([on], [beside], [mask])["pointing"] == {"mean": -1, "low": None, "high": None}
    nothing = compared([on, heatmap(0.4 * mask.float())], [beside, beside], [None, mask])
    assert nothing["pictures"] == 0
    assert nothing["energy"] == {"mean": None, "low": None, "high": None}
