"""The training loop: early stopping, the best epoch kept, the same seed the same bits, clear errors."""

import gc
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from befa import config, training
from befa.adam import Adam
from befa.adapters import ADAPTERS
from befa.building import build
from befa.cells import Cell, FeaturesConfig, OptimizerConfig, TrainingConfig
from befa.errors import ConfigError, DataError, TrainingError
from befa.metrics import Interactions
from befa.models import MODELS
from befa.problem import Content, Problem
from befa.training import EarlyStopping, fit, validate
from pipelines import __main__ as commands
from pipelines.commands import loading

ROOT = Path(__file__).parent.parent
N_USERS, N_ITEMS = 20, 16


def small_problem():
    """Users like items of their own parity; content says an item's parity."""
    rng = np.random.default_rng(5)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if u % 2 == i % 2 and rng.random() < 0.6]
    users, items = (torch.tensor(column) for column in zip(*pairs, strict=True))
    content = torch.from_numpy(rng.normal(size=(N_ITEMS, 6)).astype(np.float32))
    content[:, 0] += torch.tensor([4.0, -4.0]).repeat(N_ITEMS // 2)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    held = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if u % 2 == i % 2 and (u, i) not in set(pairs)]
    valid = Interactions.of(*np.array(held).T, N_USERS)
    return Problem(N_USERS, N_ITEMS, users, items, {"image": Content(content, present)}), valid


UNTRAINED = {"item_knn"}
"""Models without parameters: they have no width, no seed and no epochs."""


def small_cell(model="bm3", adapter=None, **changes):
    """With BeFA, where nothing else is said and the model has content."""
    adapter = adapter or ("befa" if hasattr(MODELS[model].Config, "trainable_features") else "none")
    parts = {
        "dataset": "small",
        "encoder": "none",
        "model": model,
        "adapter": adapter,
        "protocol": "clean",
        "network": MODELS[model].Config(**({} if model in UNTRAINED else {"width": 8})),
        "adaptation": ADAPTERS[adapter].Config(),
        "optimizer": OptimizerConfig(learning_rate=0.01),
        "features": FeaturesConfig(),
        "training": TrainingConfig(epochs=6, batch_size=32, patience=2),
    }
    return Cell(**{**parts, **changes})


def trained(cell, seed=1):
    problem, valid = small_problem()
    model = build(problem, cell, seed)
    return model, fit(model, problem, valid, cell, seed), problem, valid


@pytest.mark.parametrize("model", sorted(MODELS.keys() - UNTRAINED))
def test_the_same_seed_gives_the_same_bits(model):
    before = torch.get_rng_state()
    (_, one, *_), (_, two, *_) = trained(small_cell(model)), trained(small_cell(model))
    assert one.history == two.history
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())
    assert torch.equal(torch.get_rng_state(), before)
    other = trained(small_cell(model), seed=2)[1]
    assert other.history != one.history


def test_the_best_epoch_is_what_training_leaves():
    training = TrainingConfig(epochs=40, batch_size=32, patience=3)
    model, fitted, problem, valid = trained(small_cell(training=training))
    values = [row["recall@20"] for row in fitted.history]
    assert fitted.best_epoch == values.index(max(values))
    assert len(values) == min(40, fitted.best_epoch + 1 + 3)
    kept = validate(model, problem, valid)
    assert kept == {name: fitted.history[fitted.best_epoch][name] for name in kept}


def test_training_learns_what_behaviour_shows():
    cell = small_cell("bm3", training=TrainingConfig(epochs=60, batch_size=32, patience=60, monitor="ndcg@5"))
    problem, valid = small_problem()
    untrained = validate(build(problem, cell, 1), problem, valid)["ndcg@5"]
    _, fitted, _, _ = trained(cell)
    # Half of the unseen items are of the wrong parity.
    assert fitted.history[fitted.best_epoch]["ndcg@5"] > 0.9 > untrained


def test_a_model_without_parameters_is_evaluated_once():
    rows = []
    problem, valid = small_problem()
    model = build(problem, small_cell("item_knn"), 1)
    fitted = fit(model, problem, valid, small_cell("item_knn"), 1, lambda *reported: rows.append(reported))
    row = {"epoch": 0, "loss": 0.0, **validate(model, problem, valid)}
    assert (fitted.state, fitted.best_epoch, fitted.history) == ({}, 0, [row])
    assert rows == [(row, row, 1)]
    # Content says an item's parity, and so do the held-out items.
    assert row["recall@20"] == 1.0


def stopped_after(values, **options):
    stopping = EarlyStopping(2, **options)
    for number, value in enumerate(values, start=1):
        stopping.improved(value)
        if stopping.exhausted:
            return number, stopping.best_epoch
    return None


def test_clean_stops_on_the_unrounded_value_after_patience_epochs():
    assert stopped_after([0.1, 0.2, 0.2, 0.2, 0.3], mmrec=False) == (4, 1)
    assert stopped_after([0.1, 0.10001, 0.10002, 0.10003], mmrec=False) is None


