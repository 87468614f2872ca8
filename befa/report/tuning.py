"""What tuning tried and what won, without and with an adapter: as JSON, in a sentence, and as a picture."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from befa import figures
from befa.tuning import Searched, Tried, TuningConfig

COLOURS = ("#0072b2", "#d55e00")
"""Without and with adapter: two that every kind of sight tells apart."""


def as_json(found: Mapping[str, Searched], cfg: TuningConfig, monitor: str, seed: int) -> dict[str, Any]:
    """All trials of all studies of `found`, which is by adapter, and the budget that each had.

    `monitor`: the validation metric that chose; `seed`: of the trainings.
    """
    budget = {"trials": cfg.trials, "sampler": cfg.sampler, "seed": cfg.seed, "pruning": cfg.pruning}
    studies = {
        adapter: {
            "space": searched.space,
            "combinations": searched.size,
            "winner": searched.winner.number,
            "tuned": searched.tuned,
            "trials": [asdict(trial) for trial in searched.trials],
        }
        for adapter, searched in found.items()
    }
    return {"monitor": monitor, "training_seed": seed, "budget": budget, "studies": studies}


def sentence(searched: Searched, monitor: str) -> str:
    """What won, and by how much over the untuned settings."""
    winner, default = searched.winner, searched.trials[0].value
    value = f"{monitor} {winner.value:.4f} on validation"
    settings = ", ".join(f"{name} {given}" for name, given in winner.settings.items())
    ended = [trial.state for trial in searched.trials]
    told = [f"{count} {state}" for state in ("pruned", "failed") if (count := ended.count(state))]
    trials = f"{len(ended)} trials" + (f" ({', '.join(told)})" if told else "")
    if searched.exhausted:
        trials += ", all that there are"
    if winner.number == 0:
        return f"of {trials}, none beats the untuned settings: {value} ({settings})"
    gain = "the untuned settings failed"
    if default is not None:
        over = f", {winner.value / default - 1:+.1%}" if default else ""
        gain = f"untuned {default:.4f}{over}"
    return f"of {trials}, trial {winner.number} wins: {value}, {gain} ({settings})"


def draw(path: Path, found: Mapping[str, Searched], monitor: str) -> None:
    """Each trial as a dot, and the best value up to it as a line, by adapter. PNG; same input, same bytes."""
    from matplotlib.figure import Figure  # here: it takes half a second to load

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    for colour, (adapter, searched) in zip(COLOURS, found.items(), strict=False):
        best = np.fmax.accumulate([_complete(trial) for trial in searched.trials])
        name = "without adapter" if adapter == "none" else f"with {adapter}"
        axis.step(range(len(best)), best, where="post", color=colour, linewidth=1.5, label=f"best so far, {name}")
        for state, face in (("complete", colour), ("pruned", "none")):
            dots = [(trial.number, trial.value) for trial in searched.trials if trial.state == state]
            if dots:
                axis.scatter(*zip(*dots, strict=True), s=28, facecolors=face, edgecolors=colour)
        winner = searched.winner
        axis.scatter([winner.number], [winner.value], s=130, marker="*", color=colour, edgecolors="black", zorder=3)
    _legend(figure, axis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trial (0: untuned)")
    axis.set_ylabel(f"{monitor} on validation")
    figures.save(figure, path, dpi=150)


def _complete(trial: Tried) -> float:
    return trial.value if trial.state == "complete" else np.nan


def _legend(figure: Any, axis: Any) -> None:
    """The lines, and what a dot's form means."""
    grey = {"color": "grey", "linestyle": ""}
    axis.plot([], [], marker="o", label="trial", **grey)
    axis.plot([], [], marker="o", markerfacecolor="none", label="pruned trial, until then", **grey)
    axis.plot([], [], marker="*", markersize=11, label="winner", **grey)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
