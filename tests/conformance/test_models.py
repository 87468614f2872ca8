"""One suite over models x adapters, on data whose right answer is known.

A checkerboard: users and items in two groups, each user has every item of the own group but one.
"""

import inspect
import pkgutil
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load, save

import befa.models
from befa.adapters import ADAPTERS
from befa.errors import ConfigError
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.ranking import scorer
from befa.rng import stream
from befa.sampling import batches
from befa.sparse import SparseMatrix

WIDTH, HALF = 8, 10
SAME = {"befa_fixed": "befa", "random_features": "befa", "shuffled_features": "befa", "none_fixed": "none"}
"""Controls that are another adapter, bit for bit, on features made elsewhere: one test says so, no other has them."""
VARIANTS = {name: (name, {}) for name in ADAPTERS if name not in SAME} | {
    "befa-paper": ("befa", {"variant": "paper"}),
    "befa-square": ("befa", {"variant": "paper", "width": 1.0}),
}
"""Every other registered adapter with its defaults, and the other networks some of them offer."""
WITHOUT_ADAPTERS = {"bpr", "lightgcn", "item_knn"}
"""Models that take adapters and leave them: one with parameters, and none, are enough to see that they do."""
EVERY = pytest.mark.parametrize(
    ("name", "variant"),
    [(m, v) for m in MODELS for v in VARIANTS if m not in WITHOUT_ADAPTERS or v in ("none", "befa")],
)
EACH_MODEL = pytest.mark.parametrize("name", MODELS)

EPOCHS = {"bm3": 25}
"""Until the held-out item ranks first; 12 of the others."""
NO_CONTENT, NO_TRAINING = "reads no content", "trains nothing"
WAIVED = {
    ("bpr", "test_frozen_features_are_no_part_of_the_state"): NO_CONTENT,
    ("bpr", "test_absent_items_are_survived"): NO_CONTENT,
    ("bpr", "test_an_absent_item_is_nobodys_neighbour"): NO_CONTENT,
    ("bpr", "test_a_modality_without_adapter_is_an_error"): NO_CONTENT,
    ("lightgcn", "test_frozen_features_are_no_part_of_the_state"): NO_CONTENT,
    ("lightgcn", "test_absent_items_are_survived"): NO_CONTENT,
    ("lightgcn", "test_an_absent_item_is_nobodys_neighbour"): NO_CONTENT,
    ("lightgcn", "test_a_modality_without_adapter_is_an_error"): NO_CONTENT,
    ("item_knn", "test_the_seed_decides_every_bit"): NO_TRAINING,
    ("item_knn", "test_gradients_reach_every_parameter"): NO_TRAINING,
    ("item_knn", "test_vectors_are_current_and_without_dropout_or_gradient"): NO_TRAINING,
    ("item_knn", "test_frozen_features_are_no_part_of_the_state"): NO_TRAINING,
    ("item_knn", "test_a_modality_without_adapter_is_an_error"): NO_TRAINING,
}
"""(model, law) that a model does not keep, and why; everything else it keeps."""


@pytest.fixture(autouse=True)
def waiver(request):
    if hasattr(request.node, "callspec"):
        reason = WAIVED.get((request.node.callspec.params.get("name"), request.node.originalname))
        if reason:
            pytest.skip(reason)


def features(width, seed):
    """A direction per group, and noise."""
    rng = stream(seed, "features")
    direction = torch.randn(2, width, generator=rng).repeat_interleave(HALF, 0)
    return direction + 0.3 * torch.randn(2 * HALF, width, generator=rng)


