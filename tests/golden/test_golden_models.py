"""The models compute what the field's reference code computes; provenance and tolerances in README.md beside this."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from befa.adapters.none import Identity
from befa.models import MODELS
from befa.problem import Batch, Content, Problem
from befa.rng import stream

HERE = Path(__file__).parent
RNG = stream(0, "unused")

TABLES = {
    "user_embedding.weight": "users",
    "item_id_embedding.weight": "items",
    "image_embedding.weight": "towers.image.table",
    "image_trs.weight": "towers.image.project.weight",
    "image_trs.bias": "towers.image.project.bias",
    "text_embedding.weight": "towers.text.table",
    "text_trs.weight": "towers.text.project.weight",
    "text_trs.bias": "towers.text.project.bias",
}
NAMES = {
    "bm3": TABLES | {"predictor.weight": "predict.weight", "predictor.bias": "predict.bias"},
    "freedom": TABLES,
    "lattice": TABLES | {"modal_weight": "logits"},
    "mgcn": TABLES
    | {
        "query_common.0.weight": "attend.weight",
        "query_common.0.bias": "attend.bias",
        "query_common.2.weight": "attention.weight",
        "gate_v.0.weight": "purify.image.weight",
        "gate_v.0.bias": "purify.image.bias",
        "gate_t.0.weight": "purify.text.weight",
        "gate_t.0.bias": "purify.text.bias",
        "gate_image_prefer.0.weight": "prefer.image.weight",
        "gate_image_prefer.0.bias": "prefer.image.bias",
        "gate_text_prefer.0.weight": "prefer.text.weight",
        "gate_text_prefer.0.bias": "prefer.text.bias",
    },
}
"""The reference's parameter names and ours."""

SETTINGS = {
    "bm3": {"n_layers": "layers", "dropout": "dropout", "reg_weight": "reg_weight", "cl_weight": "content_weight"},
    "freedom": {
        "n_ui_layers": "layers",
        "n_mm_layers": "item_layers",
        "mm_image_weight": "image_weight",
        "dropout": "edge_dropout",
        "reg_weight": "reg_weight",
    },
    "lattice": {"n_layers": "item_layers", "lambda_coeff": "frozen_share", "reg_weight": "reg_weight"},
    "mgcn": {
        "n_ui_layers": "layers",
        "n_layers": "item_layers",
        "reg_weight": "reg_weight",
        "cl_loss": "contrast_weight",
    },
}
"""The reference's hyper-parameters and ours; those it reads but does not use are left out."""


def tensor(array):
    return torch.from_numpy(np.array(array))


@pytest.fixture(params=MODELS)
def case(request):
    given, golden = np.load(HERE / "problem.npz"), np.load(HERE / f"{request.param}.npz")
    users, items = tensor(given["pairs"]).T
    order = (users * int(given["n_items"]) + items).argsort()
    present = torch.ones(int(given["n_items"]), dtype=torch.bool)
    contents = {"image": Content(tensor(given["visual"]), present), "text": Content(tensor(given["textual"]), present)}
    problem = Problem(int(given["n_users"]), int(given["n_items"]), users[order], items[order], contents)
    batch = Batch(*(tensor(given[name]) for name in ("users", "positives", "negatives")), starts_epoch=True)

    kind, width = MODELS[request.param], int(given["embedding_dim"])
    reference = json.loads(str(golden["config"]))
    settings = {ours: reference[theirs] for theirs, ours in SETTINGS[request.param].items()}
    settings |= {} if request.param == "bm3" else {"knn_k": int(given["knn_k"])}
    adapters = {name: Identity(Identity.Config(), width, rng=RNG) for name in contents}
    model = kind(problem, adapters, kind.Config(width=width, **settings), rng=RNG)
    names = NAMES[request.param]
    model.load_state_dict({ours: tensor(golden[f"param/{theirs}"]) for theirs, ours in names.items()})
    return model, batch, golden, names


def test_loss_and_gradients(case):
    model, batch, golden, names = case
    loss = model.loss(batch, rng=RNG)
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(names.values()) == set(gradients)
    for theirs, ours in names.items():
        expected = tensor(golden[f"grad/{theirs}"])
        # 1e-8: FREEDOM's projection biases cancel out of its BPR, so both sides are rounding errors there.
        atol = 1e-5 * expected.abs().max().item() + 1e-8
        torch.testing.assert_close(gradients[ours], expected, rtol=1e-4, atol=atol, msg=lambda m, n=ours: f"{n}: {m}")


def test_scores(case):
    model, _, golden, _ = case
    users_Ud, items_Id = model.user_item_vectors()
    torch.testing.assert_close(users_Ud @ items_Id.T, tensor(golden["scores"]), rtol=1e-4, atol=1e-6)
