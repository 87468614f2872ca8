"""What the paper leaves open: how much of a gain is content, and whether it stands out of the noise."""

from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace

from befa import significance
from befa.cell_names import Listed, cell_name
from befa.errors import DataError
from befa.report.experiment import NAMES, Experiment, starred
from befa.report.paper_tables import OWN_FAMILY, RIVALS
from befa.report.published import HOSTS, PAPER_METRICS
from befa.report.values import Row, Table, Value
from befa.significance import Comparison

METRIC = "recall@20"
"""The one that training is stopped by, unless params.yaml says otherwise."""
OVER_BASE = {
    "befa": "BeFA",
    "constant_gate": "constant gate",
    "random_features": "random features",
    "shuffled_features": "shuffled features",
    "learned_width": "learned λ",
}
COMPARED = [
    *((adapter, "none") for adapter in OVER_BASE),
    ("befa", "constant_gate"),
    ("befa_fixed", "none_fixed"),
    ("none", "none_fixed"),
]
"""Adapter and what it is compared with."""
LACKING = tuple(sorted({adapter for pair in COMPARED for adapter in pair} - {"none", "befa"}))
"""The adapters that show what BeFA's parts are worth."""
GAINING = ("befa", *LACKING)
"""Where one of them is listed, the others are wanted."""
ELSEWHERE = ("none", *RIVALS, *GAINING)
"""Adapters of the paper's hosts that have their place in other tables."""
BASE_OF = {"befa_fixed": "none_fixed"}
"""What an adapter's gain is over, where it is not `none`."""
TESTED = ("gain", "95 % interval", "t", "Wilcoxon", "t", "Wilcoxon", "users", "seeds")


def controls(experiment: Experiment, encoder: str) -> Table:
    """Gains of BeFA beside those of what lacks one part of it."""
    datasets = experiment.datasets(encoder, *GAINING)
    gains = {pair: experiment.gains("controls", encoder, datasets, *pair, (METRIC,)) for pair in COMPARED}
    rows = [
        Row(f"{d} {NAMES[m]}", tuple(gains[pair][d, m, METRIC] for pair in COMPARED), last=m == HOSTS[-1])
        for d in datasets
        for m in HOSTS
    ]
    note = (
        f"Gains in {METRIC}, means over seeds. Constant gate: BeFA on ones in place of content. Random, shuffled "
        "features: BeFA, and the host, on numbers that say nothing, or on other items' features. What BeFA has over "
        "the constant gate is content, or the chance of another training: look at the seeds, and in Distribution "
        "whether its gate tells items apart (one that does not heeds no content). What the constant gate has over the "
        "base is the gated id. Fixed tables: features "
        "that training does not change. Learned λ: BeFA that learns its width. "
        + significance.legend("the comparisons of its dataset in its column")
        + OWN_FAMILY
    )
    groups = (("over the base", len(OVER_BASE)), ("over constant gate", 1), ("over the base, fixed tables", 2))
    columns = (*OVER_BASE.values(), "BeFA", "BeFA, fixed tables", "base, trained tables")
    title = f"Controls: how much of a gain is content? {encoder} features"
    return Table(f"controls-{encoder}", title, note, groups, columns, tuple(rows))


def others_of(experiment: Experiment, encoder: str) -> list[Listed]:
    """Cells that no table before has: of models beside the paper's four hosts, and of adapters of one's own."""
    of_encoder = [cell for cell in experiment.cells.values() if cell.encoder == encoder]
    return [cell for cell in of_encoder if cell.model not in HOSTS or cell.adapter not in ELSEWHERE]


def others(experiment: Experiment, encoder: str) -> Table:
    """What a gain would have to be worth against a simpler model, and adapters of one's own in the paper's hosts."""
    cells = others_of(experiment, encoder)
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    columns = [(dataset, metric) for dataset in datasets for metric in PAPER_METRICS]
    models: dict[str, dict[str, None]] = {}  # their adapters, each once
    for cell in cells:
        base = BASE_OF.get(cell.adapter, "none")
        if any(cell_name(d, encoder, cell.model, base) in experiment.cells for d in datasets):
            models.setdefault(cell.model, {})[base] = None  # of the paper's hosts, too: what a gain is over
        models.setdefault(cell.model, {})[cell.adapter] = None
    adapted = [(m, a) for m, of in models.items() for a in of if a != "none" and BASE_OF.get(a, "none") in of]
    gains = _gains_of_others(experiment, encoder, adapted, columns)
    rows = []
    for model, adapters in models.items():
        for adapter in adapters:
            label = NAMES.get(model, model) + ("" if adapter == "none" else f" +{OVER_BASE.get(adapter, adapter)}")
            values = tuple(experiment.metric("others", d, encoder, model, adapter, metric) for d, metric in columns)
            rows.append(Row(label, values))
            if (model, adapter) in gains:
                rows.append(Row("gain", tuple(gains[model, adapter])))
        rows[-1] = replace(rows[-1], last=True)
    note = (
        "Test part; mean ± sample standard deviation over seeds where there are several. LATTICE (released) is the "
        "host in BeFA's published code. VBPR has no graph, LightGCN and BPR-MF no content, ItemKNN (neighbours by "
        "content) no training. Gain: of the adapter above it over the base (of fixed tables over the base with "
        "fixed tables). " + significance.legend("the gains of its adapter and dataset in this table")
    )
    title, groups = f"Other models and adapters, {encoder} features", tuple((d, len(PAPER_METRICS)) for d in datasets)
    return Table(f"others-{encoder}", title, note, groups, PAPER_METRICS * len(datasets), tuple(rows))