@pytest.fixture
def checkerboard():
    everyone = torch.ones(2 * HALF, dtype=torch.bool)
    contents = {"image": Content(features(6, 1), everyone), "text": Content(features(5, 2), everyone)}
    pairs = [(u, i) for u in range(2 * HALF) for i in range(2 * HALF) if u // HALF == i // HALF and i != held_out(u)]
    users, items = torch.tensor(pairs).T
    return Problem(2 * HALF, 2 * HALF, users, items, contents)


def held_out(user):
    return user // HALF * HALF + (user + 3) % HALF


def adapters_of(problem, variant, seed=0):
    adapter, adaptation = VARIANTS[variant]
    kind = ADAPTERS[adapter]
    return {
        modality: kind(kind.Config(**adaptation), WIDTH, rng=stream(seed, "adapter", modality))
        for modality in problem.contents
    }


def build(name, problem, variant="none", seed=0, **settings):
    small = {"width": WIDTH, "knn_k": 5}
    known = {field.name for field in fields(MODELS[name].Config)}
    settings = {key: value for key, value in small.items() if key in known} | settings
    adapters = adapters_of(problem, variant, seed)
    return MODELS[name](problem, adapters, MODELS[name].Config(**settings), rng=stream(seed, "init"))


def steps(model, problem, epochs, seed=0, batch_size=64):
    """Trains; the losses. None of a model that trains nothing."""
    if not list(model.parameters()):
        return []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    sampling, noise, losses = stream(seed, "sampling"), stream(seed, "noise"), []
    for _ in range(epochs):
        for batch in batches(problem, batch_size, rng=sampling):
            optimizer.zero_grad()
            loss = model.loss(batch, rng=noise)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def without(problem, modality, *items):
    """The problem with some items absent from one modality."""
    content = problem.contents[modality]
    present = content.present_I.clone()
    present[list(items)] = False
    masked = Content(torch.where(present[:, None], content.values_Ic, 0), present)
    return replace(problem, contents={**problem.contents, modality: masked})


def all_scores(model, problem):
    return scorer(model)(torch.arange(problem.n_users))


@EVERY
def test_the_held_out_item_ranks_first(name, variant, checkerboard):
    model = build(name, checkerboard, variant)
    steps(model, checkerboard, epochs=EPOCHS.get(name, 12))
    scores_UI = all_scores(model, checkerboard)
    scores_UI[checkerboard.users_E, checkerboard.items_E] = -torch.inf
    assert scores_UI.argmax(1).tolist() == [held_out(user) for user in range(2 * HALF)]


@pytest.mark.parametrize(("control", "adapter"), SAME.items())
def test_a_control_on_the_feature_side_is_the_adapter_itself(control, adapter):
    (config, *others), made = {kind.Config() for kind in (ADAPTERS[control], ADAPTERS[adapter])}, []
    assert not others
    for kind in (ADAPTERS[control], ADAPTERS[adapter]):
        built = kind(config, WIDTH, rng=stream(0, "adapter"))
        x, ids = torch.randn(2, 5, WIDTH, generator=stream(1, "input")).requires_grad_()
        out = built(x, ids, rng=stream(0, "noise"))
        grads = torch.autograd.grad(out.square().sum(), [x, *built.parameters()])
        made.append([*built.state_dict().values(), out, *grads])
    assert len(made[0]) == len(made[1])
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))


