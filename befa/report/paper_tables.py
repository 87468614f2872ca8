"""Tables 1 to 4 of the paper, with our figures in them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from statistics import fmean

import torch

from befa.adapters import ADAPTERS
from befa.cell_names import cell_name
from befa.models.bm3 import BM3
from befa.problem import Content, Problem
from befa.report import published
from befa.report.experiment import NAMES, Experiment, joined, short, starred
from befa.report.published import HOSTS, PAPER_METRICS
from befa.report.results import State
from befa.report.values import REPRO, Row, Table, Value, made_of, together
from befa.rng import stream
from befa.significance import legend

RIVALS = ("lora", "soft_prompt")
SIZES = ("users", "items", "interactions", "density")
MEASURED = "Test part; mean ± sample standard deviation over seeds where there are several. "
CANDIDATES = (
    "Under the protocol clean a user's validation items are not ranked on test; under mmrec, the field's, by which the "
    "paper's code ranks, they are and count as misses: where ours is clean, the difference from the paper has that in "
    "it. "
)
OWN_FAMILY = (
    " A comparison that stands in another table too may have other stars there: each table corrects over its own (of a "
    "dataset, base and +BeFA over 16 comparisons, adapters over 48, a column of Controls over 4), those that have "
    "yet to be run included."
)


def table_1(experiment: Experiment) -> Table:
    """Sizes after filtering."""
    rows = []
    for dataset in dict.fromkeys([*published.TABLE_1, *experiment.sizes]):
        ours, paper = experiment.sizes.get(dataset), published.TABLE_1.get(dataset, {})
        state = experiment.filtered.get(dataset, State("absent", f"filter@{dataset}"))
        values = tuple(
            Value(
                f"table1/{dataset}/{size}",
                state,
                f"dvc repro filter@{dataset}",
                form="percent" if size == "density" else "count",
                ours=ours and ours[size],
                published=paper.get(size),
                source=published.source("table1") if paper else "",
            )
            for size in SIZES
        )
        rows.append(Row(dataset, values, last=True))
    note = "After window and k-core. Which window the paper took of TMALL and H&M is not published."
    return Table("table1", "Table 1: datasets after filtering", note, (), SIZES, tuple(rows))


def table_2(experiment: Experiment, encoder: str) -> Table:
    """Base, +BeFA and gain per host."""
    datasets, rows = experiment.datasets(encoder, "befa"), []
    gains = experiment.gains("table2", encoder, datasets, "befa", "none", PAPER_METRICS)
    columns = [(dataset, metric) for dataset in datasets for metric in PAPER_METRICS]
    for model in HOSTS:
        for adapter in ("none", "befa"):
            cells = (experiment.metric("table2", d, encoder, model, adapter, metric) for d, metric in columns)
            rows.append(Row(_label(model, adapter), tuple(cells)))
        rows.append(Row("gain", tuple(gains[dataset, model, metric] for dataset, metric in columns), last=True))
    means = (_mean_gain([gains[d, model, metric] for model in HOSTS]) for d, metric in columns)
    rows.append(Row("mean gain", tuple(means), last=True))
    note = MEASURED + _protocol(rows) + legend("the comparisons of its dataset in this table") + OWN_FAMILY
    title, groups = f"Table 2: base and +BeFA, {encoder} features", tuple((d, len(PAPER_METRICS)) for d in datasets)
    return Table(
        f"table2-{encoder}",
        title,
        note,
        groups,
        PAPER_METRICS * len(datasets),
        tuple(rows),
    )


def table_3(experiment: Experiment, encoder: str) -> Table:
    """The adapters per host, what LoRA and SoftPrompt gain over the base, and BeFA over the best of the others."""
    datasets, rows = experiment.datasets(encoder, *RIVALS), []
    columns = [(dataset, metric) for dataset in datasets for metric in PAPER_METRICS]
    gains = _gains_of_table_3(experiment, encoder, datasets)
    for model in HOSTS:
        for adapter in ("none", *RIVALS, "befa"):
            values = (experiment.metric("table3", d, encoder, model, adapter, metric) for d, metric in columns)
            rows.append(Row(_label(model, adapter), tuple(values)))
        for adapter in (*RIVALS, "befa"):
            label = f"{NAMES[adapter]} over {'best' if adapter == 'befa' else 'base'}"
            values = tuple(gains[d, model, adapter, metric] for d, metric in columns)
            rows.append(Row(label, values, last=adapter == "befa"))
    means = (_mean_gain([gains[d, model, "befa", metric] for model in HOSTS]) for d, metric in columns)
    rows.append(Row("mean, BeFA over best", tuple(means), last=True))
    title, groups = f"Table 3: adapters, {encoder} features", tuple((d, len(PAPER_METRICS)) for d in datasets)
    note = (
        MEASURED + _protocol(rows) + "The best of base, LoRA and SoftPrompt is taken for each column, as the paper "
        "does: on test, which is hard on BeFA. The mean over the models is what the paper calls Avg Improve. "
        + legend("the comparisons of its dataset in this table")
        + OWN_FAMILY
    )
    return Table(f"table3-{encoder}", title, note, groups, PAPER_METRICS * len(datasets), tuple(rows))


def table_4(experiment: Experiment, encoder: str) -> Table:
    """BM3's numbers of parameters and seconds per epoch, by adapter."""
    datasets, rows, of_paper = experiment.datasets(encoder, *RIVALS), [], encoder in published.TABLE_3_ENCODERS
    for adapter in ("none", *RIVALS, "befa"):
        values = []
        for dataset in datasets:
            name = f"table4/{dataset}/{encoder}/{short('bm3', adapter)}"
            paper = published.TABLE_4.get((dataset, adapter), {}) if of_paper else {}
            result = experiment.results.get(cell_name(dataset, encoder, "bm3", adapter))
            made = replace(
                experiment.figure(name, dataset, encoder, "bm3", adapter),
                source=published.source("table4") if paper else "",
                remark=published.SUMMED if paper and adapter != "none" else "",
            )
            ours = {"parameters": result and result.parameters, "seconds": result and result.seconds}
            for what, form in (("parameters", "count"), ("seconds", "seconds")):
                figure = replace(made, name=f"{name}/{what}", form=form, ours=ours[what], published=paper.get(what))
                on = "; ".join(filter(None, (figure.remark, result.machine if result else "")))
                values.append(replace(figure, remark=on) if what == "seconds" else figure)
            if of_paper:
                values.append(_at_the_papers_sizes(dataset, adapter, name) if paper else None)
        rows.append(Row(_label("bm3", adapter), tuple(values), last=True))
    columns = ("parameters", "s/epoch", *["at the paper's sizes"] * of_paper)
    note = (
        "Feature tables that are trained count as parameters. Seconds are of wall time, with validation, "
        "where the cell was trained, beside whatever else ran there; the paper's are of one RTX 4090. They stand in "
        "timing.json beside the checkpoints, which is no artifact: dvc pull does not bring it, so that they are known "
        "where the training was run alone. At the paper's sizes: the model is built by this report, not trained, for "
        "as many users and items and two modalities of 512; the paper prints millions with two decimals."
    )
    title, groups = f"Table 4: cost in BM3, {encoder} features", tuple((d, len(columns)) for d in datasets)
    return Table(f"table4-{encoder}", title, note, groups, columns * len(datasets), tuple(rows))


