"""Stage `tune@<dataset>-<encoder>-<model>-<adapter>`: equally many trials of a cell's and its base's settings."""

import logging
from hashlib import sha256

from befa import config, tables
from befa.cell_names import LEADERS, cell_name, host_name, listed
from befa.cells import Cell
from befa.devices import deterministic
from befa.errors import ConfigError, DataError
from befa.paths import Layout
from befa.progress import Progress
from befa.report.tuning import as_json, draw, sentence
from befa.training import Row
from befa.tuning import Searched, Tried, TuningConfig, Watch, search, with_tuned
from pipelines.imports import ROOT, closure
from pipelines.params_file import change
from pipelines.progress import progress

log = logging.getLogger(__name__)

BASE = "none"


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Searches the base, then the cell; writes all trials as JSON and as a picture, and adopts the winners."""
    params = config.read_params(layout.params)
    cfg = config.load(params, "tuning", TuningConfig)
    adapters = _adapters(adapter)
    cells = {each: (dataset, encoder, model, each) for each in adapters}
    for names in cells.values():
        _require_listed(layout, names)
        cfg.space.distributions(params, *names[2:])  # what is wrong with the adapted one is told before the base trains
    training = Cell.from_params(params, *cells[adapter]).training
    deterministic(training.threads)
    found = {}
    for each, names in cells.items():
        with progress(f"{model}+{each} trials") as report:
            watch = _Watch(report, cfg.trials, training.monitor)
            found[each] = search(layout, params, names, cfg, code=_code(model, each), device=device, watch=watch)
        log.info("%s+%s: %s", model, each, sentence(found[each], training.monitor))
    _write(layout, cells[adapter], found, cfg, training.monitor, training.seeds[0])
    adopt(dataset, encoder, model, adapter, layout)


def adopt(dataset: str, encoder: str, model: str, adapter: str, layout: Layout) -> None:
    """Writes a tuning's winners into params.yaml: of the cell, and of the cell without adapter. Their controls follow.

    Raises DataError where the cell has not been tuned, ConfigError where it is not listed, or a winner does not fit.
    """
    path = layout.tuning(dataset, encoder, model, adapter)
    if not path.exists():
        name = cell_name(dataset, encoder, model, adapter)
        raise DataError("the cell has not been tuned", where=path, mend=f"run dvc repro tune@{name}, or dvc pull it")
    studies, params = tables.read_json(path)["studies"], config.read_params(layout.params)
    edits = {}
    for each in _adapters(adapter):
        names = (dataset, encoder, model, each)
        _require_listed(layout, names)
        Cell.from_params(with_tuned(params, names, studies[each]["tuned"]), *names)
        edits["tuned", host_name(*names[:3]), each] = studies[each]["tuned"]
    change(layout.params, edits)
    log.info("%s: `tuned` of %s", layout.params, ", ".join(f"{host}, {each}" for _, host, each in edits))


class _Watch(Watch):
    """Shows trials as they end, and how the one under way is doing."""

    def __init__(self, report: Progress, trials: int, monitor: str) -> None:
        self._report, self._trials, self._monitor = report, trials, monitor
        self._done, self._best = 0, ""

    def epoch(self, number: int, row: Row, best: Row) -> None:
        """See the class."""
        now = f"trial {number}, epoch {row['epoch']}: {self._monitor} {best[self._monitor]:.4f}"
        self._report(self._done, self._trials, f"{now}{self._best}")

    def trial(self, done: list[Tried]) -> None:
        """See the class."""
        self._done = len(done)
        complete = [trial.value for trial in done if trial.state == "complete"]
        self._best = f"; best {max(complete):.4f}" if complete else ""
        self._report(self._done, self._trials, self._best.removeprefix("; "))


def _adapters(adapter: str) -> tuple[str, ...]:
    """Base and adapted. Raises ConfigError for a control."""
    if adapter in LEADERS:
        what = f"{adapter} is a control: it has the settings of {LEADERS[adapter]}"
        raise ConfigError(what, mend=f"tune the cell with the adapter {LEADERS[adapter]}")
    return tuple(dict.fromkeys((BASE, adapter)))


def _require_listed(layout: Layout, names: tuple[str, str, str, str]) -> None:
    """Raises ConfigError where pipelines/cells.yaml does not list the cell: nothing would use its winner."""
    if cell_name(*names) not in listed(config.read_params(layout.cells)):
        dataset, encoder, model, adapter = names
        mend = f"python -m pipelines add-cells {dataset} {encoder} --model {model} --adapter {adapter}"
        raise ConfigError(f"no cell {cell_name(*names)}", where=layout.cells, mend=mend)


def _code(model: str, adapter: str) -> str:
    """SHA-256 of the code that a trial runs: an edit of anything else goes on with the trials that there are."""
    digest = sha256()
    for file in sorted(closure("befa/tuning.py", {"model": model, "adapter": adapter})):
        digest.update(f"{file}\n".encode() + (ROOT / file).read_bytes())
    return digest.hexdigest()


def _write(
    layout: Layout,
    names: tuple[str, str, str, str],
    found: dict[str, Searched],
    cfg: TuningConfig,
    monitor: str,
    seed: int,
) -> None:
    """The JSON last: where it stands, the picture is of the same trials."""
    path = layout.tuning(*names)
    draw(path.with_suffix(".png"), found, monitor)
    tables.write_json(path, as_json(found, cfg, monitor, seed))
