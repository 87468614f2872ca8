"""Training problems and interactions from arrays of one's own, without files (docs/in-your-own-code.md)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from befa.building import content_of
from befa.cells import Cell
from befa.errors import ConfigError, DataError, FeatureError
from befa.feature_store import has_direction
from befa.metrics import Interactions
from befa.problem import Problem

log = logging.getLogger(__name__)

ArrayLike = Any
"""What np.asarray takes: arrays, lists, a pandas Series; and tensors, on any device."""


def problem_of(
    cell: Cell,
    seed: int,
    users: ArrayLike,
    items: ArrayLike,
    n_users: int,
    n_items: int,
    features: Mapping[str, ArrayLike],
    *,
    device: str = "cpu",
) -> Problem:
    """A cell's training problem from pairs of dense ids, in any order, and a row of features per item and modality.

    A pair that is given several times counts once. An item is absent in a modality where its row, in float32, is zero
    or not finite; `features` of the cell says what becomes of it, and how many may be. A control's features
    (random_features, shuffled_features) are made here, from `seed`. Raises DataError for ids that are none,
    ConfigError for other modalities than the cell's, FeatureError for features of another form and too many absent.
    """
    users_E, items_E = _pairs(users, items, n_users, n_items)
    modalities, contents = cell.features.modalities, {}
    if set(features) != set(modalities):
        what = (
            f"features of {', '.join(features) or 'no modality'}, and the cell's are {', '.join(modalities) or 'none'}"
        )
        raise ConfigError(what, mend=f"FeaturesConfig(modalities={tuple(features)!r})")
    for modality in modalities:
        values_Ic = _array(features[modality])
        if values_Ic.ndim != 2 or len(values_Ic) != n_items or values_Ic.dtype.kind not in "fiub":
            what = f"{modality} has shape {values_Ic.shape} and type {values_Ic.dtype}, of {n_items} items"
            raise FeatureError(what, mend="give each item a row of numbers, absent ones one of zeros or NaN")
        with np.errstate(over="ignore"):  # too large for float32 is infinite, hence absent
            values_Ic = values_Ic.astype(np.float32)
        present_I = has_direction(values_Ic)
        absent, allowed = 1 - present_I.mean() if n_items else 0.0, cell.features.max_missing
        if absent > allowed:
            what = (
                f"{absent:.1%} of items have no {modality} (allowed {allowed:.1%}; first: {int(np.argmin(present_I))})"
            )
            raise FeatureError(what, mend="find their features, or raise FeaturesConfig(max_missing=...)")
        if absent:
            log.warning("%d of %d items have no %s", (~present_I).sum(), n_items, modality)
        contents[modality] = content_of(cell, seed, modality, values_Ic, present_I, device)
    pairs = (torch.from_numpy(ids_E).to(device) for ids_E in (users_E, items_E))
    return Problem(n_users, n_items, *pairs, contents)


def interactions_of(
    users: ArrayLike, items: ArrayLike, n_users: int, n_items: int, *, apart_from: Sequence[Interactions] = ()
) -> Interactions:
    """The validation or the test part, from pairs of dense ids in any order, each of which counts once.

    `apart_from`: the parts that are masked in its evaluation, as an item that is never ranked is never found. Raises
    DataError for ids that are none, and for pairs that one of those has too.
    """
    users_E, items_E = _pairs(users, items, n_users, n_items)
    for other in apart_from:
        others_E = np.repeat(np.arange(len(other.counts)), other.counts) * n_items + other.items_E
        twice = np.flatnonzero(np.isin(users_E * n_items + items_E, others_E))
        if len(twice):
            what = (
                f"{len(twice)} of {len(users_E)} pairs are in another part too "
                f"(first: user {users_E[twice[0]]}, item {items_E[twice[0]]})"
            )
            raise DataError(what, mend="leave each pair in one part, such as that of its first time")
    return Interactions.of(users_E, items_E, n_users)


def _array(given: ArrayLike) -> np.ndarray:
    if isinstance(given, Tensor):
        given = given.detach().to("cpu")
        given = given.float() if given.is_floating_point() else given  # NumPy knows no bfloat16
    return np.asarray(given)


def _pairs(
    users: ArrayLike, items: ArrayLike, n_users: int, n_items: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Unique, sorted by user, then item. Raises DataError for what is no dense id."""
    columns = []
    for name, given, count in (("user", users, n_users), ("item", items, n_items)):
        ids = _array(given)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            what = f"{name}s have shape {ids.shape} and type {ids.dtype}"
            raise DataError(what, mend=f"number the {name}s from 0, as pandas.factorize does, and give one a pair")
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < count:
            what = f"{name} ids from {ids.min()} to {ids.max()}, of {count} {name}s"
            raise DataError(what, mend=f"ids count {name}s from 0, without gaps")
        columns.append(ids.astype(np.int64))
    if len(columns[0]) != len(columns[1]):
        raise DataError(f"{len(columns[0])} users and {len(columns[1])} items", mend="give one of each a pair")
    users_E, items_E = np.unique(np.stack(columns), axis=1)
    return np.ascontiguousarray(users_E), np.ascontiguousarray(items_E)
