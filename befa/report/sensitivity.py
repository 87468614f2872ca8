"""How much BeFA's width matters, and what is learned of it: Figure 10 of arXiv 2406.00323, and its future work."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from torch import nn

from befa import config, figures
from befa.adapters.learned_width import LearnedWidth, LearnedWidthConfig
from befa.cells import Cell
from befa.config import configuration
from befa.errors import ConfigError
from befa.evaluation import Evaluation, over_seeds

BASE, LEARNED = "base", "learned"
"""Points that are no width."""


def _rising(widths: tuple[float, ...]) -> tuple[float, ...]:
    if list(widths) != sorted(set(widths)):
        raise ValueError("widths do not rise")
    return widths


@configuration
class SensitivityConfig:
    """Block `sensitivity` of params.yaml."""

    widths: Annotated[tuple[Annotated[float, Field(gt=0, le=1024)], ...], Field(min_length=1), AfterValidator(_rising)]
    """Values of lambda, rising. The paper's: 0.125, 0.25, 0.5, 1, 2, 4, 8."""
    learned: bool = True
    """Whether the width is also learned (the adapter `learned_width`)."""


def points(
    params: Mapping[str, Any], cfg: SensitivityConfig, dataset: str, encoder: str, model: str
) -> dict[str | float, Cell]:
    """The cells to train: `BASE`, `LEARNED` where wanted, and one for each width.

    A width's cell is the +BeFA cell of params.yaml, with what was tuned for it, in everything else; that of the learned
    width has that cell's model, optimiser and dropout, and `adapters.learned_width` for what BeFA does not have. The
    base is the cell without adapter, with what was tuned for that. The learned width is of the `released` network,
    whatever variant the cell has.
    """
    adapted = Cell.from_params(params, dataset, encoder, model, "befa")
    found: dict[str | float, Cell] = {BASE: Cell.from_params(params, dataset, encoder, model, "none")}
    if cfg.learned:
        own = config.load(params, "adapters.learned_width", LearnedWidthConfig)
        learning = replace(own, dropout=adapted.adaptation.dropout)
        found[LEARNED] = replace(adapted, adapter="learned_width", adaptation=learning)
    for width in cfg.widths:
        found[width] = replace(adapted, adaptation=replace(adapted.adaptation, width=width))
    return found


def learned_lambdas(model: nn.Module) -> dict[str, float]:
    """The lambda of each modality. Raises ConfigError for a model that takes no adapter."""
    if not getattr(model, "towers", None):
        raise ConfigError("the model makes no content", mend="choose one with content, such as bm3")
    adapters = {modality: tower.adapter for modality, tower in model.towers.items()}
    return {modality: one.learned_lambda for modality, one in adapters.items() if isinstance(one, LearnedWidth)}


def summary(
    found: Mapping[str | float, Mapping[int, Evaluation]], lambdas: Mapping[int, Mapping[str, float]], metric: str
) -> dict[str, Any]:
    """What is found, by point and seed, as JSON.

    `base`, `learned` and each of `widths` hold the metrics of `befa.evaluation.over_seeds`. `best` is the width with
    the highest `metric` on the validation part (the smallest of equals); its test value had no say in that.
    `gap` is best less learned. `lambda` of `learned`, by modality, is the mean over seeds; `lambdas` are each one's.
    """
    metrics = {point: over_seeds(results).metrics for point, results in found.items()}
    widths = [{"lambda": point, **of} for point, of in metrics.items() if point not in (BASE, LEARNED)]
    top = max(widths, key=lambda one: one["valid"][metric])
    best = {"lambda": top["lambda"], "picked_on": "valid", **_values(top, metric)}
    learned = gap = None
    if LEARNED in metrics:
        modalities = next(iter(lambdas.values()))
        means = {modality: fmean(of[modality] for of in lambdas.values()) for modality in modalities}
        each = {str(seed): dict(of) for seed, of in lambdas.items()}
        learned = {"lambda": means, "lambdas": each, **metrics[LEARNED]}
        gap = {part: value - learned[part][metric] for part, value in _values(top, metric).items()}
    return {"metric": metric, "base": metrics[BASE], "widths": widths, "learned": learned, "best": best, "gap": gap}


