"""A training that is killed, any number of times and at any moment, ends with the bytes of one that was not."""

import dataclasses
import multiprocessing
import resource
import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from befa import checkpoints, config, resuming, tables
from befa.adam import Adam
from befa.building import build
from befa.cell_names import Listed
from befa.cells import Cell, TrainingConfig
from befa.devices import device_name
from befa.errors import DataError, TrainingError
from befa.models import MODELS
from befa.report import results
from befa.resuming import Saved, identity
from befa.training import Fitted, fit
from pipelines import fitting
from pipelines.stages import train
from tests.processes import killed_until_done
from tests.small_project import NAMES, small_project
from tests.test_training import UNTRAINED, small_cell, small_problem

OUTPUTS = ("checkpoints", "history.csv", "config.json")


@pytest.fixture(autouse=True)
def saved_after_every_epoch(monkeypatch):
    monkeypatch.setattr(resuming, "LARGEST_SHARE", float("inf"))


def outputs(layout):
    """The bytes of what the stage `train` leaves to DVC."""
    folder = layout.run(*NAMES)
    found = [path for name in OUTPUTS for path in (folder / name, *(folder / name).glob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def trains(layout, seconds=0.0):
    """The stage in a process of its own, saving after every epoch; `seconds` are what it waits before it writes one."""

    def work():
        train.Saved = lambda *given: Saved(*given, every=0.0)
        original = torch.Tensor.backward
        torch.Tensor.backward = lambda *given, **named: (time.sleep(seconds), original(*given, **named))[1]
        train.run(*NAMES, layout)

    # A fork has torch loaded already; it computes with one thread, as its parent does.
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_where_nothing_can_be_written_nothing_is_trained(tmp_path, monkeypatch):
    layout = small_project(tmp_path)
    into = layout.run(*NAMES)
    into.parent.mkdir(parents=True)
    into.write_text("a file where the folder is to be")
    monkeypatch.setattr(fitting, "fit", lambda *given: pytest.fail("trained in vain"))
    with pytest.raises(OSError, match=into.name):
        train.run(*NAMES, layout)


def test_any_number_of_kills_changes_no_byte(tmp_path):
    """Real SIGKILLs at moments of chance, of a cell of two seeds: also between them, and while a state is written."""
    whole = small_project(tmp_path / "whole", seeds=(1, 2), epochs=25)
    process = trains(whole)
    process.join(120)
    assert process.exitcode == 0
    killed = small_project(tmp_path / "killed", seeds=(1, 2), epochs=25)
    code, kills = killed_until_done(lambda: trains(killed, seconds=0.002), most=12, longest=0.6)
    assert code == 0
    assert kills >= 3
    assert outputs(killed) == outputs(whole)
    assert {path.name for path in killed.run(*NAMES).iterdir()} == {*OUTPUTS, "timing.json"}


def test_the_time_of_an_epoch_is_that_of_epochs_trained_here(tmp_path):
    """A training that was taken up at its end, or near it, would else seem to take next to nothing an epoch."""
    layout = small_project(tmp_path, seeds=(1, 2), epochs=6)
    saved = layout.training(layout.run(*NAMES))
    train.run(*NAMES, layout)
    first = tables.read_json(layout.run(*NAMES) / "timing.json")
    assert first["epochs"] == 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_tidy", lambda *_: None)
        train.run(*NAMES, layout)
    (saved / "2.safetensors").unlink()
    train.run(*NAMES, layout)
    assert tables.read_json(layout.run(*NAMES) / "timing.json")["epochs"] == 6


def test_the_time_of_another_training_is_not_shown(tmp_path):
    """DVC brings back the checkpoint and configuration of an earlier λ, and leaves the times of the later one."""
    layout = small_project(tmp_path, epochs=1)
    train.run(*NAMES, layout)
    folder, listed = layout.run(*NAMES), Listed(dataset="small", encoder="made", model="bm3", adapter="befa")
    tables.write_json(folder / "metrics.json", {"test": {}})
    assert results.read(layout, listed).seconds > 0
    assert results.read(layout, listed).machine == "cpu, 1 thread"
    cell = Cell.read(folder / "config.json")
    dataclasses.replace(cell, adaptation=dataclasses.replace(cell.adaptation, width=8.0)).write(folder / "config.json")
    assert results.read(layout, listed).seconds is None
    assert results.read(layout, listed).machine == ""


class KilledError(Exception):
    """Ends a training as a kill does, for what is to be tested on many models in little time."""


def fitted(cell, path=None, kill_after=None, made_of="this"):
    """Trains seed 1; the epochs that were trained in this run are noted."""
    problem, valid = small_problem()
    model, epochs = build(problem, cell, 1), []

    def on_epoch(row, best, end):
        epochs.append(row["epoch"])
        if row["epoch"] == kill_after:
            raise KilledError

    saved = None if path is None else Saved(path, made_of, every=0.0)
    return fit(model, problem, valid, cell, 1, on_epoch, saved), epochs


@pytest.mark.parametrize(
    ("model", "protocol"),
    [
        *((model, "clean") for model in sorted(MODELS.keys() - UNTRAINED)),
        ("lattice", "mmrec"),
    ],
)
def test_every_model_goes_on_as_if_nothing_had_been(model, protocol, tmp_path):
    """Also those that keep a graph for an epoch, a learning rate that falls, and what goes on by its momentum."""
    cell = small_cell(model, training=TrainingConfig(epochs=6, batch_size=32))
    cell = dataclasses.replace(cell, protocol=protocol)
    cell = dataclasses.replace(cell, optimizer=dataclasses.replace(cell.optimizer, decay=0.5))
    whole, _ = fitted(cell)
    for epoch in (0, 3):
        with pytest.raises(KilledError):
            fitted(cell, tmp_path / "1.safetensors", kill_after=epoch)
    resumed, epochs = fitted(cell, tmp_path / "1.safetensors")
    assert epochs == [4, 5]
    assert [list(row.items()) for row in resumed.history] == [list(row.items()) for row in whole.history]
    assert resumed.best_epoch == whole.best_epoch
    assert resumed.state.keys() == whole.state.keys()
    assert all(torch.equal(value, whole.state[name]) for name, value in resumed.state.items())


def test_early_stopping_remembers(tmp_path):
    cell = small_cell(training=TrainingConfig(epochs=60, batch_size=32, patience=3))
    whole, epochs = fitted(cell)
    assert len(epochs) < 60
    with pytest.raises(KilledError):
        fitted(cell, tmp_path / "1.safetensors", kill_after=len(epochs) - 2)
    assert fitted(cell, tmp_path / "1.safetensors")[0].history == whole.history
    # and one that is at its end is not trained any further
    assert fitted(cell, tmp_path / "1.safetensors")[1] == []


def test_the_state_of_another_training_is_not_taken_up(tmp_path, caplog):
    cell, path = small_cell(training=TrainingConfig(epochs=4, batch_size=32)), tmp_path / "1.safetensors"
    with pytest.raises(KilledError):
        fitted(cell, path, kill_after=2)
    with caplog.at_level("INFO", "befa"):
        assert fitted(cell, path, made_of="that")[1] == [0, 1, 2, 3]
    assert "of another configuration, data, code or processor, training starts over" in caplog.text


@pytest.mark.parametrize("broken", [b"", b"not a safetensors file", None])
def test_a_broken_state_is_told_and_not_taken_up(tmp_path, caplog, broken):
    cell, path = small_cell(training=TrainingConfig(epochs=2, batch_size=32)), tmp_path / "1.safetensors"
    fitted(cell, path)
    path.write_bytes(path.read_bytes()[:-9] if broken is None else broken)
    assert fitted(cell, path)[1] == [0, 1]
    assert "not a readable checkpoint" in caplog.text


def test_a_state_that_cannot_be_written_does_not_end_the_training(tmp_path, caplog):
    """A real limit to a file's size, as a disk that is full sets it."""
    cell, path = small_cell(training=TrainingConfig(epochs=2, batch_size=32)), tmp_path / "1.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert fitted(cell, path)[1] == [0, 1]
        with pytest.raises(TrainingError, match=r"cannot be written .*1\.safetensors; see to the disk"):
            checkpoints.write(path, {"x": torch.zeros(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "training goes on, but would not be taken up after a kill" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_of_one_processor_and_of_the_code_that_runs(monkeypatch):
    cell = small_cell()
    known = identity("data", cell, 1, "cpu")
    assert torch.backends.cpu.get_cpu_capability() in device_name("cpu")
    monkeypatch.setattr(resuming, "device_name", lambda device: "another")
    assert identity("data", cell, 1, "cpu") != known
    monkeypatch.undo()
    # A file that changes while the process runs is not what it runs.
    monkeypatch.setattr(resuming.Path, "read_bytes", lambda path: b"")
    assert identity("data", cell, 1, "cpu") == known


def test_identity_is_of_everything_that_decides_the_bits():
    problem, valid = small_problem()
    cell = small_cell()
    data = checkpoints.data_sha256(problem, valid)
    known = identity(data, cell, 1, "cpu")
    assert known == identity(data, cell, 1, "cpu")
    more = dataclasses.replace(cell, training=dataclasses.replace(cell.training, seeds=(1, 2)))
    assert known == identity(data, more, 1, "cpu")
    slower = dataclasses.replace(cell, optimizer=dataclasses.replace(cell.optimizer, learning_rate=0.001))
    keys_E = (problem.users_E * problem.n_items + problem.n_items - 1 - problem.items_E).sort().values
    swapped = dataclasses.replace(problem, items_E=keys_E % problem.n_items)  # other items, as many to each user
    fewer = dataclasses.replace(valid, items_E=valid.items_E[::-1].copy())
    others = {
        identity(data, cell, 2, "cpu"),
        identity(data, slower, 1, "cpu"),
        identity(checkpoints.data_sha256(swapped, valid), cell, 1, "cpu"),
        identity(checkpoints.data_sha256(problem, fewer), cell, 1, "cpu"),
    }
    assert len(others - {known}) == 4


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "LARGEST_SHARE", 0.1)
    clock = iter([0.0, 31.0, 31.0, 41.0, 140.0, 142.0])  # made, due, save from 31 to 41, asked twice
    monkeypatch.setattr(resuming.time, "monotonic", lambda: next(clock))
    cell, (problem, _) = small_cell(), small_problem()
    model = build(problem, cell, 1)
    saved = Saved(tmp_path / "1.safetensors", "this")
    assert saved.due
    saved.save(model, Adam(model.parameters(), 0.01), {}, [], {})
    assert not saved.due
    assert saved.due


def test_tables_that_were_filtered_anew_are_not_joined_to_the_old_split(tmp_path):
    """One more item at the front moves all others' places: each would get its neighbour's picture and title."""
    layout = small_project(tmp_path, epochs=1)
    path = layout.filtered("small") / "items.parquet"
    ids = ["item", *tables.read_table(path)["item"].to_pylist()]
    tables.write_table(path, pa.table({"item_index": pa.array(range(len(ids)), pa.int32()), "item": ids}))
    with pytest.raises(
        DataError, match=r"split is of other users or items .*small\.parquet; run dvc repro split@small"
    ):
        train.run(*NAMES, layout)


@pytest.mark.parametrize("kind", ["item", "user"])
def test_a_table_in_another_order_is_an_error(tmp_path, kind):
    layout = small_project(tmp_path, epochs=1)
    path = layout.filtered("small") / f"{kind}s.parquet"
    table = tables.read_table(path)
    tables.write_table(path, table.take(list(range(len(table)))[::-1]))
    with pytest.raises(DataError, match=rf"{kind}_index does not count its rows .*{kind}s\.parquet; sort by {kind}_"):
        train.run(*NAMES, layout)


@pytest.mark.parametrize(("name", "of"), [("n_items", "item"), ("n_users", "user")])
def test_ids_beyond_the_tables_are_an_error(name, of):
    problem, _ = small_problem()
    with pytest.raises(DataError, match=rf"{of} ids from 0 to \d+, of 3 {of}s; ids count {of}s from 0"):
        dataclasses.replace(problem, **{name: 3})


def test_a_checkpoint_of_other_data_or_none_is_an_error(tmp_path):
    layout = small_project(tmp_path, epochs=1)
    train.run(*NAMES, layout)
    folder, cell = layout.run(*NAMES), train.Cell.read(layout.run(*NAMES) / "config.json")
    model, problem = checkpoints.load_trained(layout, folder, cell, 1)
    assert not model.training
    assert len(problem.users_E)
    with pytest.raises(TrainingError, match=r"no such checkpoint in .*2\.safetensors; run its train stage"):
        checkpoints.load_trained(layout, folder, cell, 2)
    wider = dataclasses.replace(cell, network=dataclasses.replace(cell.network, width=9))
    with pytest.raises(TrainingError, match=r"does not fit its configuration .*dvc repro train@small-made-bm3-befa"):
        checkpoints.load_trained(layout, folder, wider, 1)
    state, about = checkpoints.read(layout.checkpoint(folder, 1))
    checkpoints.write(layout.checkpoint(folder, 1), state | {"users": state["users"] / 0}, about)
    with pytest.raises(TrainingError, match="a parameter is not finite: training has diverged"):
        checkpoints.load_trained(layout, folder, cell, 1)
    checkpoints.write(layout.checkpoint(folder, 1), state, about)
    # Other validation pairs chose another epoch, and some of the test may be among those that chose this one.
    split = tables.read_table(layout.split("small"))
    held = pc.is_in(split["split"].cast("string"), value_set=pa.array(["valid", "test"]))
    other = pc.if_else(pc.equal(split["split"].cast("string"), "valid"), "test", "valid")
    swapped = pc.if_else(held, other, split["split"].cast("string"))
    tables.write_table(layout.split("small"), split.set_column(2, "split", swapped))
    with pytest.raises(TrainingError, match="trained on another split, or on other features"):
        checkpoints.load_trained(layout, folder, cell, 1)
    tables.write_table(layout.split("small"), split)
    small_split = checkpoints.load_problem
    one_less = small_split(layout, cell, 1)
    one_less = dataclasses.replace(one_less, users_E=one_less.users_E[1:], items_E=one_less.items_E[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "load_problem", lambda *_: one_less)
        with pytest.raises(TrainingError, match="trained on another split, or on other features"):
            checkpoints.load_trained(layout, folder, cell, 1)


def test_identity_knows_data_code_and_version(monkeypatch):
    known = identity("data", small_cell(), 1, "cpu")
    assert identity("other", small_cell(), 1, "cpu") != known
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert identity("data", small_cell(), 1, "cpu") != known
    monkeypatch.undo()
    monkeypatch.setattr(resuming, "code_sha256", lambda: "other")
    assert identity("data", small_cell(), 1, "cpu") != known
    monkeypatch.undo()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert identity("data", small_cell(), 1, "cpu") != known


def test_the_code_is_hashed_when_it_is_loaded():
    """Later a file may have been saved that this process does not run."""
    assert resuming.code_sha256.cache_info().currsize == 1


def test_the_code_is_every_module_of_befa(monkeypatch):
    read = []
    monkeypatch.setattr(resuming.Path, "read_bytes", lambda path: read.append(path.name) or b"")
    resuming.code_sha256.__wrapped__()
    assert {"adam.py", "mgcn.py", "constant_gate.py", "clip_model.py"} <= set(read)


def test_the_code_sha_is_of_the_contents(monkeypatch):
    found = []
    for content in (b"one", b"two"):
        monkeypatch.setattr(resuming.Path, "read_bytes", lambda path, content=content: content)
        found.append(resuming.code_sha256.__wrapped__())
    assert found[0] != found[1]


def test_the_epochs_of_a_training_are_those_trained_here(tmp_path):
    layout = small_project(tmp_path, epochs=6)
    cell = Cell.from_params(config.read_params(layout.params), *NAMES)

    def killed(self, *given):
        save(self, *given)
        if len(given[3]) == 4:
            raise KeyboardInterrupt

    save = Saved.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "LARGEST_SHARE", float("inf"))
        patch.setattr(Saved, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fitting.train(layout, cell, 1, "cpu", lambda made_of: Saved(tmp_path / "1.safetensors", made_of, every=0.0))
    kept = tmp_path / "1.safetensors"
    _, _, left = fitting.train(layout, cell, 1, "cpu", lambda made_of: Saved(kept, made_of, every=0.0))
    assert (len(left.fitted.history), left.epochs) == (6, 2)


def test_a_folder_that_cannot_be_made_does_not_end_the_training(tmp_path, caplog):
    problem, valid = small_problem()
    cell = small_cell("bpr", "none", training=TrainingConfig(epochs=2, batch_size=32))
    (tmp_path / "file").write_text("")
    fitted = fit(
        build(problem, cell, 1),
        problem,
        valid,
        cell,
        1,
        saved=Saved(tmp_path / "file/1.safetensors", "this", every=0.0),
    )
    assert len(fitted.history) == 2
    assert "training goes on, but would not be taken up after a kill" in caplog.text


def test_training_is_identified_by_its_data(tmp_path):
    layout, asked = small_project(tmp_path, epochs=1), []
    cell = Cell.from_params(config.read_params(layout.params), *NAMES)
    _, _, found = fitting.train(layout, cell, 1, "cpu", lambda made_of: asked.append(made_of))
    assert asked == [identity(found.data_sha256, cell, 1, "cpu")]


def test_the_log_tells_the_best_epochs_value(tmp_path, monkeypatch, caplog):
    layout = small_project(tmp_path)
    history = [{"epoch": 0, "recall@20": 0.5}, {"epoch": 1, "recall@20": 0.25}]
    monkeypatch.setattr(fitting, "fit", lambda *_: Fitted({}, 0, history))
    with caplog.at_level("INFO"):
        fitting.train(layout, Cell.from_params(config.read_params(layout.params), *NAMES), 1, "cpu", lambda _: None)
    assert "best epoch 0 of 2: recall@20 0.5000" in caplog.text
