"""What BeFA gains over its base, beside its controls and the paper's gain: one picture an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from befa import figures
from befa.report.evidence_tables import METRIC, OVER_BASE
from befa.report.experiment import NAMES, Experiment
from befa.report.published import HOSTS
from befa.report.values import Value

Key = tuple[str, str, str]
"""Dataset, model, adapter."""

MARKS = {
    "befa": ("#08519c", "o"),
    "constant_gate": ("#d95f02", "s"),
    "random_features": ("#636363", "v"),
    "shuffled_features": ("#969696", "^"),
}
"""Colour and marker of each adapter that is drawn, from the top of a model's lines to their end."""


def found(experiment: Experiment, encoder: str) -> dict[Key, Value]:
    """The gains over the base that there are, in the order of the tables; the paper's hosts first."""
    cells = [cell for cell in experiment.cells.values() if cell.encoder == encoder]
    models = [*HOSTS, *sorted({cell.model for cell in cells} - set(HOSTS))]
    gains = {
        (dataset, model, adapter): experiment.gain("table2", (dataset, encoder, model), adapter, "none", METRIC)
        for dataset in experiment.datasets(encoder, *MARKS)
        for model in models
        for adapter in MARKS
    }
    return {key: gain for key, gain in gains.items() if gain.ours is not None}


def draw(path: Path, gains: Mapping[Key, Value], encoder: str) -> None:
    """A panel a dataset, a block of lines a model; whiskers are 95 % intervals over users, crosses the paper's gains.

    `gains`: see `found`, one at least. PNG; same input, same bytes.
    """
    from matplotlib.figure import Figure  # here: it takes half a second to load
    from matplotlib.ticker import PercentFormatter

    datasets = list(dict.fromkeys(dataset for dataset, _, _ in gains))
    models = list(dict.fromkeys(model for _, model, _ in gains))
    figure = Figure(figsize=(1.8 + 3.8 * len(datasets), 1.6 + 0.75 * len(models)), layout="constrained")
    figure.suptitle(f"Gain over the base in {METRIC}, {encoder} features; whiskers: 95 % over users", fontsize=9)
    panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for axis, dataset in zip(panels, datasets, strict=True):
        of = {(model, adapter): gain for (d, model, adapter), gain in gains.items() if d == dataset}
        _panel(axis, of, models)
        axis.set_title(f"{dataset}, {_seeds(of)}", fontsize=9)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_yticks(range(len(models)), [NAMES.get(model, model) for model in models], fontsize=9)
    panels[0].set_ylim(len(models) - 0.5, -0.5)  # the first on top
    handles = {
        label: handle for axis in panels for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figures.save(figure, path, dpi=150)


def _panel(axis: Any, gains: Mapping[tuple[str, str], Value], models: list[str]) -> None:
    axis.axvline(0, color="black", linewidth=0.8)
    for place in range(1, len(models)):
        axis.axhline(place - 0.5, color="#dddddd", linewidth=0.8)
    for line, (adapter, (colour, marker)) in enumerate(MARKS.items()):
        of = {models.index(model): gain for (model, one), gain in gains.items() if one == adapter}
        if not of:
            continue
        heights = [place + 0.2 * (line - (len(MARKS) - 1) / 2) for place in of]
        for height, gain in zip(heights, of.values(), strict=True):
            if gain.interval is not None:
                axis.hlines(height, *gain.interval, color=colour, linewidth=1.2)
        values = [gain.ours for gain in of.values()]
        axis.plot(
            values, heights, color=colour, marker=marker, markersize=5, linestyle="none", label=OVER_BASE[adapter]
        )
        papers = [
            (gain.published, at) for at, gain in zip(heights, of.values(), strict=True) if gain.published is not None
        ]
        if papers:
            axis.plot(*zip(*papers, strict=True), "x", color="black", markersize=6, label="BeFA in the paper")
    axis.tick_params(axis="x", labelsize=8)


def _seeds(gains: Mapping[tuple[str, str], Value]) -> str:
    counts = sorted({gain.seeds for gain in gains.values()})
    return "one seed" if counts == [1] else f"{' or '.join(map(str, counts))} seeds"
