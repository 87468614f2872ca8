"""On random problems, of all sizes and settings, every model computes what its formulas say as dense matrices."""

import random
from pathlib import Path

import pytest
import torch

from befa.adapters import ADAPTERS
from befa.models import MODELS
from befa.problem import Batch, Content, Problem
from befa.rng import stream
from tests.models import dense

SEEDS = range(24)
RNG = stream(0, "unused")
ADAPTATIONS = {
    "none": ("none", {}),
    "released": ("befa", {"dropout": 0.0}),
    "paper": ("befa", {"dropout": 0.0, "variant": "paper"}),
    "lora": ("lora", {"rank": 3, "alpha": 5.0}),
    "soft_prompt": ("soft_prompt", {}),
}
"""Those of one's own have tests of their own (tests/adapters)."""


def problem_of(choose, rng):
    """From one user and item on, some without interactions; up to three modalities, some with equal or absent rows."""
    n_users, n_items = choose.choice([1, 2, 15, 40]), choose.choice([1, 2, 15, 40])
    met = torch.rand(n_users, n_items, generator=rng) < choose.choice([0.05, 0.2, 0.7])
    met[choose.randrange(n_users)], met[:, choose.randrange(n_items)] = False, False
    contents = {}
    for modality in choose.choice(
        [("image", "text")] * 4 + [("text",), ("image", "text", "audio"), ("audio", "text"), ()]
    ):
        x = torch.randn(n_items, choose.choice([1, 3, 20]), generator=rng) + choose.choice([0.0, 1.0])
        if choose.random() < 0.3:
            x = x[torch.randint(0, max(1, n_items // 12), (n_items,), generator=rng)]
        present = torch.rand(n_items, generator=rng) < choose.choice([0.5, 0.9, 1.1, 1.1])
        contents[modality] = Content(torch.where(present[:, None], x, 0), present)
    return Problem(n_users, n_items, *met.nonzero().T, contents)


def batch_of(problem, choose, rng, *, starts_epoch):
    """Any users and items, some several times."""
    size = choose.choice([1, 2, 30])
    users, positives, negatives = (
        torch.randint(0, n, (size,), generator=rng) for n in (problem.n_users, problem.n_items, problem.n_items)
    )
    return Batch(users, positives, negatives, starts_epoch=starts_epoch)


def settings(kind, choose):
    """Values for those of a model's settings that there are."""
    weights = {name: choose.choice([0.0, 0.01, 3.0]) for name in ("reg_weight", "content_weight", "contrast_weight")}
    drawn = weights | {
        "width": choose.choice([1, 4, 16]),
        "layers": choose.randint(0, 3),
        "item_layers": choose.randint(0, 2),
        "knn_k": choose.choice([1, 3, 10, 100]),
        "trainable_features": choose.random() < 0.6,
        "frozen_share": choose.choice([0.0, 0.5, 0.9, 1.0]),
        "image_weight": choose.choice([0.0, 0.1, 1.0]),
        "temperature": choose.choice([0.05, 0.2, 1.0]),
    }
    fixed = {"dropout": 0.0, "edge_dropout": 0.0}
    known = kind.Config.__dataclass_fields__
    return kind.Config(**{name: value for name, value in (drawn | fixed).items() if name in known})


def drawn_case(name, seed):
    """A model on a problem, with parameters away from their start."""
    choose, rng = random.Random(f"{name} {seed}"), stream(seed, name)
    problem = problem_of(choose, rng)
    config = settings(MODELS[name], choose)
    adapter, adaptation = ADAPTATIONS[
        choose.choice(list(ADAPTATIONS)) if hasattr(config, "trainable_features") else "none"
    ]
    make = ADAPTERS[adapter]
    if adapter == "befa":
        adaptation = adaptation | {"width": choose.choice([0.5, 1.0, 4.0])}
    adaptation = make.Config(**adaptation)
    adapters = {m: make(adaptation, config.width, rng=RNG) for m in problem.contents}
    model = MODELS[name](problem, adapters, config, rng=RNG).double()  # its graphs are made in float32
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not key.endswith(".table"):
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * parameter.shape[-1] ** -0.5)
    return problem, model, config, adaptation, choose, rng


def close(found, wanted, scale, what):
    """To what float32's rounding of the graphs' weights can do."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * scale + 1e-12, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", dense.MODELS)
def test_loss_gradients_and_scores(name, seed):
    problem, model, config, adaptation, choose, rng = drawn_case(name, seed)
    graph = None
    for starts_epoch in (True, False, True):
        leaves = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
        given = dense.Given(leaves, config, adaptation, problem)
        batch, of_graph = batch_of(problem, choose, rng, starts_epoch=starts_epoch), {}
        if name == "lattice":
            # Made in an epoch's first batch, with gradient; without it from then on; anew for an evaluation.
            graph = dense.lattice_graph(given) if starts_epoch else graph.detach()
            of_graph = {"graph": graph}
        wanted, *_ = dense.MODELS[name](given, batch, **of_graph)
        wanted.backward()
        model.zero_grad()
        loss = model.loss(batch, rng=RNG)
        loss.backward()
        close(loss, wanted, 1, "loss")
        gradients = {key: torch.zeros_like(x) if x.grad is None else x.grad for key, x in leaves.items()}
        largest = max(gradient.abs().max().item() for gradient in gradients.values() if gradient.numel())
        for key, parameter in model.named_parameters():
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            close(found, gradients[key], largest, f"gradient of {key}")
        with torch.no_grad():
            of_graph = {"graph": dense.lattice_graph(given)} if name == "lattice" else {}
            _, users, items = dense.MODELS[name](given, batch, **of_graph)
            users_Ud, items_Id = model.user_item_vectors()
            close(users_Ud @ items_Id.T, users @ items.T, 1, "scores")
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))


def test_every_model_has_its_dense_twin_or_loops_of_its_own():
    loops = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(dense.MODELS) <= set(MODELS) <= set(dense.MODELS) | loops
