"""Tuning with an equal budget: as many trials of the base as of the adapted model, chosen by validation alone."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import torch
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field
from sqlalchemy.exc import DatabaseError

from befa import checkpoints
from befa.building import build, load_problem, load_valid
from befa.cell_names import cell_name, host_name
from befa.cells import Cell
from befa.config import configuration
from befa.devices import device_name
from befa.errors import ConfigError, DataError, TrainingError, first_line
from befa.locks import locked
from befa.metrics import Interactions
from befa.paths import Layout
from befa.problem import Problem
from befa.rng import numpy_stream
from befa.search_space import Distributions, Space, Values, combination, contains, size, untried
from befa.training import Row, fit

log = logging.getLogger(__name__)

BEFORE_PRUNING = 5
"""Trials that are trained to their end before one may be pruned, and that must have had the epoch in which it is."""

STATES: dict[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@configuration
class TuningConfig:
    """Block `tuning` of params.yaml."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Of the base, and of the adapted model; the settings that the cells have untuned are the first of them."""
    seed: int = 1
    """Of the sampler; trainings have the first of `training.seeds`."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: by what the trials before gave (Optuna's TPESampler). `random`. `grid`: a finite space's combinations in
    an order of chance, all of them when `trials` are enough."""
    pruning: bool = True
    """Ends a trial whose best validation value is below the median of the complete trials' before at the same epoch,
    from epoch `training.patience` on, and while five of them or more had got that far."""
    space: Space = Space()
    """What may be chosen."""


@dataclass(frozen=True)
class Tried:
    """One trial."""

    number: int
    settings: Values
    """The values of what is searched; of trial 0 those that the cell has untuned."""
    value: float | None
    """Best validation value of `training.monitor`, of a pruned trial until then; None of a failed one."""
    epochs: int
    """That were trained."""
    state: Literal["complete", "pruned", "failed"]
    error: str | None
    """Why it failed."""


@dataclass(frozen=True)
class Searched:
    """What the search of one cell found."""

    space: dict[str, Any]
    """Choices or range of each setting."""
    size: int | None
    """How many combinations the space has; None: no end of them."""
    exhausted: bool
    """Whether all of them were tried; trial 0 may be none of them."""
    trials: list[Tried]
    winner: Tried
    """The complete trial with the highest value; the earlier one of equals."""
    tuned: dict[str, dict[str, Any]]
    """The winner's values as `tuned` of the cell's line in params.yaml; empty when trial 0 won."""


class Watch:
    """Told how a search goes on; this one does nothing."""

    def epoch(self, number: int, row: Row, best: Row) -> None:
        """After an epoch of trial `number`: its row, and the trial's best one so far."""

    def trial(self, done: list[Tried]) -> None:
        """After a trial, and at the start, with those that an earlier run had ended."""