def _at_the_papers_sizes(dataset: str, adapter: str, name: str) -> Value:
    return Value(
        f"{name}/parameters-at-the-papers-sizes",
        State("current"),
        f"{REPRO}report",
        form="count",
        ours=parameters(dataset, adapter),
        published=published.TABLE_4[dataset, adapter]["parameters"],
        source=published.source("table4"),
    )


@cache
def parameters(dataset: str, adapter: str, d: int = 64, features: int = 512) -> int:
    """How many parameters BM3 with an adapter has on the paper's sizes of a dataset, two modalities."""
    modalities, n_users, n_items = ("image", "text"), *(int(published.TABLE_1[dataset][s]) for s in ("users", "items"))
    # The two tables of features are counted, not made: half a gigabyte for nothing.
    content = {m: Content(torch.zeros(1, features), torch.ones(1, dtype=torch.bool)) for m in modalities}
    problem = Problem(1, 1, torch.tensor([0]), torch.tensor([0]), content)
    kind = ADAPTERS[adapter]
    adapters = {m: kind(kind.Config(), d, rng=stream(1, m)) for m in modalities}
    built = BM3(problem, adapters, BM3.Config(width=d, trainable_features=True), rng=stream(1, "init"))
    rows = (n_users - 1) * d + (n_items - 1) * (d + len(modalities) * features)
    return sum(parameter.numel() for parameter in built.parameters()) + rows


