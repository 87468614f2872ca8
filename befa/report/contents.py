"""What the report holds, in its order."""

from collections.abc import Callable
from typing import Literal

from befa.paths import Layout
from befa.report import evidence_tables, gains, paper_tables, study_tables
from befa.report.experiment import Experiment
from befa.report.paper_tables import RIVALS
from befa.report.rendering import Picture
from befa.report.values import REPRO, State, Table, together

DRAWN: dict[Literal["sensitivity", "distribution", "attribute", "tune"], str] = {
    "sensitivity": "Sensitivity to λ (Figure 10)",
    "distribution": "Distribution of features (Figure 9)",
    "attribute": "Where pictures speak for behaviour (Figures 6 to 8)",
    "tune": "Tuning, base and adapted",
}
"""Stages whose pictures the report shows, and what it calls them."""


def tables(experiment: Experiment) -> list[Table]:
    """The paper's tables, each encoder's in turn; then other models, controls, tests, and the paper's figures."""
    encoders = experiment.encoders
    with_befa = [encoder for encoder in encoders if experiment.datasets(encoder, "befa")]
    with_rivals = [encoder for encoder in encoders if experiment.datasets(encoder, *RIVALS)]
    with_others = [encoder for encoder in encoders if evidence_tables.others_of(experiment, encoder)]
    return [
        paper_tables.table_1(experiment),
        *(paper_tables.table_2(experiment, encoder) for encoder in with_befa),
        *(paper_tables.table_3(experiment, encoder) for encoder in with_rivals),
        *(paper_tables.table_4(experiment, encoder) for encoder in with_rivals),
        *(evidence_tables.others(experiment, encoder) for encoder in with_others),
        *(
            evidence_tables.controls(experiment, encoder)
            for encoder in encoders
            if experiment.datasets(encoder, *evidence_tables.GAINING)
        ),
        evidence_tables.tests(experiment),
        *(
            table(experiment, encoder)
            for kind, table in study_tables.TABLES
            for encoder in encoders
            if any(study.encoder == encoder for study in experiment.studies.get(kind, ()))
        ),
    ]


def gains_drawn(layout: Layout, experiment: Experiment) -> list[Picture]:
    """What BeFA and its controls gain, drawn beside the report, for every encoder that has any of it."""
    drawn = []
    for encoder in experiment.encoders:
        found = gains.found(experiment, encoder)
        if found:
            path = layout.experiment / f"gains-{encoder}.png"
            gains.draw(path, found, encoder)
            state, _ = together(*found.values())  # what makes each gain stands in the tables
            drawn.append(Picture(f"Is it content that gains? {encoder} features", path, f"{REPRO}report", state))
    return drawn


def pictures(layout: Layout, state: Callable[[str], State]) -> list[Picture]:
    """Those that their stages have made; `state` is told of a stage."""
    return [
        Picture(f"{title}: {of}", path, f"{REPRO}{stage}@{of}", state(f"{stage}@{of}"))
        for stage, title in DRAWN.items()
        for of, path in layout.pictures(stage).items()
    ]
