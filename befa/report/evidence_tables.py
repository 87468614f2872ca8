"""What the paper leaves open: how much of a gain is content, and whether it stands out of the noise."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from befa import significance
from befa.cells import Listed, cell_name
from befa.errors import DataError
from befa.report.experiment import HOSTS, METRICS, NAMES, Experiment, starred
from befa.report.paper_tables import OWN_FAMILY, RIVALS
from befa.report.values import Row, Table, Value, made_of

METRIC = "recall@20"
"""The one that training is stopped by."""
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
        "the constant gate is content; what that gate has over the base is the gated id. Fixed tables: features "
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
    columns = [(dataset, metric) for dataset in datasets for metric in METRICS]
    models: dict[str, list[str]] = {}
    for cell in cells:
        if cell.adapter not in models.setdefault(cell.model, []):
            models[cell.model].append(cell.adapter)
    gains = _gains_of_others(experiment, encoder, [m for m, of in models.items() if {"none", "befa"} <= {*of}], columns)
    rows = []
    for model, adapters in models.items():
        for adapter in adapters:
            label = NAMES.get(model, model) + ("" if adapter == "none" else f" +{OVER_BASE.get(adapter, adapter)}")
            values = tuple(experiment.metric("others", d, encoder, model, adapter, metric) for d, metric in columns)
            rows.append(Row(label, values, last=adapter == adapters[-1] and model not in gains))
        if model in gains:
            rows.append(Row("gain", tuple(gains[model]), last=True))
    note = (
        "Test part; mean ± sample standard deviation over seeds where there are several. LATTICE (released) is the "
        "host in BeFA's published code. VBPR has no graph, LightGCN and BPR-MF no content, ItemKNN (neighbours by "
        "content) no training. Gain: of BeFA over the base. "
        + significance.legend("the gains of its dataset in this table")
    )
    title, groups = f"Other models and adapters, {encoder} features", tuple((d, len(METRICS)) for d in datasets)
    return Table(f"others-{encoder}", title, note, groups, METRICS * len(datasets), tuple(rows))


def _gains_of_others(
    experiment: Experiment, encoder: str, models: Sequence[str], columns: Sequence[tuple[str, str]]
) -> dict[str, list[Value]]:
    """BeFA's, by model, for each column (dataset, metric)."""
    keys = [(model, *column) for model in models for column in columns]
    gains = [experiment.gain("others", (d, encoder, model), "befa", "none", metric) for model, d, metric in keys]
    found: dict[str, list[Value]] = {model: [] for model in models}
    for (model, _, _), gain in zip(keys, starred(gains, [dataset for _, dataset, _ in keys]), strict=True):
        found[model].append(gain)
    return found


def tests(experiment: Experiment) -> Table:
    """Every base with its +BeFA, tested over users and over seeds."""
    pairs, found = [], []
    for cell in experiment.cells.values():
        base = cell_name(cell.dataset, cell.encoder, cell.model, "none")
        if cell.adapter == "befa" and {base, cell.name} <= experiment.results.keys():
            experiment.per_user(base, cell.name)  # a broken file is an error, other users are not
            with suppress(DataError):  # evaluated on other users: its gain in Table 2 says so
                found.append(experiment.compared(base, cell.name, METRIC))
                pairs.append(cell)
    families = [(cell.dataset, cell.encoder) for cell in pairs]
    of_each = [(c.over_users.t, c.over_users.wilcoxon, c.over_seeds.t, c.over_seeds.wilcoxon) for c in found]
    corrected = [significance.holm_within(families, p_values) for p_values in zip(*of_each, strict=True)]
    rows = []
    for cell, comparison, p_values in zip(pairs, found, zip(*corrected, strict=True), strict=True):
        interval = comparison.gain_interval
        texts = (
            "–" if interval is None else f"{interval[0]:+.1%} to {interval[1]:+.1%}",
            *map(_p, p_values),
            f"{comparison.users:,}",
            str(len(comparison.seeds)),
        )
        name = f"significance/{cell.dataset}/{cell.encoder}/{cell.model}+befa"
        host = (cell.dataset, cell.encoder, cell.model)
        stem = made_of(name, *(experiment.figure(name, *host, one) for one in ("none", "befa")), form="text")
        values = [replace(stem, name=f"{name}/gain", form="gain", ours=comparison.gain)]
        keys = ("interval", "users-t", "users-wilcoxon", "seeds-t", "seeds-wilcoxon", "users", "seeds")
        values += [replace(stem, name=f"{name}/{k}", ours=v) for k, v in zip(keys, texts, strict=True)]
        rows.append(Row(f"{cell.dataset} {cell.encoder} {NAMES.get(cell.model, cell.model)}", tuple(values), last=True))
    note = (
        f"+BeFA against base in {METRIC}. Interval: bootstrap over users. p of paired t-tests and of Wilcoxon's "
        "signed-rank tests, over users (of each, the mean over the seeds) and over the seeds' means; each of the four "
        "is corrected by Holm's method over the rows of its dataset and encoder. Over seeds Wilcoxon's test needs 6 of "
        "them to reach 0.05 before the correction, and 8 after that over four rows."
    )
    groups = (("", 2), ("p over users", 2), ("p over seeds", 2), ("", 2))
    return Table("significance", "Do BeFA's gains stand out of the noise?", note, groups, TESTED, tuple(rows))


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