def _gains_of_others(
    experiment: Experiment, encoder: str, adapted: Sequence[tuple[str, str]], columns: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[Value]]:
    """By model and adapter, for each column (dataset, metric)."""
    keys = [(model, adapter, *column) for model, adapter in adapted for column in columns]
    gains = [
        experiment.gain("others", (dataset, encoder, model), adapter, BASE_OF.get(adapter, "none"), metric)
        for model, adapter, dataset, metric in keys
    ]
    found: dict[tuple[str, str], list[Value]] = {pair: [] for pair in adapted}
    # By adapter: what BeFA's stars say must not depend on which of one's own are listed beside it.
    families = [(adapter, dataset) for _, adapter, dataset, _ in keys]
    for (model, adapter, *_), gain in zip(keys, starred(gains, families), strict=True):
        found[model, adapter].append(gain)
    return found


def tests(experiment: Experiment) -> Table:
    """Every base with its +BeFA, tested over users and over seeds."""
    cells = [cell for cell in experiment.cells.values() if cell.adapter == "befa"]
    gains = [experiment.gain("significance", (c.dataset, c.encoder, c.model), "befa", "none", METRIC) for c in cells]
    found = [_compared(experiment, cell) for cell in cells]
    families = [(cell.dataset, cell.encoder) for cell in cells]
    corrected = zip(*(_corrected(families, found, which) for which in range(4)), strict=True)
    rows = []
    for cell, gain, comparison, p_values in zip(cells, gains, found, corrected, strict=True):
        name = f"significance/{cell.dataset}/{cell.encoder}/{cell.model}+befa"
        stem = replace(gain, form="text", ours=None, published=None, source="", seeds=0, interval=None, p=None)
        values = [replace(stem, name=f"{name}/gain", form="gain", ours=gain.ours)]
        keys = ("interval", "users-t", "users-wilcoxon", "seeds-t", "seeds-wilcoxon", "users", "seeds")
        texts = [None] * len(keys) if comparison is None else _texts(comparison, p_values)
        values += [replace(stem, name=f"{name}/{k}", ours=v) for k, v in zip(keys, texts, strict=True)]
        rows.append(Row(f"{cell.dataset} {cell.encoder} {NAMES.get(cell.model, cell.model)}", tuple(values), last=True))
    note = (
        f"+BeFA against base in {METRIC}. Interval: bootstrap over users. p of paired t-tests and of Wilcoxon's "
        "signed-rank tests, over users (of each, the mean over the seeds) and over the seeds' means; each of the four "
        "is corrected by Holm's method over the rows of its dataset and encoder, those that have yet to be run "
        "included. Over seeds Wilcoxon's test needs 6 of them to reach 0.05 before the correction, and 8 after that "
        "over four rows."
    )
    groups = (("", 2), ("p over users", 2), ("p over seeds", 2), ("", 2))
    return Table("significance", "Do BeFA's gains stand out of the noise?", note, groups, TESTED, tuple(rows))


def _compared(experiment: Experiment, cell: Listed) -> Comparison | None:
    """A cell with its base; None where one has no result, or was evaluated on another test (its gain says which)."""
    base = cell_name(cell.dataset, cell.encoder, cell.model, "none")
    if not {base, cell.name} <= experiment.results.keys():
        return None
    with suppress(DataError):
        return experiment.compared(base, cell.name, METRIC)
    return None


def _corrected(families: Sequence[Hashable], found: Sequence[Comparison | None], which: int) -> Sequence[float | None]:
    """One of the four p-values of each, after Holm; a comparison that has yet to be run counts as one of nothing."""
    p_values = [
        1.0 if c is None else (c.over_users.t, c.over_users.wilcoxon, c.over_seeds.t, c.over_seeds.wilcoxon)[which]
        for c in found
    ]
    return significance.holm_within(families, p_values)


def _texts(comparison: Comparison, p_values: Sequence[float | None]) -> list[str]:
    """Interval, the four p-values, and how many users and seeds."""
    interval = comparison.gain_interval
    shown = "–" if interval is None else f"{interval[0]:+.1%} to {interval[1]:+.1%}"
    return [shown, *map(_p, p_values), f"{comparison.users:,}", str(len(comparison.seeds))]


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