def _values(metrics: Mapping[str, Any], metric: str) -> dict[str, float]:
    return {part: metrics[part][metric] for part in ("valid", "test")}


def sentence(found: Mapping[str, Any]) -> str:
    """Best of the grid, learned lambda and their gap, in words."""
    best = found["best"]
    told = f"best on validation: \N{GREEK SMALL LETTER LAMDA} = {best['lambda']:g}, test {best['test']:.4f}"
    if found["learned"] is None:
        return told
    learned = ", ".join(f"{value:.2f} ({modality})" for modality, value in found["learned"]["lambda"].items())
    value, gap = found["learned"]["test"][found["metric"]], found["gap"]["test"]
    return f"{told}; learned: {learned}, test {value:.4f}, {0 - gap:+.4f} beside it"


def draw(path: Path, found: Mapping[str, Any], title: str) -> None:
    """`metric` over lambda, on validation, where the best is picked, and on test; whiskers are deviations over seeds.

    `found` is a `summary`. The learned width stands at the lambda of each modality. PNG; same input, same bytes.
    """
    from matplotlib.figure import Figure  # here: it takes half a second to load

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle(f"{title}, {_count(found)}\n{sentence(found)}", fontsize=9)
    for axis, (part, name) in zip(figure.subplots(1, 2), {"valid": "validation", "test": "test"}.items(), strict=True):
        _panel(axis, found, part)
        axis.set_title(name, fontsize=9)
        axis.set_ylabel(found["metric"], fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figures.save(figure, path, dpi=150)


def _panel(axis: Any, found: Mapping[str, Any], part: str) -> None:
    metric, best = found["metric"], found["best"]
    at = [one["lambda"] for one in found["widths"]]
    axis.set_xscale("log", base=2)
    base, spread = _mean_and_deviation(found["base"], part, metric)
    axis.axhline(base, color="black", linestyle="--", linewidth=1, label="no adapter")
    axis.axhspan(base - spread, base + spread, color="black", alpha=0.08, linewidth=0)
    values, spreads = zip(*(_mean_and_deviation(one, part, metric) for one in found["widths"]), strict=True)
    caps = 3 if "deviation" in found["base"] else 0
    axis.errorbar(at, values, yerr=spreads, color="#08519c", marker="o", markersize=4, capsize=caps, label="BeFA")
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": "#08519c", "linestyle": "none"}
    axis.plot([best["lambda"]], [best[part]], marker="o", label="best on validation", **ring)
    if found["learned"] is not None:
        value, spread = _mean_and_deviation(found["learned"], part, metric)
        for marker, (modality, width) in zip("^sDvP" * 9, found["learned"]["lambda"].items(), strict=False):
            axis.errorbar(
                [width], [value], yerr=[spread], color="#d95f02", marker=marker, markersize=8, linestyle="none",
                capsize=caps, markerfacecolor="none", markeredgewidth=1.5, label=f"learned, {modality}",
            )  # fmt: skip
    axis.set_xticks(at, [f"{width:g}" for width in at], minor=False)
    axis.set_xlabel("\N{GREEK SMALL LETTER LAMDA}: width over the host's", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.minorticks_off()


def _mean_and_deviation(metrics: Mapping[str, Any], part: str, metric: str) -> tuple[float, float]:
    deviation = metrics["deviation"][part][metric] if "deviation" in metrics else 0.0
    return metrics[part][metric], deviation


def _count(found: Mapping[str, Any]) -> str:
    seeds = len(found["base"]["seeds"])
    return "1 seed" if seeds == 1 else f"{seeds} seeds"