@EVERY
def test_the_seed_decides_every_bit(name, variant, checkerboard):
    torch.use_deterministic_algorithms(True)
    try:
        runs = [steps(build(name, checkerboard, variant, seed), checkerboard, 2, seed) for seed in (0, 0, 1)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@EVERY
def test_the_global_random_state_is_not_touched(name, variant, checkerboard):
    before = torch.get_rng_state()
    model = build(name, checkerboard, variant)
    steps(model, checkerboard, epochs=1)
    all_scores(model, checkerboard)
    assert torch.equal(torch.get_rng_state(), before)


@EVERY
def test_gradients_reach_every_parameter(name, variant, checkerboard):
    model, reached = build(name, checkerboard, variant), set()
    # With steps between: behind a layer that starts at zero there is no gradient at first.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(2):
        for batch in batches(checkerboard, 64, rng=stream(epoch, "sampling")):
            optimizer.zero_grad()
            model.loss(batch, rng=stream(epoch, "noise")).backward()
            reached |= {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
            optimizer.step()
    wanted = {key for key, _ in model.named_parameters()}
    if ADAPTERS[VARIANTS[variant][0]].features == "unused":
        wanted = {key for key in wanted if not key.startswith("towers.") or ".adapter." in key}
    assert reached == wanted


@EVERY
def test_an_adapter_counts_where_it_is_used_and_nowhere_else(name, variant, checkerboard):
    def size(modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    own = size(adapters_of(checkerboard, variant).values())
    added = size([build(name, checkerboard, variant)]) - size([build(name, checkerboard)])
    assert added == (0 if name in WITHOUT_ADAPTERS else own)


@pytest.mark.parametrize("name", sorted(WITHOUT_ADAPTERS))
def test_an_adapter_that_is_not_used_changes_nothing(name, checkerboard):
    plain, adapted = build(name, checkerboard), build(name, checkerboard, "befa")
    assert steps(plain, checkerboard, epochs=2) == steps(adapted, checkerboard, epochs=2)
    assert torch.equal(all_scores(plain, checkerboard), all_scores(adapted, checkerboard))


@EVERY
def test_some_users_scores_are_those_among_all(name, variant, checkerboard):
    model = build(name, checkerboard, variant)
    steps(model, checkerboard, epochs=1)
    asked = torch.tensor([7, 0, 13])
    torch.testing.assert_close(scorer(model)(asked), all_scores(model, checkerboard)[asked])


@EVERY
def test_vectors_are_current_and_without_dropout_or_gradient(name, variant, checkerboard):
    model = build(name, checkerboard, variant)
    steps(model, checkerboard, epochs=1)
    training = [module.training for module in model.modules()]
    first, again = model.user_item_vectors(), model.user_item_vectors()
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(first, again, strict=True))
    with torch.no_grad():
        model.items.mul_(-2).add_(0.1)
    assert not torch.equal(model.user_item_vectors()[1], first[1])


@EVERY
def test_evaluation_does_not_disturb_training(name, variant, checkerboard):
    plain, looked_at = build(name, checkerboard, variant), build(name, checkerboard, variant)
    noises = stream(0, "noise"), stream(0, "noise")
    for batch in batches(checkerboard, 64, rng=stream(0, "sampling")):
        losses = [model.loss(batch, rng=noise) for model, noise in zip((plain, looked_at), noises, strict=True)]
        assert torch.equal(*losses)
        all_scores(looked_at, checkerboard)


@EVERY
def test_a_state_reproduces_the_scores(name, variant, checkerboard):
    trained, fresh = build(name, checkerboard, variant), build(name, checkerboard, variant, seed=1)
    steps(trained, checkerboard, epochs=2)
    state = trained.state_dict()
    assert set(state) == {key for key, _ in trained.named_parameters()}
    fresh.load_state_dict(load(save(state)))
    assert torch.equal(all_scores(fresh, checkerboard), all_scores(trained, checkerboard))


@EVERY
def test_frozen_features_are_no_part_of_the_state(name, variant, checkerboard):
    model = build(name, checkerboard, variant, trainable_features=False)
    steps(model, checkerboard, epochs=1)
    assert not any(key.endswith("table") for key in model.state_dict())
    assert torch.equal(model.towers["image"].table, checkerboard.contents["image"].values_Ic)


@EACH_MODEL
def test_training_leaves_the_problem_as_it_is(name, checkerboard):
    before = checkerboard.contents["image"].values_Ic.clone()
    steps(build(name, checkerboard), checkerboard, epochs=1)
    assert torch.equal(checkerboard.contents["image"].values_Ic, before)


@EVERY
@pytest.mark.parametrize("modalities", [(), ("image",), ("text",), ("audio", "image", "text")])
def test_any_number_of_modalities_trains(name, variant, modalities, checkerboard):
    everything = {**checkerboard.contents, "audio": Content(features(3, 3), torch.ones(2 * HALF, dtype=torch.bool))}
    problem = replace(checkerboard, contents={modality: everything[modality] for modality in modalities})
    model = build(name, problem, variant)
    losses = steps(model, problem, epochs=2)
    assert torch.tensor(losses).isfinite().all()
    assert all_scores(model, problem).isfinite().all()


@EVERY
@pytest.mark.parametrize("absent", [(0,), range(2 * HALF)], ids=["one", "all"])
def test_absent_items_are_survived(name, variant, absent, checkerboard):
    problem = without(without(checkerboard, "image", *absent), "text", *absent)
    model = build(name, problem, variant)
    assert torch.tensor(steps(model, problem, epochs=2)).isfinite().all()
    assert all_scores(model, problem).isfinite().all()
    for tower in getattr(model, "towers", {}).values():
        h_Id, _ = tower(None, model.items, rng=stream(0, "noise"))
        assert not h_Id[list(absent)].any()


@EVERY
def test_what_an_absent_row_holds_does_not_matter(name, variant, checkerboard):
    problem, junk = (without(checkerboard, "image", 4) for _ in range(2))
    junk.contents["image"].values_Ic[4] = 17.0
    results = []
    for given in (problem, junk):
        model = build(name, given, variant)
        losses = steps(model, given, epochs=2)
        results.append((losses, all_scores(model, given).tolist()))
    assert results[0] == results[1]


@EACH_MODEL
def test_an_absent_item_is_nobodys_neighbour(name, checkerboard):
    problem = without(without(checkerboard, "image", 4), "text", 4)
    # One user more than items, so that a graph of users and items is not taken for one of items.
    again_E = problem.items_E[problem.users_E == 0]
    users_E = torch.cat([problem.users_E, torch.full_like(again_E, problem.n_users)])
    problem = Problem(
        problem.n_users + 1, problem.n_items, users_E, torch.cat([problem.items_E, again_E]), problem.contents
    )
    model = build(name, problem)
    steps(model, problem, epochs=1)
    shape = (problem.n_items, problem.n_items)
    assert problem.n_users != problem.n_items
    graphs = [module for module in model.modules() if isinstance(module, SparseMatrix) and module.shape == shape]
    assert bool(graphs) == hasattr(model.Config(), "knn_k")
    for graph in graphs:
        dense = graph.dense()
        assert not dense[4].any()
        assert not dense[:, 4].any()


@EACH_MODEL
def test_a_modality_without_adapter_is_an_error(name, checkerboard):
    with pytest.raises(ConfigError, match="unknown adapter's modality 'image'"):
        MODELS[name](checkerboard, {}, MODELS[name].Config(), rng=stream(0, "init"))


def test_freedom_thins_its_graph_anew_each_epoch(checkerboard):
    model, kept = build("freedom", checkerboard), []
    for seed in range(2):
        for batch in batches(checkerboard, 64, rng=stream(seed, "sampling")):
            model.loss(batch, rng=stream(seed, "noise"))
            kept.append(model.epoch_adjacency.columns.tolist())
    per_epoch = len(kept) // 2
    assert all(len(columns) == 2 * int(len(checkerboard.users_E) * (1 - 0.8)) for columns in kept)
    assert kept[0] == kept[per_epoch - 1] != kept[per_epoch]


def test_freedom_keeps_edges_by_their_weight():
    # User 0 has items 0..8, user 1 has item 9: the weights are 1/3 and 1, so 9 edges of 1/3 against one of 1.
    problem = Problem(2, 10, torch.tensor([0] * 9 + [1]), torch.arange(10))
    model, noise = build("freedom", problem, edge_dropout=0.85), stream(0, "noise")
    lone = sum(bool((model._thinned(noise).columns == 1).any()) for _ in range(2000))
    assert lone / 2000 == pytest.approx(1 / (1 + 9 / 3), abs=0.05)


@pytest.mark.parametrize(
    ("names", "shares"),
    [
        (["image", "text"], [0.1, 0.9]),
        (["text", "image", "audio"], [0.45, 0.1, 0.45]),
        (["image"], [1.0]),
        (["text", "audio"], [0.5, 0.5]),
        ([], []),
    ],
)
def test_freedom_shares_its_item_graph_out(names, shares):
    found = befa.models.freedom._shares(names, 0.1)
    assert list(found) == names
    assert list(found.values()) == pytest.approx(shares)


def test_no_model_is_left_out():
    files = {module.name for module in pkgutil.iter_modules(befa.models.__path__)} - {"base"}
    registered = {inspect.getmodule(kind).__name__.rpartition(".")[2] for kind in MODELS.values()}
    assert files == registered


def test_every_waiver_names_a_model_and_a_law():
    for name, law in WAIVED:
        assert name in MODELS
        assert law in globals()
