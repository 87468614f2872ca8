"""Content on the sphere: measures against naive loops and their laws, densities, the picture, and the stage."""

import math
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from befa import tables
from befa.building import build
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.errors import ConfigError, DataError, TrainingError
from befa.models.base import evaluating
from befa.report.distribution import (
    Distribution,
    DistributionConfig,
    Measures,
    alignment,
    alignment_in_baskets,
    angle_density,
    distributions,
    draw,
    gate,
    on_circle,
    uniformity,
    unit,
)
from pipelines.stages import distribution as stage
from pipelines.stages import train
from tests.small_project import small_project
from tests.test_training import N_ITEMS, small_cell, small_problem

SMALL = DistributionConfig(items=12, perplexity=3.0, seed=1)
TURN = 2 * math.pi


def sphere(n, d=3, seed=1):
    x_nd = np.random.default_rng(seed).normal(size=(n, d))
    return x_nd / np.linalg.norm(x_nd, axis=1, keepdims=True)


def distance(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def at(angles):
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_uniformity_is_its_definition():
    x_nd = sphere(9)
    terms = [math.exp(-2 * distance(x, y)) for x, y in combinations(x_nd, 2)]
    assert uniformity(x_nd) == pytest.approx(math.log(sum(terms) / 36))
    assert uniformity(np.repeat(x_nd[:1], 5, 0)) == 0
    assert uniformity(np.stack([x_nd[0], -x_nd[0]])) == pytest.approx(-8)
    # even over a high-dimensional sphere, every pair is at a right angle
    assert uniformity(sphere(300, 2000)) == pytest.approx(-4, abs=0.02)


def test_alignment_is_its_definition():
    x_nd, y_nd = sphere(9), sphere(9, seed=2)
    assert alignment(x_nd, y_nd) == pytest.approx(sum(map(distance, x_nd, y_nd)) / 9)
    assert alignment(x_nd, x_nd) == 0
    assert alignment(x_nd, -x_nd) == pytest.approx(4)


def test_alignment_in_baskets_is_a_loop_over_users_and_their_pairs():
    rng = np.random.default_rng(3)
    x_Id, present_I = sphere(12), rng.random(12) < 0.7
    x_Id[~present_I] = 0
    pairs = [(u, i) for u in range(20) for i in range(12) if rng.random() < 0.25]
    users_E, items_E = np.array(pairs).T
    of_users = []
    for user in range(20):
        basket = [x_Id[i] for u, i in pairs if u == user and present_I[i]]
        if len(basket) > 1:
            distances = [distance(x, y) for x, y in combinations(basket, 2)]
            of_users.append(sum(distances) / len(distances))
    assert 1 < len(of_users) < 20  # some have too few
    found = alignment_in_baskets(x_Id, present_I, users_E, items_E, 20)
    assert found == (pytest.approx(sum(of_users) / len(of_users)), len(of_users))


def test_without_a_basket_of_two_there_is_no_alignment_in_baskets():
    everyone, both = np.arange(4), np.array([True, True, False, True])
    assert alignment_in_baskets(sphere(4), both, everyone, everyone, 4) == (None, 0)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_turning_the_sphere_changes_no_measure(seed):
    x_nd, y_nd = sphere(10, 4, seed), sphere(10, 4, seed + 1)
    turn_dd, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    everywhere, users, items = np.ones(10, bool), np.repeat(np.arange(5), 2), np.arange(10)
    assert uniformity(x_nd @ turn_dd) == pytest.approx(uniformity(x_nd))
    assert alignment(x_nd @ turn_dd, y_nd @ turn_dd) == pytest.approx(alignment(x_nd, y_nd))
    found, turned = (alignment_in_baskets(x, everywhere, users, items, 5)[0] for x in (x_nd, x_nd @ turn_dd))
    assert turned == pytest.approx(found)
    order = np.random.default_rng(seed).permutation(10)
    assert uniformity(x_nd[order]) == pytest.approx(uniformity(x_nd))


def test_a_gate_is_found_in_what_it_made_of_the_ids():
    rng = np.random.default_rng(8)
    ids_nd, gate_nd = rng.normal(size=(50, 6)).astype(np.float32), rng.random((50, 6)).astype(np.float32)
    ids_nd[3, 2] = 0
    found = gate(gate_nd * ids_nd, ids_nd)
    gate_nd[3, 2] = np.nan
    assert found.mean == pytest.approx(np.nanmean(gate_nd), abs=1e-3)
    assert found.over_items == pytest.approx(np.mean([np.nanstd(column) for column in gate_nd.T]), rel=1e-5)
    assert found.over_channels == pytest.approx(np.std([np.nanmean(column) for column in gate_nd.T]), rel=1e-5)
    assert gate(ids_nd + 0.1, ids_nd) is None


@pytest.mark.parametrize(("adapter", "tells_apart"), [("constant_gate", False), ("befa", True), ("none", None)])
def test_only_a_gate_that_sees_content_tells_items_apart(adapter, tells_apart):
    problem, _ = small_problem()
    recommender = build(problem, small_cell("bm3", adapter), 1)
    found = distributions(recommender, problem, SMALL)["image"].measures.gate
    assert (found is None) if tells_apart is None else (found.over_items > 1e-3) == tells_apart


def test_rows_are_brought_to_length_one_and_absent_ones_to_nothing():
    x_Id = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], np.float32)
    found = unit(x_Id, np.array([True, False, True]), "it")
    assert found.tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [0, -1]]
    with pytest.raises(DataError, match="2 rows of it are 0 or not finite; train the cell again"):
        unit(np.array([[1.0, np.nan], [0.0, 0.0], [1.0, 1.0]]), np.ones(3, bool), "it")