def search(
    layout: Layout,
    params: Mapping[str, Any],
    names: tuple[str, str, str, str],
    cfg: TuningConfig,
    *,
    code: str,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Searched:
    """Trains the cell `names` (dataset, encoder, model, adapter) with `cfg.trials` settings; the test part is not read.

    Trial 0 has the settings that the cell has untuned, in the space or not, so the winner is never worse than those on
    validation. The others are of the space and all different: what the sampler has proposed before is replaced by an
    untried combination, and where none is left the search ends early.

    Ended trials are kept in `layout.study`. A killed search is taken up after the last of them: each trial is drawn
    from `cfg.seed` and its number, so the result has the same bytes as without a kill. A study is continued only with
    the same data, space, configuration and `code` (a hash of the code that decides a training's bits); more
    `cfg.trials` continue it, fewer show its beginning. Searches of one cell at the same time wait for each other.

    A trial whose loss is not finite counts as failed. Raises TrainingError when all trials fail, ConfigError for a
    space that does not fit (see `Space.distributions`), DataError for a study file that cannot be read, and what
    `load_problem` raises.
    """
    space = cfg.space.distributions(params, *names[2:])
    if cfg.sampler == "grid" and size(space) == float("inf"):
        what = "the sampler grid needs a finite space, and there is a range of all numbers"
        raise ConfigError(what, where="tuning.space", mend="give the range a step, or take sampler: tpe")
    cell = Cell.from_params(with_tuned(params, names, {}), *names)
    seed = cell.training.seeds[0]
    problem = load_problem(layout, cell, seed, device)
    valid = load_valid(layout, cell, problem.n_users)
    made_of = _identity(cell, space, cfg, problem, valid, code, device)
    watch = watch or Watch()
    with _study(layout.study(*names), cell_name(*names), made_of) as study:
        while True:
            ended = study.get_trials(deepcopy=False)[: cfg.trials]
            watch.trial([_tried(trial) for trial in ended])
            combinations = {combination(space, trial.params) for trial in ended if set(trial.params) == set(space)}
            if len(ended) == cfg.trials or (ended and len(combinations) >= size(space)):
                break
            trial_study, trial = _next(ended, combinations, space, _own(cell), cfg, cell.training.patience)
            trained = Cell.from_params(with_tuned(params, names, _parts(trial.params)), *names)
            trial.set_user_attr("settings", {name: {**_own(cell), **trial.params}[name] for name in space})
            _train(trial_study, trial, trained, problem, valid, cfg.pruning, watch.epoch)
            study.add_trial(trial_study.trials[-1])  # one transaction
    return _searched([_tried(trial) for trial in ended], space, exhausted=len(combinations) >= size(space))


def with_tuned(params: Mapping[str, Any], names: tuple[str, str, str, str], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """params.yaml's content with `tuned` as what was chosen for the cell `names`."""
    *names_of_host, adapter = names
    host, before = host_name(*names_of_host), params.get("tuned") or {}
    return {**params, "tuned": {**before, host: {**(before.get(host) or {}), adapter: tuned}}}


def _own(cell: Cell) -> Values:
    """The values of an untuned cell."""
    parts = {part: asdict(getattr(cell, part)) for part in ("optimizer", "network", "adaptation")}
    return {f"{part}.{key}": value for part, of in parts.items() for key, value in of.items()}


def _parts(values: Values) -> dict[str, dict[str, Any]]:
    """As `tuned` has them: by part, then key."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = value
    return parts


def _identity(
    cell: Cell, space: Distributions, cfg: TuningConfig, problem: Problem, valid: Interactions, code: str, device: str
) -> str:
    """SHA-256 of all that decides what a trial of a given number is and gives."""
    about = [
        asdict(replace(cell, training=replace(cell.training, seeds=cell.training.seeds[:1]))),
        {name: distribution_to_json(each) for name, each in space.items()},
        [cfg.seed, cfg.sampler, cfg.pruning],
        [checkpoints.data_sha256(problem, valid), code, torch.__version__, optuna.__version__, device_name(device)],
    ]
    return sha256(json.dumps(about).encode()).hexdigest()


@contextmanager
def _study(path: Path, cell: str, made_of: str) -> Iterator[optuna.Study]:
    """The stored study of what `made_of` stands for, in the SQLite file `path`; other ones in it are left alone."""
    optuna.logging.disable_default_handler()  # it writes to stderr by itself
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = f"{cell}-{made_of[:16]}"
    with locked(path.with_suffix(".lock")):
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            known = [each.study_name for each in storage.get_all_studies()]
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        except (DatabaseError, RuntimeError, optuna.exceptions.OptunaError) as error:
            reason = first_line(error)
            raise DataError(f"no readable study ({reason})", where=path, mend="remove it: trials start over") from None
        if name in known:
            log.info("%s: taken up after %d trials", cell, len(study.trials))
        elif known:
            log.info("%s: other data, code, processor, configuration or space than before: trials start over", cell)
        try:
            yield study
        except optuna.exceptions.StorageInternalError as error:
            reason = first_line(error)
            raise DataError(f"no readable study ({reason})", where=path, mend="remove it: trials start over") from None
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _next(
    ended: list[FrozenTrial], combinations: set[tuple], space: Distributions, own: Values, cfg: TuningConfig, warm: int
) -> tuple[optuna.Study, optuna.Trial]:
    """The next trial, in a study in memory with those before it, and with a sampler that knows nothing else.

    So it stands in the stored study only when it has ended, and hangs on no state that a kill would lose.
    """
    number = len(ended)
    rng = numpy_stream(cfg.seed, "tuning", str(number))
    sampler_seed = int(rng.integers(2**31))

    def study() -> optuna.Study:
        samplers = optuna.samplers
        sampler = (samplers.TPESampler if cfg.sampler == "tpe" else samplers.RandomSampler)(seed=sampler_seed)
        # Few trials last long: the median of one or two would let the slowest of them judge all that come later.
        pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, n_warmup_steps=warm, n_min_trials=BEFORE_PRUNING)
        made = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        made.add_trials(ended)
        return made

    if number == 0:
        values = {name: own[name] for name, each in space.items() if contains(each, own[name])}
    else:
        values = study().ask(space).params
        if cfg.sampler == "grid" or combination(space, values) in combinations:
            values = untried(space, combinations, rng)
    chosen = study()
    chosen.enqueue_trial(values)
    return chosen, chosen.ask({name: space[name] for name in values})


def _train(
    study: optuna.Study,
    trial: optuna.Trial,
    cell: Cell,
    problem: Problem,
    valid: Interactions,
    pruning: bool,
    told: Callable[[int, Row, Row], None],
) -> None:
    """Trains one trial and tells its study how it ended."""
    seed, monitor, epochs = cell.training.seeds[0], cell.training.monitor, 0

    def on_epoch(row: Row, best: Row, end: int) -> None:
        nonlocal epochs
        epochs += 1
        # The best so far, not this epoch's value: what counts in the end, and less of a matter of chance.
        trial.report(best[monitor], row["epoch"])
        told(trial.number, row, best)
        if pruning and trial.should_prune():
            raise optuna.TrialPruned

    try:
        fitted = fit(build(problem, cell, seed), problem, valid, cell, seed, on_epoch)
        result: dict[str, Any] = {"values": fitted.history[fitted.best_epoch][monitor]}
    except optuna.TrialPruned:
        result = {"state": TrialState.PRUNED}
    except TrainingError as error:
        trial.set_user_attr("error", error.what)
        result = {"state": TrialState.FAIL}
    trial.set_user_attr("epochs", epochs)
    study.tell(trial, **result)


def _tried(trial: FrozenTrial) -> Tried:
    return Tried(
        number=trial.number,
        settings=trial.user_attrs["settings"],
        value=None if trial.state == TrialState.FAIL else trial.value,
        epochs=trial.user_attrs["epochs"],
        state=STATES[trial.state],
        error=trial.user_attrs.get("error"),
    )


def _searched(trials: list[Tried], space: Distributions, *, exhausted: bool) -> Searched:
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        what = f"all {len(trials)} trials failed, the first with: {trials[0].error}"
        raise TrainingError(what, mend="narrow tuning.space, or look for extreme values in the features")
    winner = max(complete, key=lambda trial: (trial.value, -trial.number))
    combinations = size(space)
    return Searched(
        space={name: json.loads(distribution_to_json(each))["attributes"] for name, each in space.items()},
        size=None if combinations == float("inf") else int(combinations),
        exhausted=exhausted,
        trials=trials,
        winner=winner,
        tuned={} if winner.number == 0 else _parts(winner.settings),
    )
