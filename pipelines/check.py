"""What is still missing to run a dataset, without running anything."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rich.markup import escape
from rich.table import Table

from befa import config
from befa.cell_names import listed
from befa.cells import Cell
from befa.datasets import DatasetConfig
from befa.encoders import ENCODERS
from befa.errors import BefaError, ConfigError, DataError, lookup
from befa.needs import Need
from befa.paths import Layout
from befa.report.published import HOSTS
from befa.sources import SOURCES
from pipelines.terminal import console

ROOM = 2_000_000_000
"""Bytes that features, checkpoints and DVC's cache of a small catalogue take."""


def needs(dataset: str, layout: Layout) -> list[Need]:
    """Everything that the stages of `dataset` need. Raises ConfigError for an unknown dataset."""
    params = config.read_params(layout.params)
    lookup(config.block(params, "datasets"), dataset, "dataset")
    found = [*_parameters(params, dataset, layout), *_raw(params, dataset, layout)]
    for name in _encoders(layout, dataset):
        found += _weights(params, name, layout)
    free = shutil.disk_usage(layout.root.resolve()).free
    found.append(Need(f"{free / 1e9:,.0f} GB free on the disk", free > ROOM, "make room, or move the project"))
    return [*found, Need(_device(), True)]


def _parameters(params: Mapping[str, Any], dataset: str, layout: Layout) -> list[Need]:
    """Its blocks of params.yaml, each read as its stage would."""
    found = []
    of_dataset = [cell for cell in listed(config.read_params(layout.cells)).values() if cell.dataset == dataset]
    mend = f"python -m pipelines add-cells {dataset} ENCODER"
    found.append(Need("its place in the graph (pipelines/cells.yaml)", bool(of_dataset), mend))
    roll_up = config.block(params, "train_befa")
    if {cell.model for cell in of_dataset if cell.adapter == "befa"} >= set(HOSTS):
        mend = f"add `{dataset}: {{encoder: {of_dataset[0].encoder}}}` to it"
        there = dataset in roll_up and (roll_up[dataset] or {}).get("encoder") in config.block(params, "encoders")
        found.append(Need("its line in train_befa (params.yaml), with a known encoder", there, mend))
    encoder, model = next(iter(config.block(params, "encoders"))), next(iter(config.block(params, "models")))
    cells = [(cell.encoder, cell.model, cell.adapter) for cell in of_dataset] or [(encoder, model, "none")]
    block = config.block(params, f"datasets.{dataset}")
    lacks = [f.name for f in fields(DatasetConfig) if f.name not in block] if isinstance(block, Mapping) else []
    found.append(Need(f"every key in its block of datasets{_listed(lacks)}", not lacks, "begin it with `<<: *dataset`"))
    for what, read in (
        ("its block of datasets", lambda: config.load(params, f"datasets.{dataset}", DatasetConfig)),
        ("its cells' blocks", lambda: [Cell.from_params(params, dataset, *cell) for cell in cells]),
    ):
        try:
            read()
            found.append(Need(what, True))
        except ConfigError as error:
            found.append(Need(what, False, str(error)))
    return found


def _listed(lacks: list[str]) -> str:
    """DVC watches each of the keys, and wants them there."""
    return f" (it has no {', '.join(lacks)})" if lacks else ""


def _encoders(layout: Layout, dataset: str) -> list[str]:
    encodings = config.block(config.read_params(layout.cells), "encodings", where=str(layout.cells)).values()
    return [made["encoder"] for made in encodings if made["dataset"] == dataset]


def _raw(params: Mapping[str, Any], dataset: str, layout: Layout) -> list[Need]:
    try:
        cfg = config.load(params, f"datasets.{dataset}", DatasetConfig)
        source = lookup(SOURCES, cfg.kind, "kind of dataset")
        settings = config.load(params, f"datasets.{dataset}.source", source.Config)
        if layout.raw(dataset).exists():
            return [Need(f"raw files in {layout.raw(dataset)}", True)]
        return source.needs(settings, dataset)
    except BefaError as error:
        return [Need("its source", False, str(error))]


def _weights(params: Mapping[str, Any], encoder: str, layout: Layout) -> list[Need]:
    try:
        kind = lookup(ENCODERS, config.block(params, f"encoders.{encoder}.kind"), "kind of encoder")
        cfg = config.load(params, f"encoders.{encoder}", kind.Config)
    except ConfigError as error:
        return [Need(f"encoder {encoder}", False, str(error))]
    found = kind.need(layout.downloaded, cfg)
    return [replace(found, what=f"weights of encoder {encoder}: {found.what}")]


def _device() -> str:
    import torch  # here: it takes seconds to load

    if torch.cuda.is_available():
        return f"device: {torch.cuda.get_device_name()}"
    return f"device: CPU, {os.cpu_count()} cores (no GPU found)"


def show(dataset: str, found: list[Need]) -> None:
    """Prints what is there and what is not. Raises DataError if anything is missing."""
    shown = Table(title=f"To run {dataset}", show_header=False)
    shown.add_column()
    shown.add_column(overflow="fold")
    for need in found:
        status = "[yellow]to come[/]" if need.later else "[green]there[/]" if need.there else "[red]missing[/]"
        shown.add_row(status, escape(need.what))
    console().print(shown)
    missing = [need for need in found if not need.there]
    if missing:
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{dataset} lacks {missing[0].what}{rest}", mend=missing[0].mend)