def test_clumps_are_clumps_on_the_circle_too():
    rng = np.random.default_rng(4)
    clump_n = np.repeat([0, 1], 30)
    x_nd = unit(5 * np.eye(8)[clump_n] + rng.normal(size=(60, 8)) / 5, np.ones(60, bool), "it")
    circle_n2 = on_circle(x_nd, DistributionConfig(items=60, perplexity=10.0))
    assert np.linalg.norm(circle_n2, axis=1) == pytest.approx(np.ones(60))
    one, other = (circle_n2[clump_n == clump].mean(0) for clump in (0, 1))
    assert np.linalg.norm(one) > 0.7  # mean of a clump: near the circle, not its middle
    assert one @ other < -0.5  # and the other one is opposite


def test_the_circle_is_the_same_bits_again_and_touches_no_global_generator():
    x_nd, before = sphere(60, 64), np.random.get_state()[1].copy()
    assert np.array_equal(on_circle(x_nd, SMALL), on_circle(x_nd, SMALL))
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_density_of_angles_is_one_round_the_circle():
    points = at(np.random.default_rng(5).vonmises(math.pi, 2, 200))  # around the seam
    at_k = np.linspace(-math.pi, math.pi, 721)
    density_k = angle_density(points, at_k)
    assert np.trapezoid(density_k, at_k) == pytest.approx(1, abs=1e-4)
    assert density_k[0] == pytest.approx(density_k[-1], rel=1e-6)
    even = angle_density(at(np.linspace(0, TURN, 500, endpoint=False)), at_k)
    assert even == pytest.approx(np.full(721, 1 / TURN), rel=1e-3)


@settings(max_examples=20)
@given(st.integers(-180, 180))
def test_turning_the_points_turns_the_density(degrees):
    angles, step = np.random.default_rng(6).vonmises(0.5, 3, 50), TURN / 360
    at_k = np.arange(-180, 180) * step
    found, turned = (angle_density(at(angles + turn * step), at_k) for turn in (0, degrees))
    assert turned == pytest.approx(np.roll(found, degrees), rel=1e-3, abs=1e-4)


