"""The experiment as its tables see it: listed cells, their results, and figures with all that belongs to them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pyarrow as pa

from befa import significance
from befa.cell_names import Listed, cell_name, cell_stage
from befa.errors import DataError
from befa.report import published
from befa.report.published import HOSTS
from befa.report.results import Result, State, Study
from befa.report.values import Value, made_of
from befa.rng import numpy_stream
from befa.significance import Comparison

NAMES = {
    "bm3": "BM3",
    "lattice": "LATTICE",
    "freedom": "FREEDOM",
    "mgcn": "MGCN",
    "befa": "BeFA",
    "lora": "LoRA",
    "soft_prompt": "SoftPrompt",
    "lattice_released": "LATTICE (released)",
    "vbpr": "VBPR",
    "lightgcn": "LightGCN",
    "bpr": "BPR-MF",
    "item_knn": "ItemKNN",
}
BOOTSTRAP_SEED = 1
"""All comparisons draw the same users."""


@dataclass(frozen=True)
class Experiment:
    """Everything that the tables are made of."""

    cells: Mapping[str, Listed]
    """Cells and controls by name."""
    results: Mapping[str, Result]
    """By cell; those without a result are left out."""
    states: Mapping[str, State]
    """By cell."""
    sizes: Mapping[str, Mapping[str, Any]]
    """The filter's certificates by dataset."""
    filtered: Mapping[str, State]
    """How these stand, by dataset."""
    tuned: Mapping[str, str] = field(default_factory=dict)
    """What tuning chose, by cell; untuned ones are left out."""
    studies: Mapping[str, Sequence[Study]] = field(default_factory=dict)
    """Attribution, distribution and sensitivity: those that the graph has, made or not."""
    resamples: int = significance.RESAMPLES
    """Of the bootstrap that gives a gain its interval."""
    _compared: dict[tuple[str, str, str], Comparison] = field(default_factory=dict, compare=False)
    _per_user: dict[str, pa.Table] = field(default_factory=dict, compare=False)

    @property
    def encoders(self) -> list[str]:
        """Of the cells: those with results first, then the paper's."""
        found = {cell.encoder for cell in self.cells.values()}
        with_results = {self.cells[name].encoder for name in self.results}
        return sorted(found, key=lambda e: (e not in with_results, e not in published.ENCODERS, e))

    def datasets(self, encoder: str, *adapters: str) -> list[str]:
        """Those that have cells with one of these adapters; the paper's first."""
        found = {c.dataset for c in self.cells.values() if c.encoder == encoder and c.adapter in adapters}
        return [d for d in published.TABLE_1 if d in found] + sorted(found - published.TABLE_1.keys())

    def figure(self, name: str, *cell: str) -> Value:
        """A figure that comes from a cell (dataset, encoder, model, adapter), still without its number."""
        key = cell_name(*cell)
        if key not in self.states:
            dataset, encoder, model, adapter = cell
            command = f"python -m pipelines add-cells {dataset} {encoder} --model {model} --adapter {adapter}"
            return Value(name, State("unlisted", f"{key} is not in the graph"), command)
        tuned = f"tuned: {self.tuned[key]}" if self.tuned.get(key) else ""
        protocol = self.results[key].protocol if key in self.results else ""
        command = f"dvc repro {cell_stage('evaluate', *cell)}"
        return Value(name, self.states[key], command, remark=tuned, protocol=protocol)

    def metric(self, table: str, dataset: str, encoder: str, model: str, adapter: str, metric: str) -> Value:
        """A test metric of one cell, beside what the paper's `table` (table2, table3) has for it."""
        cell = (dataset, encoder, model, adapter)
        value = self.figure(f"{table}/{dataset}/{encoder}/{short(model, adapter)}/{metric}", *cell)
        paper = published.figure(table, cell, metric)
        value = replace(value, published=paper, source=published.source(table) if paper is not None else "")
        value = replace(value, remark=joined(value.remark, published.remark(table, cell, metric)))
        if (result := self.results.get(cell_name(*cell))) is None:
            return value
        return replace(value, ours=result.mean(metric), deviation=result.deviation(metric), seeds=result.seeds)

    def gain(self, table: str, host: tuple[str, str, str], adapter: str, base: str, metric: str) -> Value:
        """What a model on (dataset, encoder) gains by an adapter over another, relative: 0.05 is +5 %."""
        dataset, encoder, model = host
        over = "" if base == "none" else f"-over-{base}"
        name = f"{table}/{dataset}/{encoder}/{short(model, adapter)}/{metric}/gain{over}"
        pair = [self.figure(name, *host, one) for one in (base, adapter)]
        value = replace(made_of(name, *pair, form="gain"), remark=_unequal(*pair))
        papers = [published.figure(table, (*host, one), metric) for one in (base, adapter)]
        if None not in papers:
            remark = joined(value.remark, published.remark(table, (*host, adapter), metric))
            value = replace(value, published=papers[1] / papers[0] - 1, source=published.source(table), remark=remark)
        before, after = (cell_name(*host, one) for one in (base, adapter))
        if not {before, after} <= self.results.keys():
            return value
        self.per_user(before, after)  # a broken file is an error, other users are not
        try:
            found = self.compared(before, after, metric)
        except DataError as error:  # one of the two was evaluated on another split, say
            return replace(value, state=State("stale", str(error)))
        p = found.over_users.t
        return replace(value, ours=found.gain, interval=found.gain_interval, p=p, seeds=len(found.seeds))

    def gains(
        self, table: str, encoder: str, datasets: Sequence[str], adapter: str, base: str, metrics: Sequence[str]
    ) -> dict[tuple[str, str, str], Value]:
        """Gains by dataset, model and metric, with stars that are corrected over those of a dataset.

        Not over all datasets: a gain's stars must not depend on which other datasets have been run.
        """
        keys = list(product(datasets, HOSTS, metrics))
        values = [self.gain(table, (dataset, encoder, model), adapter, base, metric) for dataset, model, metric in keys]
        return dict(zip(keys, starred(values, [dataset for dataset, _, _ in keys]), strict=True))

    def compared(self, base: str, adapted: str, metric: str) -> Comparison:
        """Two cells that have results, by user and seed. Raises DataError where their users are not the same."""
        key = (base, adapted, metric)
        if key not in self._compared:
            pair = self.per_user(base, adapted)
            self._compared[key] = significance.compare(
                *pair, metric, rng=numpy_stream(BOOTSTRAP_SEED, "bootstrap"), resamples=self.resamples
            )
        return self._compared[key]

    def per_user(self, *cells: str) -> list[pa.Table]:
        """Metrics by user and seed, read once. Raises DataError for a file that is broken."""
        for cell in cells:
            if cell not in self._per_user:
                self._per_user[cell] = self.results[cell].per_user()
        return [self._per_user[cell] for cell in cells]


def starred(values: Sequence[Value], families: Sequence[Hashable]) -> list[Value]:
    """Gains with their p corrected by Holm's method over those of a family, and its stars; `families` names each's.

    Those that are listed and have no p yet count as comparisons that found nothing: what has been found must not lose
    its stars as more is run.
    """
    wanted = [1.0 if value.p is None and value.state.status != "unlisted" else value.p for value in values]
    corrected = significance.holm_within(families, wanted)
    return [
        value if value.p is None else replace(value, p=p, stars=significance.stars(p))
        for value, p in zip(values, corrected, strict=True)
    ]


def joined(*remarks: str) -> str:
    """Remarks as one; empty ones are left out."""
    return "; ".join(remark for remark in remarks if remark)


def _unequal(base: Value, adapted: Value) -> str:
    """A comparison of a tuned model with an untuned one is to be read as such."""
    return "only one of the two is tuned" if bool(base.remark) != bool(adapted.remark) else adapted.remark


def short(model: str, adapter: str) -> str:
    """A cell's model and adapter as names of figures have them."""
    return model if adapter == "none" else f"{model}+{adapter}"
