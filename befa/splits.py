"""Train, valid and test: each (user, item) pair goes to exactly one."""

from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from befa import tables
from befa.datasets import PLACE, SplitConfig
from befa.errors import ConfigError, DataError
from befa.rng import numpy_stream

PARTS = ("train", "valid", "test")
Part = Literal["train", "valid", "test"]

IDS = "ids_sha256"
"""Entry of a split's metadata: the raw ids that its dense ones stand for."""


def split(interactions: pa.Table, config: SplitConfig) -> pa.Table:
    """The interactions with a column `split`, sorted by user, then item.

    Rules; n is a user's number of interactions:
    - `random`: per user, max(1, round(n * test)), halves up, drawn for the test, likewise for validation (none for a
      share of 0), the rest is train: one at least, at the cost of validation first where the shares leave none.
    - `user_time`: the same counts; a user's latest are the test, those before them validation.
    - `global_time`: the latest share of all interactions is the test, that before it validation. Users and items that
      training does not know occur; evaluation leaves out such users and counts them.
    - `mmrec`: the field's habit (MMRec's preprocessing notebooks): in a random order, n < 10 gives n-2 / 1 / 1, else
      v = int(0.2 n) are held out, v // 2 for validation and v - v // 2 for the test. Departs from it: seeded.
    Users with fewer than 3 interactions stay in train whole (all rules but `global_time`). Ties in time are broken by
    item id (`global_time`: by user, then item), so the order of rows does not matter. Raises ConfigError for shares
    that leave nothing to train on, and for `global_time` where times are places in each user's own order.
    """
    _check(interactions.schema, config)
    table = interactions.sort_by([("user_index", "ascending"), ("item_index", "ascending")])
    user_E = table["user_index"].to_numpy()
    time_E = table["time"].to_numpy()
    n = len(table)
    if config.rule == "global_time":
        # lexsort: the last key counts first; the table's own order (user, item) breaks ties.
        rank_E = _rank(np.lexsort((np.arange(n), time_E)))
        n_test, n_valid = round(n * config.test), round(n * config.valid)
        size_E = np.full(n, n)
        test_E, valid_E = np.full(n, n_test), np.full(n, n_valid)
    else:
        by_time = config.rule == "user_time"
        key_E = time_E if by_time else numpy_stream(config.seed, "split", config.rule).random(n)
        rank_E, size_E = _rank_within(user_E, key_E)
        test_E, valid_E = _held_out(size_E, config)
    part_E = np.zeros(n, dtype=np.int8)
    part_E[rank_E >= size_E - test_E - valid_E] = PARTS.index("valid")
    part_E[rank_E >= size_E - test_E] = PARTS.index("test")
    parts = pa.DictionaryArray.from_arrays(pa.array(part_E), pa.array(PARTS))
    return pa.table({"user_index": table["user_index"], "item_index": table["item_index"], "split": parts})


def write(path: Path, table: pa.Table, users: pa.ChunkedArray, items: pa.ChunkedArray) -> None:
    """Writes a split; its file says which raw ids its dense ones stand for (`users`, `items`: raw ids by dense id)."""
    tables.write_table(path, table, {IDS: _sha256(users, items)})


