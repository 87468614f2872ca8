"""Drift and omission on heatmaps whose answer is known."""

import pytest
import torch

from befa.attribution.measures import agreement, mean
from befa.errors import DataError


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
    nothing = agreement(torch.zeros(2, 2), mask)
    assert (nothing.pointing, nothing.energy, nothing.coverage) == (0, 0.25, 0.25)


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


def test_means_over_items(mask):
    found = mean([agreement(mask.float(), mask), agreement((~mask).float(), mask)])
    assert found["items"] == 2
    assert found["pointing"] == found["energy"] == found["drift"] == found["omission"] == 0.5
