"""Training and evaluation on a GPU: the same bits each time, and the CPU's results but for rounding."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from attribution.test_becam import RESNET, TEXT, VIT
from conformance.test_models import EVERY
from test_other_device import assert_the_same, cell_of, fitted, moved, with_an_absent_item
from test_training import small_problem

from befa.attribution.becam import BeCAMConfig, becam, behaviour, grad_cam, masked
from befa.building import build
from befa.cells import TrainingConfig
from befa.devices import deterministic
from befa.encoders import clip_model
from befa.encoders.base import Loading
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoding import LocalEngine
from befa.images import ImageFiles
from befa.metrics import Interactions
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.ranking import scorer
from befa.resuming import Saved
from befa.sources import demo
from pipelines.stages import evaluate, train
from tests.small_project import NAMES, small_project

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def as_the_stages_compute():
    before = torch.get_num_threads()
    deterministic(1)
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(before)


@EVERY
def test_the_same_bits_each_time_and_the_cpus_results(name, variant):
    problem, valid = small_problem()
    problem, cell = with_an_absent_item(problem), cell_of(name, variant)
    there = moved(problem, GPU)
    first, second = fitted(there, valid, cell), fitted(there, valid, cell)
    assert first.history == second.history
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    assert_the_same(first, fitted(problem, valid, cell))


@EVERY
def test_a_model_that_is_built_again_gives_the_same_scores(name, variant):
    """Its graphs are made anew by every stage that reads a checkpoint."""
    problem, _ = small_problem()
    there, cell = moved(problem, GPU), cell_of(name, variant)
    users = torch.arange(problem.n_users)
    first, second = (scorer(build(there, cell, 1).eval())(users) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["bm3", "lattice"])
def test_a_training_is_taken_up(name, tmp_path):
    problem, valid = small_problem()
    there, cell = moved(problem, GPU), cell_of(name, "befa", epochs=2)
    fitted(there, valid, cell_of(name, "befa", epochs=1), Saved(tmp_path / "state", "this", every=0.0))
    found = fitted(there, valid, cell, Saved(tmp_path / "state", "this", every=0.0))
    expected = fitted(there, valid, cell)
    assert found.history == expected.history
    assert all(torch.equal(value, expected.state[key]) for key, value in found.state.items())


def of_two_modalities(n_users=1500, n_items=2500, pairs=9000):
    """Large enough for whole batches, for rankings in groups of items and for candidates in float32."""
    rng = np.random.default_rng(3)
    pair_E = np.sort(rng.choice(n_users * n_items, pairs, replace=False))
    users_E, items_E = pair_E // n_items, pair_E % n_items
    held = rng.random(pairs) < 0.1
    contents = {}
    for name in ("image", "text"):
        values_Ic = torch.from_numpy(rng.normal(size=(n_items, 24)).astype(np.float32))
        contents[name] = Content(values_Ic, torch.ones(n_items, dtype=torch.bool))
    train = (torch.from_numpy(column[~held]) for column in (users_E, items_E))
    return Problem(n_users, n_items, *train, contents), Interactions.of(users_E[held], items_E[held], n_users)


@pytest.mark.parametrize("name", MODELS)
def test_whole_batches_and_two_modalities(name):
    problem, valid = of_two_modalities()
    cell = replace(cell_of(name, "befa"), training=TrainingConfig(epochs=1, batch_size=2048))
    there = moved(problem, GPU)
    first, second = fitted(there, valid, cell), fitted(there, valid, cell)
    assert first.history == second.history
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    expected = fitted(problem, valid, cell).history[0]
    assert first.history[0]["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    # Near scores may change places.
    assert first.history[0]["recall@50"] == pytest.approx(expected["recall@50"], abs=0.01)


def test_stages_train_evaluate_and_read_a_checkpoint_anywhere(tmp_path):
    written = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        layout = small_project(tmp_path / str(number), seeds=(1, 2))
        train.run(*NAMES, layout, device=GPU)
        evaluate.run(*NAMES, layout, device=GPU)
        folder = layout.run(*NAMES)
        written.append([path.read_bytes() for path in (layout.checkpoint(folder, 2), layout.metrics(folder))])
    assert written[0] == written[1]
    there = json.loads(written[0][1])["test"]
    evaluate.run(*NAMES, layout, device="cpu")  # of a model that the GPU trained
    assert json.loads(layout.metrics(folder).read_bytes())["test"] == pytest.approx(there, abs=1e-9)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_vectors_are_the_cpus_but_for_rounding(modality, clip_folder, clip_config, catalogue):
    items = pa.Table.from_batches(demo.items(catalogue, None)).select(["item", modality])

    def encoded(device, workers):
        encoder = Loading(OpenClipEncoder, clip_folder, clip_config)(device)
        engine = LocalEngine(encoder, modality, ImageFiles(catalogue), batch_size=8, workers=workers)
        pieces = [piece for piece in engine.run(items, frozenset()) if piece.vectors is not None]
        return {digest: row for piece in pieces for digest, row in zip(piece.digests, piece.vectors, strict=True)}

    cpu, once, again = encoded("cpu", 0), encoded(GPU, 0), encoded(GPU, 2)  # readers start after the GPU is in use
    assert cpu.keys() == once.keys() == again.keys()
    for digest, vector in cpu.items():
        assert np.array_equal(once[digest], again[digest])
        np.testing.assert_allclose(once[digest], vector, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("vision", [VIT, RESNET])
def test_heatmaps_are_the_cpus_but_for_rounding(vision):
    size = vision["image_size"]
    pixels, ids = (torch.randn(n, generator=torch.Generator().manual_seed(1)) for n in ((3, size, size), (16,)))
    cpu = clip_model.build({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).eval().requires_grad_(False)

    def heat(device):
        model = deepcopy(cpu).to(device)
        seen, score = pixels.to(device), behaviour(lambda vectors: vectors, ids.to(device))
        config = BeCAMConfig()
        passes = masked(model, seen, config.masks, config.batch_size)
        return [one.heat_hw.cpu() for one in (becam(passes, score, config), grad_cam(model, seen, score))]

    for there, again, here in zip(heat(GPU), heat(GPU), heat("cpu"), strict=True):
        assert torch.equal(there, again)
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3 * float(here.abs().max()))