def check(path: Path, users: pa.ChunkedArray, items: pa.ChunkedArray) -> None:
    """Raises DataError where the split is of other users or items: its ids would be somebody else's.

    A file without that entry, as another program writes it, must hold each pair of user and item once, ids that there
    are, and the names of parts that there are.
    """
    table = tables.read_table(path, ["user_index", "item_index", "split"])
    made_of = (table.schema.metadata or {}).get(IDS.encode())
    if made_of is None:
        parts = table["split"].cast(pa.string())
        if not pc.all(pc.is_in(parts, pa.array(PARTS))).as_py():
            wrong = parts.filter(pc.invert(pc.is_in(parts, pa.array(PARTS))))[0].as_py()
            raise DataError(f"a pair has the split {wrong!r}", where=path, mend=f"it is one of {', '.join(PARTS)}")
        for name, count in (("user_index", len(users)), ("item_index", len(items))):
            ids = table[name]
            if ids.null_count or not pa.types.is_integer(ids.type):
                what = f"{name} is of type {ids.type} with {ids.null_count} nulls"
                raise DataError(what, where=path, mend="give each pair the dense ids of data/filtered")
            least, most = pc.min_max(ids).as_py().values() if len(ids) else (0, -1)
            if least < 0 or most >= count:
                what = f"{name} is from {least} to {most}, and there are {count}"
                raise DataError(what, where=path, mend="give each pair the dense ids of data/filtered, from 0 on")
        pairs_E = np.stack([table[name].to_numpy().astype(np.int64) for name in ("user_index", "item_index")])
        pairs_E = pairs_E[:, np.lexsort(pairs_E[::-1])]
        twice = np.flatnonzero((pairs_E[:, 1:] == pairs_E[:, :-1]).all(0))
        if len(twice):
            user, item = pairs_E[:, twice[0]]
            what = f"user_index {user} has item_index {item} twice"
            raise DataError(what, where=path, mend="keep one of them, in one part")
    elif made_of.decode() != _sha256(users, items):
        what = "the split is of other users or items than the filtered tables have by now"
        raise DataError(what, where=path, mend=f"run dvc repro split@{path.stem}")


def _sha256(*ids: pa.ChunkedArray) -> str:
    digest = sha256()
    for column in ids:
        digest.update(pc.binary_length(column).to_numpy().tobytes())
        digest.update("".join(column.to_pylist()).encode())
    return digest.hexdigest()


def read(path: Path, part: Part) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Users and items (dense ids) of one part, sorted by user, then item."""
    table = tables.read_table(path, ["user_index", "item_index", "split"])
    table = table.filter(pc.equal(table["split"].cast(pa.string()), part))
    users_E, items_E = (table[name].to_numpy().astype(np.int64) for name in ("user_index", "item_index"))
    order = np.lexsort((items_E, users_E))  # another program's file has an order of its own
    return users_E[order], items_E[order]


def _check(schema: pa.Schema, config: SplitConfig) -> None:
    where = "`split` of params.yaml"
    if config.rule != "mmrec" and config.valid + config.test >= 1:
        what = f"shares {config.valid:g} (valid) and {config.test:g} (test) leave nothing to train on"
        raise ConfigError(what, where=where, mend="let them be less than 1 together; 0.1 and 0.1 are usual")
    if config.rule == "global_time" and (schema.metadata or {}).get(PLACE.encode()) == b"user":
        what = "global_time compares users' times, and these data have only the order of each user's interactions"
        raise ConfigError(what, where=where, mend="take user_time or random, or get files that have times")


def _held_out(size_E: Int[np.ndarray, " E"], config: SplitConfig) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of test and validation interactions of each row's user."""
    if config.rule == "mmrec":
        held_E = np.where(size_E < 10, 2, size_E * 2 // 10)
        test_E, valid_E = held_E - held_E // 2, held_E // 2
    else:
        test_E, valid_E = _share(size_E, config.test), _share(size_E, config.valid)
        test_E = np.minimum(test_E, size_E - 1)
        valid_E = np.minimum(valid_E, size_E - 1 - test_E)
    enough = size_E >= 3
    return test_E * enough, valid_E * enough


def _share(size_E: Int[np.ndarray, " E"], share: float) -> Int[np.ndarray, " E"]:
    """How many of each number a share is, halves up, at least one; none for a share of 0."""
    # Half up: banker's rounding would give 5 interactions none and 15 interactions two. The share is the decimal that
    # was written: in binary .35 is a little less, and of 90 it would be 31.
    exact = Fraction(str(share))
    rounded_E = (2 * size_E * exact.numerator + exact.denominator) // (2 * exact.denominator)
    return np.maximum(1, rounded_E) * (share > 0)


def _rank_within(user_E: np.ndarray, key_E: np.ndarray) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Place of each row among its user's rows ordered by key, and how many rows that user has; rows sorted by user."""
    _, start, size = np.unique(user_E, return_index=True, return_counts=True)
    order = np.lexsort((np.arange(len(user_E)), key_E, user_E))
    return _rank(order) - np.repeat(start, size), np.repeat(size, size)


def _rank(order: np.ndarray) -> Int[np.ndarray, " E"]:
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank
