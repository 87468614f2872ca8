"""What a cell is trained on and with: its problem, from its dataset's files, and its model."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from befa import splits, tables
from befa.adapters import ADAPTERS
from befa.cells import Cell
from befa.controls import controlled
from befa.errors import ConfigError, DataError, nearest
from befa.feature_store import ENCODED, GIVEN, FeatureStore
from befa.metrics import Interactions
from befa.models import MODELS
from befa.paths import Layout
from befa.problem import Content, Problem
from befa.rng import numpy_stream, stream


def load_problem(layout: Layout, cell: Cell, seed: int, device: str = "cpu") -> Problem:
    """The cell's training problem: the train part of the split, and the features of every modality by item id.

    A control's features are made here, from `seed`: evaluation makes the same ones again.
    Raises DataError or FeatureError when a file is absent, of another dataset or encoder, or misses too many items.
    """
    items, users = _numbered(layout.items(cell.dataset), "item"), _numbered(layout.users(cell.dataset), "user")
    splits.check(layout.split(cell.dataset), users["user"], items["item"])
    users_E, items_E = splits.read(layout.split(cell.dataset), "train")
    if len(users_E) == 0:
        raise DataError("no training interaction", where=layout.split(cell.dataset), mend="change the split's shares")
    contents = {}
    for modality in cell.features.modalities:
        if modality in ENCODED:
            path, encoder = layout.features(cell.dataset, cell.encoder, modality), cell.encoder
        else:
            path, encoder = layout.vectors(cell.dataset, modality), GIVEN
            if not path.exists():
                _require_given(layout, cell.dataset, modality)
        store = FeatureStore.open(path, dataset=cell.dataset, encoder=encoder, modality=modality)
        values, present = store.aligned(items["item"].to_pylist(), max_missing=cell.features.max_missing)
        contents[modality] = content_of(cell, seed, modality, values, present, device)
    pairs = (torch.from_numpy(column).to(device) for column in (users_E, items_E))
    return Problem(len(users), len(items), *pairs, contents)


def _require_given(layout: Layout, dataset: str, modality: str) -> None:
    """Raises ConfigError for a modality that is neither an encoder's nor among those that the dataset brings."""
    brought = tables.read_json(layout.given(dataset)) if layout.given(dataset).exists() else {modality: None}
    if modality not in brought:
        where = f"features.{dataset}.modalities of params.yaml"
        raise ConfigError(f"unknown modality {modality!r}", where=where, mend=nearest(modality, [*ENCODED, *brought]))


def _numbered(path: Path, kind: Literal["item", "user"]) -> pa.Table:
    """Raw ids, by dense id. Raises DataError where a row's place is not its number: features are joined by place."""
    table = tables.read_table(path, [f"{kind}_index", kind])
    if not np.array_equal(table[f"{kind}_index"].to_numpy(), np.arange(len(table))):
        raise DataError(f"{kind}_index does not count its rows from 0", where=path, mend=f"sort by {kind}_index")
    return table


def content_of(
    cell: Cell, seed: int, modality: str, values_Ic: np.ndarray, present_I: np.ndarray, device: str
) -> Content:
    """Content from a matrix, whose absent rows are not looked at: a control's features, by `seed`, where the cell's
    adapter is one; absent items by the cell's policy."""
    # Before that policy, which would pass a filled row off as a real one.
    use, rng = ADAPTERS[cell.adapter].features, numpy_stream(seed, "control", modality)
    values_Ic = controlled(values_Ic, present_I, use, rng=rng)
    filled = cell.features.missing == "mean" and present_I.any()
    values_Ic = np.where(present_I[:, None], values_Ic, values_Ic[present_I].mean(0) if filled else 0.0)
    present_I = np.ones_like(present_I) if filled else present_I.copy()
    values_Ic = values_Ic.astype(np.float32, copy=False)
    return Content(torch.from_numpy(values_Ic).to(device), torch.from_numpy(present_I).to(device))


def load_valid(layout: Layout, cell: Cell, n_users: int) -> Interactions:
    """The validation interactions of a cell's dataset, by user."""
    return Interactions.of(*splits.read(layout.split(cell.dataset), "valid"), n_users)


def build(problem: Problem, cell: Cell, seed: int) -> nn.Module:
    """The cell's model with freshly initialised parameters, on the problem's device. Raises what `Cell.check` does."""
    cell.check()
    width = cell.network.width
    adapters = {
        modality: ADAPTERS[cell.adapter](cell.adaptation, width, rng=stream(seed, "adapter", modality))
        for modality in problem.contents
    }
    # Graphs are made where the problem lies; parameters are drawn on the CPU, the same ones for every device.
    model = MODELS[cell.model](problem, adapters, cell.network, rng=stream(seed, "init"))
    return model.to(problem.users_E.device)
