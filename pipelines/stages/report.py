"""Stage `report`: every table of the experiment as it stands, with what is missing, as HTML, Markdown and LaTeX."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from befa import config, tables
from befa.cell_names import Listed, cell_stage, listed
from befa.cells import Settings
from befa.paths import Layout
from befa.report import contents, rendering, results
from befa.report.experiment import Experiment
from befa.report.values import REPRO, Table
from pipelines import provenance
from pipelines.provenance import Provenance

log = logging.getLogger(__name__)

STUDIES: dict[str, tuple[str, str, Callable[..., Path]]] = {
    "attribution": ("attribute", "attribute", Layout.scores),
    "distribution": ("distributions", "distribution", Layout.distribution),
    "sensitivity": ("sensitivities", "sensitivity", Layout.sensitivity),
}
"""By kind (befa/report/study_tables.py): the block of pipelines/cells.yaml, the stage, and where its numbers are."""


def run(layout: Layout) -> None:
    """Writes data/reports/experiment/; looks at what is there and runs nothing."""
    with provenance.read() as graph:
        experiment = gathered(layout, graph)
        pictures = [*contents.gains_drawn(layout, experiment), *contents.pictures(layout, graph.state)]
        found = contents.tables(experiment)
        missing = _missing(found, graph)
    rendering.write(layout.experiment, found, pictures, missing)
    counts = Counter(state.status for state in experiment.states.values())
    log.info("%s", ", ".join(f"{count} cells {status}" for status, count in sorted(counts.items())))
    log.info("to look at: %s", layout.experiment / "report.html")


def _missing(found: Iterable[Table], graph: Provenance) -> dict[str, list[str]]:
    """The stages to be run, by that which comes first, in the order of the tables."""
    missing: dict[str, dict[str, None]] = {}
    for value in (value for table in found for value in table.values):
        if value.state.status == "unlisted":
            missing.setdefault("not in the graph", {})[value.command] = None
        elif value.state.status == "absent":
            # A gain's command has two cells, of which one may be there.
            for target in value.command.removeprefix(REPRO).split():
                state = graph.state(target)
                if state.status == "absent":
                    missing.setdefault(state.detail, {})[target] = None
    return {first: list(stages) for first, stages in missing.items()}


def gathered(layout: Layout, graph: Provenance, encoder: str | None = None) -> Experiment:
    """Every listed cell (of one encoder) with what it left, and how that stands to the project now."""
    lists = config.read_params(layout.cells)
    cells = {name: cell for name, cell in listed(lists).items() if encoder in (None, cell.encoder)}
    states = {
        name: graph.state(cell_stage("evaluate", cell.dataset, cell.encoder, cell.model, cell.adapter))
        for name, cell in cells.items()
    }
    found = {name: results.read(layout, cell) for name, cell in cells.items()}
    params = config.read_params(layout.params)
    datasets = config.block(params, "datasets")
    certificates = {dataset: layout.certificate(dataset) for dataset in datasets}
    return Experiment(
        cells=cells,
        results={name: result for name, result in found.items() if result},
        states=states,
        sizes={dataset: tables.read_json(path) for dataset, path in certificates.items() if path.exists()},
        filtered={dataset: graph.state(f"filter@{dataset}") for dataset in datasets},
        tuned=_tuned(params, cells.values()),
        studies=_studies(layout, lists, graph, encoder),
    )


def _studies(
    layout: Layout, lists: Mapping[str, Any], graph: Provenance, encoder: str | None
) -> dict[str, list[results.Study]]:
    """What the graph's stages find out about cells (of one encoder), made or not, by kind."""
    found: dict[str, list[results.Study]] = {}
    for kind, (block, stage, numbers) in STUDIES.items():
        for name, line in (lists.get(block) or {}).items():
            if encoder not in (None, line["encoder"]):
                continue
            path = numbers(layout, **line)
            measures = tables.read_json(path) if path.exists() else {}
            of = {"adapter": "befa", **line}  # a sensitivity is BeFA's, and its line has no adapter
            state = graph.state(f"{stage}@{name}")
            found.setdefault(kind, []).append(
                results.Study(**of, stage=f"{stage}@{name}", state=state, measures=measures)
            )
    return found


def _tuned(params: Mapping[str, Any], cells: Iterable[Listed]) -> dict[str, str]:
    """What tuning chose, in words, by cell."""
    found = {}
    for cell in cells:
        settings = Settings(params, cell.dataset, cell.encoder, cell.model, cell.adapter)
        if settings.searched:
            chosen = (f"{key} {value}" for part in asdict(settings.tuned).values() for key, value in part.items())
            found[cell.name] = ", ".join(chosen) or "the untuned settings are best"
    return found