def test_mmrec_rounds_and_stops_one_later():
    assert stopped_after([0.1, 0.2, 0.2, 0.2, 0.2], mmrec=True) == (5, 1)
    assert stopped_after([0.1, 0.10001, 0.10002, 0.10003], mmrec=True) == (4, 0)


def test_a_loss_that_is_no_number_names_epoch_and_batch():
    cell = small_cell("bm3", optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch \d+, batch \d+; lower the learning rate"):
        trained(cell)


@pytest.mark.parametrize("model", ["bm3", "lattice", "mgcn", "bpr"])
def test_a_last_step_that_diverges_names_its_epoch(model):
    # One batch: its loss is computed before the step, and none after it.
    training = TrainingConfig(epochs=1, batch_size=10_000)
    cell = small_cell(model, training=training, optimizer=OptimizerConfig(learning_rate=1e38))
    with pytest.raises(TrainingError, match="scores are not finite after epoch 0; training has diverged"):
        trained(cell)


def test_a_tuned_host_that_is_none_is_told():
    params = config.read_params(ROOT / "params.yaml")
    params["tuned"] = {**params["tuned"], "demo-clip_small-bm4": {"befa": {}}}
    with pytest.raises(
        ConfigError, match=r"unknown host below tuned in params\.yaml, 'demo-clip_small-bm4'; did you mean"
    ):
        Cell.from_params(params, "demo", "clip_small", "bm3", "befa")


def test_an_unknown_metric_names_the_nearest():
    says = r"'training\.small\.monitor' is \"recal@20\": unknown metric; did you mean 'recall@20'.* in params\.yaml"
    with pytest.raises(ConfigError, match=says):
        config.load({"training": {"small": {"monitor": "recal@20"}}}, "training.small", TrainingConfig)


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ([], "it needs one entry at least"),
        ([1, 2, 1], "one is given twice"),
        (1, "a list is wanted"),
        (["1"], "valid integer"),
    ],
)
def test_seeds_are_a_list_of_different_numbers(seeds, says):
    with pytest.raises(ConfigError, match=rf"'training\.small\.seeds.*{says}"):
        config.load({"training": {"small": {"seeds": seeds}}}, "training.small", TrainingConfig)


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_of_a_model_moves_to_the_problems_device(model, monkeypatch):
    """No GPU is needed to see that a model keeps tensors as parameters and buffers alone, and that these are moved."""
    problem, _ = small_problem()
    seen = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: (seen.append(device), self)[1])
    build(problem, small_cell(model), 1)
    assert seen == [problem.users_E.device]
    monkeypatch.undo()
    left = [
        f"{name}.{key}"
        for name, module in build(problem, small_cell(model), 1).named_modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    assert left == []  # a plain attribute would stay behind


def test_the_device_is_asked_for_on_the_command_line(monkeypatch):
    asked = []
    monkeypatch.setattr(commands.stages, "stage", lambda *words, **options: asked.append((*words, options)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cell = ["demo", "clip_small", "bm3", "befa"]
    for words in (["train", *cell], ["evaluate", *cell, "--device", "cpu"]):
        assert CliRunner().invoke(commands.app, words).exit_code == 0
    assert asked == [("train", *cell, {"device": "cpu"}), ("evaluate", *cell, {"device": "cpu"})]
    wrong = CliRunner().invoke(commands.app, ["train", *cell, "--device", "cuda"])
    assert "no CUDA device is available" in str(wrong.exception)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    CliRunner().invoke(commands.app, ["train", *cell])
    assert asked[-1] == ("train", *cell, {"device": "cuda"})


def test_misspelt_names_and_the_disks_errors_are_one_line(tmp_path, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr(commands.sys, "argv", ["befa", *words])
        with pytest.raises(SystemExit) as ended:
            sys.exit(commands.main())
        return ended.value.code, capsys.readouterr().err.strip()

    for words in (["evaluate"], ["attribute"], ["distribution"], ["tune"], ["adopt"]):
        code, line = said(*words, "demo", "clip_small", "bm33", "befa")
        assert code == 1
        assert line.startswith("error: unknown model 'bm33'; did you mean 'bm3'?")
    assert said("show", "dmo")[1].startswith("error: unknown dataset 'dmo'; did you mean 'demo'?")
    # A folder where a file should be: no error of ours, and no traceback either.
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/reports/demo/befa.json").mkdir(parents=True)
    code, line = said("show", "demo")
    assert code == 1
    assert line == "error: Is a directory in data/reports/demo/befa.json; see to the disk, the path and its rights"


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, type("RayTaskError(OutOfMemoryError)", (RuntimeError,), {})])
def test_a_gpu_that_is_too_small_is_one_line(kind, monkeypatch, capsys):
    def too_much(*words, **options):
        raise kind("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory ...")

    monkeypatch.setattr(commands.stages, "stage", too_much)
    monkeypatch.setattr(commands.sys, "argv", ["befa", "train", "demo", "clip_small", "bm3", "befa", "--device", "cpu"])
    assert commands.main() == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: the GPU has too little memory (CUDA out of memory. Tried to allocate 2.00 GiB.)")
    assert "make batch_size smaller" in line
    assert "Of the allocated" not in line


def test_what_a_command_loads_is_left_alone_by_the_garbage_collector():
    class Loaded:
        pass

    gc.unfreeze()
    with loading():
        loaded = Loaded()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert all(one is not loaded for one in gc.get_objects())
    gc.unfreeze()


@pytest.mark.skipif(find_spec("triton") is None, reason="triton comes with a torch for CUDA")
def test_what_a_command_loads_is_no_leak_at_its_end():
    program = "from pipelines.commands import loading\nwith loading():\n    import triton._C.libtriton"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


def test_a_cell_is_read_back_as_it_was_written(tmp_path):
    cell = small_cell(training=TrainingConfig(seeds=(3, 1)))
    cell.write(tmp_path / "config.json")
    assert Cell.read(tmp_path / "config.json") == cell


def test_nothing_to_validate_on_is_an_error_before_the_first_epoch():
    problem, _ = small_problem()
    model = build(problem, small_cell(), 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nothing = Interactions.of(np.array([], np.int64), np.array([], np.int64), problem.n_users)
    with pytest.raises(DataError, match="no user has both training and validation interactions"):
        fit(model, problem, nothing, small_cell(), 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_learning_rate_falls_by_decay_in_fifty_epochs(monkeypatch):
    rates, step = [], Adam.step
    monkeypatch.setattr(Adam, "step", lambda self: (rates.append(self.learning_rate), step(self))[1])
    training = TrainingConfig(epochs=3, batch_size=10_000, patience=3)
    trained(small_cell("bpr", "none", training=training, optimizer=OptimizerConfig(learning_rate=0.01, decay=0.5)))
    assert rates == pytest.approx([0.01, 0.01 * 0.5 ** (1 / 50), 0.01 * 0.5 ** (2 / 50)], rel=1e-12)


@pytest.mark.parametrize("protocol", ["clean", "mmrec"])
def test_the_protocol_decides_momentum_and_stopping(protocol, monkeypatch):
    made = []
    for kind in (Adam, EarlyStopping):
        real = kind.__init__
        monkeypatch.setattr(
            kind,
            "__init__",
            lambda self, *given, _real=real, **named: (made.append(named), _real(self, *given, **named))[1],
        )
    trained(small_cell("bpr", "none", protocol=protocol))
    assert made == [{"coasting": protocol == "mmrec"}, {"mmrec": protocol == "mmrec"}]


def test_what_is_reported_of_an_epoch(monkeypatch):
    values = iter([0.1, 0.3, 0.2, 0.4])
    problem, valid = small_problem()
    monkeypatch.setattr(training, "validate", lambda *_: {"recall@20": next(values)})
    reported, cell = [], small_cell("bpr", "none", training=TrainingConfig(epochs=4, batch_size=32, patience=2))
    fit(
        build(problem, cell, 1),
        problem,
        valid,
        cell,
        1,
        lambda row, best, end: reported.append((row["epoch"], best["epoch"], end)),
    )
    assert reported == [(0, 0, 3), (1, 1, 4), (2, 1, 4), (3, 3, 4)]


def test_the_loss_of_an_epoch_is_the_mean_of_its_batches():
    problem, valid = small_problem()
    cell = small_cell("bpr", "none", training=TrainingConfig(epochs=1, batch_size=32))
    model, losses = build(problem, cell, 1), []
    loss = model.loss
    model.loss = lambda batch, *, rng: (losses.append(loss(batch, rng=rng)), losses[-1])[1]
    fitted = fit(model, problem, valid, cell, 1)
    assert len(losses) > 1
    assert fitted.history[0]["loss"] == pytest.approx(np.mean([x.item() for x in losses]), rel=1e-12)


def test_users_that_training_does_not_know_are_not_validated():
    problem, valid = small_problem()
    cell = small_cell("bpr", "none")
    known = problem.users_E != 3
    fewer = Problem(problem.n_users, problem.n_items, problem.users_E[known], problem.items_E[known], problem.contents)
    model = build(fewer, cell, 1)
    others = np.flatnonzero((valid.counts > 0) & (np.arange(problem.n_users) != 3))
    rows, items = valid.rows(others)
    assert validate(model, fewer, valid) == validate(
        model, fewer, Interactions.of(others[rows], items, problem.n_users)
    )


def test_an_infinite_loss_is_told():
    problem, valid = small_problem()
    cell = small_cell("bpr", "none")
    model = build(problem, cell, 1)
    model.loss = lambda batch, *, rng: model.users.sum() + torch.inf
    with pytest.raises(TrainingError, match="the loss is inf at epoch 0, batch 0"):
        fit(model, problem, valid, cell, 1)


def test_training_items_are_no_candidates_of_validation():
    problem, valid = small_problem()
    # Each user's own training items before all others, then the held-out ones.
    scores = torch.zeros(problem.n_users, problem.n_items)
    scores[problem.users_E, problem.items_E] = 2
    rows, items = valid.rows(np.arange(problem.n_users))
    scores[rows, items] = 1

    class Known(torch.nn.Module):
        def scores(self, users_B):
            return scores[users_B]

    assert validate(Known(), problem, valid)["ndcg@5"] == 1.0
