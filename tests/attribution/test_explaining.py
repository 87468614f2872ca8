"""A trained cell's heatmaps: the tower is asked once for all cells and scores, on whatever device it lies."""

from dataclasses import replace

import pytest
import torch
from other_device import OTHER, OtherDevice
from test_training import small_cell, small_problem

from befa.attribution.becam import SCORE_CAM, BeCAMConfig, becam, grad_cam, masked
from befa.attribution.explaining import Explained, heatmaps
from befa.attribution.heatmap import METHODS
from befa.building import build
from befa.encoders import clip_model
from befa.encoders.open_clip import OpenClipEncoder
from befa.problem import Content, Problem

CHANNELS, DIMENSION = 32, 6  # the tower's, and the content's of small_problem


def encoder(device="cpu", **of):
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    image = {"image_size": 32, "layers": 3, "width": CHANNELS, "head_width": 16, "patch_size": 8}
    description = {"embed_dim": DIMENSION, "vision_cfg": image, "text_cfg": text}
    model = clip_model.build(description)
    return OpenClipEncoder(model, description, clip_model.preprocess_config({}, model), device=device, **of)


def explained(network, problem):
    return {
        adapter: Explained.of(build(problem, small_cell("bm3", adapter), 1), network, "table")
        for adapter in ("none", "befa")
    }


@pytest.fixture
def pixels():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [BeCAMConfig(), BeCAMConfig(masks="raw", batch_size=7)])
def test_heatmaps_are_each_cells_own_of_masked_pictures_that_are_seen_once(pixels, config):
    network, seen = encoder(), []
    model, cells = network.model, explained(network, small_problem()[0])
    handle = model.visual.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    found = heatmaps(cells, pixels, 3, config)
    handle.remove()
    assert {name: tuple(of) for name, of in found.items()} == dict.fromkeys(("none", "befa"), tuple(METHODS))
    kinds = 1 if config.masks == "unit" else 2
    # Besides the masked pictures: the whole one for its maps, the empty one, and each cell's Grad-CAM.
    assert sum(seen) == kinds * (CHANNELS + 2) + len(cells)
    for name, one in cells.items():
        wanted = {
            "becam": becam(masked(model, pixels, config.masks, config.batch_size), one.score(3), config),
            "becam_baseline": becam(
                masked(model, pixels, config.masks, config.batch_size), one.score(3), config, baseline=True
            ),
            "score_cam": becam(masked(model, pixels, "unit", 64), one.score(3), SCORE_CAM),
            "grad_cam": grad_cam(model, pixels, one.score(3)),
        }
        for method, heatmap in wanted.items():
            torch.testing.assert_close(found[name][method].heat_hw, heatmap.heat_hw)
    assert not torch.allclose(found["none"]["grad_cam"].heat_hw, found["befa"]["grad_cam"].heat_hw)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # it does copy: numbers are held
@pytest.mark.parametrize("normalise", [True, False])
def test_another_device_gives_the_cpus_heatmaps(pixels, normalise):
    problem, _ = small_problem()
    cells = explained(encoder(normalise=normalise), problem)
    encoded = problem.contents["image"].values_Ic
    expected, angles = heatmaps(cells, pixels, 3, BeCAMConfig()), [one.angles(encoded) for one in cells.values()]
    with OtherDevice():
        contents = {name: Content(c.values_Ic.to(OTHER), c.present_I.to(OTHER)) for name, c in problem.contents.items()}
        pairs = problem.users_E.to(OTHER), problem.items_E.to(OTHER)
        there = Problem(problem.n_users, problem.n_items, *pairs, contents)
        cells = explained(encoder(OTHER, normalise=normalise), there)
        found = heatmaps(cells, pixels.to(OTHER), 3, BeCAMConfig())
        for one, wanted in zip(cells.values(), angles, strict=True):
            assert one.angles(encoded.to(OTHER)) == pytest.approx(wanted, rel=1e-5)
    for name in expected:
        for method in METHODS:
            assert found[name][method].heat_hw.device.type == "cpu"
            torch.testing.assert_close(
                found[name][method].heat_hw, expected[name][method].heat_hw, rtol=1e-4, atol=1e-6
            )


@pytest.mark.parametrize("trainable", [True, False])
def test_the_angle_is_the_encoders_and_the_trained_tables_stands_beside_it(trainable):
    problem, _ = small_problem()
    cell = small_cell("bm3", "none")
    model = build(problem, replace(cell, network=replace(cell.network, trainable_features=trainable)), 1)
    one, encoded = Explained.of(model, encoder(), "table"), problem.contents["image"].values_Ic
    tower, found = model.towers["image"], one.angles(encoded)
    if trainable:
        assert found["angle_trained"] == pytest.approx(found["angle"])
        with torch.no_grad():
            tower.table.neg_()  # as if training had turned every row round
        trained, present = one.angles(encoded), tower.present_I
        assert trained["angle"] == found["angle"]
        assert trained["lambda"] == found["lambda"]
        content, ids = tower.project(tower.table)[present], model.items[present]
        cosine = torch.nn.functional.cosine_similarity(content, ids)
        assert trained["angle_trained"] == pytest.approx(cosine.acos().rad2deg().mean().item(), rel=1e-5)
        assert trained["lambda_trained"] == pytest.approx((1 - cosine).mean().item(), rel=1e-5)
        assert abs(trained["angle_trained"] - trained["angle"]) > 1
    else:
        assert found["angle_trained"] is None
        assert found["lambda_trained"] is None
        assert 0 < found["angle"] < 180
