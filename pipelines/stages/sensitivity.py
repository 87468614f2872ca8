"""Stage `sensitivity@<dataset>-<encoder>-<model>`: metrics over BeFA's width lambda, and those of the learned one."""

import logging
import shutil
from pathlib import Path

from befa import config, tables
from befa.cells import Cell
from befa.devices import deterministic
from befa.evaluation import Evaluation, evaluate
from befa.paths import Layout
from befa.report.sensitivity import LEARNED, SensitivityConfig, draw, learned_lambdas, points, sentence, summary
from befa.resuming import Saved
from pipelines.fitting import train

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, layout: Layout, device: str = "cpu") -> None:
    """Trains a cell for each width, the learned one and the base, each with all seeds; writes JSON and a picture.

    What was reached, trainings that have ended among it, is saved beside the JSON until that is written: a killed run
    is taken up there.
    """
    params = config.read_params(layout.params)
    cells = points(params, config.load(params, "sensitivity", SensitivityConfig), dataset, encoder, model)
    into = layout.sensitivity(dataset, encoder, model)
    folder = layout.training(into.with_suffix(""))
    tables.check_writable(into.parent)
    found: dict[str | float, dict[int, Evaluation]] = {point: {} for point in cells}
    lambdas: dict[int, dict[str, float]] = {}
    total = sum(len(cell.training.seeds) for cell in cells.values())
    for point, cell in cells.items():
        deterministic(cell.training.threads)
        for seed in cell.training.seeds:
            number = 1 + sum(map(len, found.values()))
            what = f"{number} of {total}: {model} {f'lambda {point:g}' if isinstance(point, float) else point}"
            found[point][seed], learned = _result(
                layout, cell, seed, device, folder / f"{point}-{seed}.safetensors", what
            )
            if point == LEARNED:
                lambdas[seed] = learned
    result = summary(found, lambdas, cell.training.monitor)
    draw(into.with_suffix(".png"), result, f"{model} on {dataset}, {encoder}")
    tables.write_json(into, result)
    shutil.rmtree(into.with_suffix(""), ignore_errors=True)
    log.info("%s: %s", model, sentence(result))


def _result(
    layout: Layout, cell: Cell, seed: int, device: str, path: Path, what: str
) -> tuple[Evaluation, dict[str, float]]:
    """One training's metrics, and the lambdas that it learned."""
    model, problem, _ = train(layout, cell, seed, device, lambda made_of: Saved(path, made_of), what)
    return evaluate(model, problem, layout, cell), learned_lambdas(model)