def test_the_density_is_as_wide_as_it_says():
    """Of a single place it is the kernel itself: a normal one of BANDWIDTH, 0.2 radians."""
    points = at(np.random.default_rng(7).normal(0, 1e-6, 50))
    found = angle_density(points, np.array([0.0, 0.2, 0.4]))
    wanted = [math.exp(-z * z / 2) / (0.2 * math.sqrt(TURN)) for z in (0, 1, 2)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("model", ["bm3", "lattice"])
def test_content_is_what_the_model_makes_of_items_that_are_there(model):
    problem, _ = small_problem()
    absent = torch.arange(N_ITEMS) == 5
    problem.contents["image"].present_I[absent] = False
    problem.contents["image"].values_Ic[absent] = 0
    recommender = build(problem, small_cell(model), 1).train()
    found = distributions(recommender, problem, SMALL)["image"].measures
    assert recommender.training
    rows = (~absent).nonzero().squeeze(1)
    with evaluating(recommender) as unused:
        content_nd, present = recommender.towers["image"](rows, recommender.items, rng=unused)
    assert present.all()
    x_nd = unit(content_nd.numpy(), present.numpy(), "it")
    ids_nd = unit(recommender.items.detach().numpy()[rows], present.numpy(), "it")
    assert found.items == 12
    assert found.alignment_to_id == pytest.approx(alignment(x_nd, ids_nd))
    everyone = distributions(recommender, problem, DistributionConfig(items=50, perplexity=3.0))["image"].measures
    assert everyone.items == N_ITEMS - 1
    assert everyone.uniformity == pytest.approx(uniformity(x_nd))
    assert everyone.uniformity_of_ids == pytest.approx(uniformity(ids_nd))
    assert everyone.alignment_in_baskets == found.alignment_in_baskets  # not of the sample


def test_what_has_no_content_or_too_few_items_says_so():
    problem, _ = small_problem()
    with pytest.raises(ConfigError, match="makes no content; choose one with content"):
        distributions(build(problem, small_cell("bpr", "none"), 1), problem, SMALL)
    problem.contents["image"].present_I[7:] = False
    with pytest.raises(DataError, match="7 items have image, 8 are needed"):
        distributions(build(problem, small_cell(), 1), problem, SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a cell of BM3 without adapter and one with BeFA."""
    root = tmp_path_factory.mktemp("project")
    for adapter in ("none", "befa"):
        layout = small_project(root, adapter=adapter)
        train.run("small", "made", "bm3", adapter, layout)
    with layout.params.open("a") as file:
        file.write("\ndistribution: {items: 12, perplexity: 3.0, seed: 1}\n")
    return layout


def test_the_stage_writes_measures_and_picture_with_the_same_bytes_again(made):
    into = made.distribution("small", "made", "bm3", "befa")
    contents = []
    for _ in range(2):
        stage.run("small", "made", "bm3", "befa", made)
        contents.append([path.read_bytes() for path in (into, into.with_suffix(".png"))])
    assert contents[0] == contents[1]
    found = tables.read_json(into)
    assert into == made.root / "data/reports/small/made/distribution/bm3-befa.json"
    assert found["seeds"] == {"none": 1, "befa": 1}
    assert list(found["modalities"]) == ["audio"]
    of = found["modalities"]["audio"]
    assert list(of) == ["none", "befa"]
    for adapter, measures in of.items():
        folder = made.run("small", "made", "bm3", adapter)
        recommender, problem = load_trained(made, folder, Cell.read(folder / "config.json"), 1)
        wanted = distributions(recommender, problem, SMALL)["audio"].measures
        assert measures == asdict(wanted)
    assert of["none"]["uniformity"] != of["befa"]["uniformity"]
    # BeFA's content is the id times a gate in (0, 1), the projection's is anything
    assert of["befa"]["alignment_to_id"] < of["none"]["alignment_to_id"]
    assert of["none"]["gate"] is None
    assert 0 < of["befa"]["gate"]["mean"] < 1


def test_a_cell_without_adapter_stands_alone(made):
    stage.run("small", "made", "bm3", "none", made)
    found = tables.read_json(made.distribution("small", "made", "bm3", "none"))
    assert list(found["modalities"]["audio"]) == ["none"]


def test_an_untrained_cell_leaves_nothing_behind(made):
    folder = made.run("small", "made", "bm3", "lora")
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((made.run("small", "made", "bm3", "none") / "config.json").read_bytes())
    with pytest.raises(TrainingError, match="no such checkpoint"):
        stage.run("small", "made", "bm3", "lora", made)
    into = made.distribution("small", "made", "bm3", "lora")
    assert not into.exists()
    assert not into.with_suffix(".png").exists()


def test_the_picture_has_a_column_for_each_modality_and_adapter(tmp_path):
    def one(angles):
        return Distribution(at(angles), Measures(len(angles), -1.0, -1.0, 1.0, None, 0, None))

    rng = np.random.default_rng(8)
    even, clump = rng.uniform(0, TURN, 100), rng.normal(0, 0.2, 100)
    found = {"none": {m: one(clump) for m in ("image", "text")}, "befa": {m: one(even) for m in ("image", "text")}}
    draw(tmp_path / "four.png", found)
    draw(tmp_path / "two.png", {"none": found["none"]})
    with Image.open(tmp_path / "four.png") as four, Image.open(tmp_path / "two.png") as two:
        assert "Software" not in four.info
        assert four.width == 2 * two.width
        assert four.height == two.height
        pixels = np.asarray(four.convert("L"), dtype=int)
    # the clump's column is darker at its darkest than the even one: one scale of density for all
    columns = [pixels[190:470, start + 100 : start + 470] for start in (0, four.width // 4)]  # inside the frames
    darkest = [column.min() for column in columns]
    assert darkest[0] + 60 < darkest[1]
