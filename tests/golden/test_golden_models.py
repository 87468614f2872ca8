"""The models compute what the field's reference code computes; provenance and tolerances in README.md beside this."""

import json
from dataclasses import fields
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
    "vbpr": {"u_embedding": "users", "i_embedding": "items"},
    "lightgcn": {"embedding_dict.user_emb": "users", "embedding_dict.item_emb": "items"},
}
"""The reference's parameter names and ours."""

TEXT = np.load(HERE / "problem.npz")["textual"].shape[1]
VBPR_TOWERS = {
    "towers.text.project.weight": lambda golden, kind: golden[f"{kind}/item_linear.weight"][:, :TEXT],
    "towers.image.project.weight": lambda golden, kind: golden[f"{kind}/item_linear.weight"][:, TEXT:],
    "towers.text.project.bias": lambda golden, kind: golden[f"{kind}/item_linear.bias"],
    "towers.image.project.bias": lambda golden, kind: golden[f"{kind}/item_linear.bias"] * (kind == "grad"),
}
"""The reference's one layer over [text ; image] as our two: the bias is given to the text's, both have its gradient."""

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
    "vbpr": {"reg_weight": "reg_weight"},
    "lightgcn": {"n_layers": "layers", "reg_weight": "reg_weight"},
}
"""The reference's hyper-parameters and ours; those it reads but does not use are left out."""


def tensor(array):
    return torch.from_numpy(np.array(array))


def values(name, golden, kind):
    """Our parameters' names and the reference's values ("param") or gradients ("grad")."""
    found = {ours: tensor(golden[f"{kind}/{theirs}"]) for theirs, ours in NAMES[name].items()}
    towers = VBPR_TOWERS if name == "vbpr" else {}
    return found | {ours: tensor(of(golden, kind)) for ours, of in towers.items()}


@pytest.fixture(params=NAMES)
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
    known = {field.name for field in fields(kind.Config)}
    settings |= {"knn_k": int(given["knn_k"])} if "knn_k" in known else {}
    adapters = {name: Identity(Identity.Config(), width, rng=RNG) for name in contents}
    model = kind(problem, adapters, kind.Config(width=width, **settings), rng=RNG)
    model.load_state_dict(values(request.param, golden, "param"))
    return model, batch, golden, values(request.param, golden, "grad")


def test_loss_and_gradients(case):
    model, batch, golden, wanted = case
    loss = model.loss(batch, rng=RNG)
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(wanted) == set(gradients)
    for name, expected in wanted.items():
        # 1e-8: FREEDOM's projection biases cancel out of its BPR, so both sides are rounding errors there.
        atol = 1e-5 * expected.abs().max().item() + 1e-8
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_scores(case):
    model, _, golden, _ = case
    users_Ud, items_Id = model.user_item_vectors()
    torch.testing.assert_close(users_Ud @ items_Id.T, tensor(golden["scores"]), rtol=1e-4, atol=1e-6)


def test_every_model_is_compared_with_the_reference_or_with_naive_loops():
    naive = {path.stem.removeprefix("test_") for path in (HERE.parent / "models").glob("test_*.py")}
    assert set(MODELS) <= set(NAMES) | naive
