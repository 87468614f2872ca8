"""What the report holds, in its order."""

from befa.paths import Layout
from befa.report import evidence_tables, paper_tables
from befa.report.experiment import Experiment
from befa.report.paper_tables import RIVALS
from befa.report.rendering import Picture
from befa.report.values import Table


def tables(experiment: Experiment) -> list[Table]:
    """The paper's tables, each encoder's in turn, then the controls and the tests."""
    encoders = experiment.encoders
    with_befa = [encoder for encoder in encoders if experiment.datasets(encoder, "befa")]
    with_rivals = [encoder for encoder in encoders if experiment.datasets(encoder, *RIVALS)]
    with_controls = [e for e in encoders if experiment.datasets(e, *evidence_tables.LACKING)]
    return [
        paper_tables.table_1(experiment),
        *(paper_tables.table_2(experiment, encoder) for encoder in with_befa),
        *(paper_tables.table_3(experiment, encoder) for encoder in with_rivals),
        *(paper_tables.table_4(experiment, encoder) for encoder in with_rivals),
        *(evidence_tables.controls(experiment, encoder) for encoder in with_controls),
        evidence_tables.tests(experiment),
    ]


def pictures(layout: Layout) -> list[Picture]:
    """Those that their stages have made: sensitivity, distribution, heatmaps."""
    found = []
    for path in sorted(layout.reports.glob("*/*/sensitivity/*.png")):
        dataset, encoder = path.parts[-4:-2]
        command = f"dvc repro sensitivity@{dataset}-{encoder}-{path.stem}"
        found.append(Picture(f"Sensitivity to λ (Figure 10): {path.stem} on {dataset}, {encoder}", path, command))
    for path in sorted(layout.reports.glob("*/*/distribution/*.png")):
        dataset, encoder = path.parts[-4:-2]
        command = f"dvc repro distribution@{dataset}-{encoder}-{path.stem}"
        found.append(
            Picture(f"Distribution of features (Figure 9): {path.stem} on {dataset}, {encoder}", path, command)
        )
    for path in sorted(layout.heatmaps):
        cell = "-".join(path.parts[-5:-1])
        found.append(
            Picture(f"Where pictures speak for behaviour (Figures 6 to 8): {cell}", path, f"dvc repro attribute@{cell}")
        )
    for path in layout.tunings:
        cell = "-".join([*path.parts[-4:-1], path.stem])
        found.append(Picture(f"Tuning, base and adapted: {cell}", path, f"dvc repro tune@{cell}"))
    return found
