"""Stage `report`: every table of the experiment as it stands, with what is missing, as HTML, Markdown and LaTeX."""

import logging
from collections import Counter

from befa import config, tables
from befa.cells import listed
from befa.paths import Layout
from befa.report import contents, rendering, results
from befa.report.experiment import Experiment
from pipelines import provenance
from pipelines.provenance import Provenance

log = logging.getLogger(__name__)


def run(layout: Layout) -> None:
    """Writes data/reports/experiment/; looks at what is there and runs nothing."""
    with provenance.read() as graph:
        experiment = gathered(layout, graph)
    found, pictures = contents.tables(experiment), contents.pictures(layout)
    missing: dict[str, list[str]] = {}
    for cell, state in experiment.states.items():
        if state.status == "absent":
            missing.setdefault(state.detail, []).append(cell)
    rendering.write(layout.experiment, found, pictures, missing)
    counts = Counter(state.status for state in experiment.states.values())
    log.info("%s", ", ".join(f"{count} cells {status}" for status, count in sorted(counts.items())))
    log.info("to look at: %s", layout.experiment / "report.html")


def gathered(layout: Layout, graph: Provenance, encoder: str | None = None) -> Experiment:
    """Every listed cell (of one encoder) with what it left, and how that stands to the project now."""
    lists = config.read_params(layout.cells)
    cells = {name: cell for name, cell in listed(lists).items() if encoder in (None, cell.encoder)}
    controls = frozenset(lists.get("controls") or {})
    states = {name: graph.state(provenance.evaluation(name, controls)) for name in cells}
    found = {name: results.read(layout, cell) for name, cell in cells.items()}
    datasets = config.block(config.read_params(layout.params), "datasets")
    certificates = {dataset: layout.filtered(dataset) / "stats.json" for dataset in datasets}
    sizes = {dataset: tables.read_json(path) for dataset, path in certificates.items() if path.exists()}
    return Experiment(cells, controls, {name: result for name, result in found.items() if result}, states, sizes)