def _protocol(rows: Iterable[Row]) -> str:
    """Under which protocol the figures of these rows were made, and what that does to their differences."""
    names = dict.fromkeys(value.protocol for row in rows for value in row.values if value and value.protocol)
    return (f"Protocol of ours: {', '.join(names)}. " if names else "") + CANDIDATES


def _label(model: str, adapter: str) -> str:
    return NAMES[model] if adapter == "none" else f"+{NAMES[adapter]}"


def _mean_gain(gains: Sequence[Value]) -> Value:
    """Of a column's gains, over the models; ours only where all are there."""
    known = {side: [getattr(gain, side) for gain in gains] for side in ("ours", "published")}
    ours, paper = (None if None in values else fmean(values) for values in known.values())
    table, dataset, encoder, _, metric, what = gains[0].name.split("/")
    return replace(
        made_of(f"{table}/{dataset}/{encoder}/mean/{metric}/{what}", *gains, form="gain"),
        ours=ours,
        seeds=min(gain.seeds for gain in gains),
        published=paper,
        source=gains[0].source,
        remark="; ".join(dict.fromkeys(gain.remark for gain in gains if gain.remark)),
    )


def _gains_of_table_3(
    experiment: Experiment, encoder: str, datasets: Sequence[str]
) -> dict[tuple[str, str, str, str], Value]:
    """By dataset, model, adapter and metric; BeFA's are over the best of the others, LoRA's and SoftPrompt's over the
    base. Stars are corrected over all of a dataset."""
    gains = {}
    for dataset, model, metric in product(datasets, HOSTS, PAPER_METRICS):
        host = (dataset, encoder, model)
        for adapter in RIVALS:
            gains[dataset, model, adapter, metric] = experiment.gain("table3", host, adapter, "none", metric)
        gains[dataset, model, "befa", metric] = _over_best(experiment, host, metric)
    return dict(zip(gains, starred(list(gains.values()), [dataset for dataset, *_ in gains]), strict=True))


def _over_best(experiment: Experiment, host: tuple[str, str, str], metric: str) -> Value:
    """BeFA against the best of the others, as the paper's Table 3 has it."""
    *others, befa = (experiment.metric("table3", *host, adapter, metric) for adapter in ("none", *RIVALS, "befa"))
    value = made_of(f"{befa.name}/over-best", *others, befa, form="gain")
    if befa.published is not None:
        gain = befa.published / max(one.published for one in others) - 1
        remark = published.remark("table3", (*host, "befa"), metric)
        value = replace(value, published=gain, source=befa.source, remark=remark)
    ours = [one.ours for one in others]
    if None in (*ours, befa.ours):
        return value
    best = ("none", *RIVALS)[ours.index(max(ours))]
    found = experiment.gain("table3", host, "befa", best, metric)
    state, command = together(value, found)  # of other users than the best's: then there is no gain
    remark = joined(f"the best of the others: {'the base' if best == 'none' else NAMES[best]}", found.remark)
    return replace(found, name=value.name, state=state, command=command, published=value.published,
                   source=value.source, remark=remark, protocol=value.protocol)  # fmt: skip
