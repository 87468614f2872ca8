"""Raw events to dense interactions: window, availability, unique pairs, iterated k-core, ids, certificate."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from befa.errors import DataError
from befa.sources.base import EVENTS, ITEMS, DatasetConfig, Window


@dataclass(frozen=True)
class Filtered:
    """What the filter leaves, joined by dense ids that count raw ids in sorted order."""

    interactions: pa.Table
    """user_index, item_index (int32), time of the first interaction (int64 seconds); sorted by user, then item."""
    users: pa.Table
    """user_index, user (raw id)."""
    items: pa.Table
    """item_index, item (raw id), text, image."""
    stats: dict[str, Any]
    """The certificate: rows, users and items after every step, in order."""


def filter_events(events: Iterator[pa.RecordBatch], items: pa.Table, config: DatasetConfig) -> Filtered:
    """Applies the fixed order of operations of the field's preprocessing, and says what each step left.

    read -> window -> availability -> unique pairs (the first time is kept) -> k-core to a fixed point -> dense ids.
    Raises DataError when ids are not strings, when an item table repeats an id, or when fewer than `config.floor`
    users or items are left.
    """
    _check_schema(items.schema, ITEMS, "item table")
    repeated = len(items) - pc.count_distinct(items["item"]).as_py()
    if repeated:
        raise DataError(f"{repeated} item ids occur more than once in the item table", mend="keep one row per item")

    steps: dict[str, Any] = {}
    users, item_ids, user_E, item_E, time_E, steps["read"] = _collect(events, config.window)
    steps["window"] = _count(user_E, item_E)

    if config.require:
        keep_E = _available(items, config.require, item_ids)[item_E]
        user_E, item_E, time_E = user_E[keep_E], item_E[keep_E], time_E[keep_E]
        steps["available"] = {"require": list(config.require), **_count(user_E, item_E)}

    first = _first_of_each_pair(user_E, item_E, time_E, len(item_ids))
    user_E, item_E, time_E = user_E[first], item_E[first], time_E[first]
    steps["unique"] = _count(user_E, item_E)

    keep_E, steps["rounds"] = k_core(user_E, item_E, config.core)
    user_E, item_E, time_E = user_E[keep_E], item_E[keep_E], time_E[keep_E]
    left = _count(user_E, item_E)
    if min(left["users"], left["items"]) < config.floor:
        raise DataError(
            f"core {config.core} leaves {left['users']} users and {left['items']} items (floor: {config.floor})",
            mend="lower `core`, widen `window`, or lower `floor`, in the dataset's block of params.yaml",
        )

    user_index_E, users = _dense(user_E, users)
    item_index_E, item_ids = _dense(item_E, item_ids)
    interactions = pa.table({
        "user_index": pa.array(user_index_E, pa.int32()),
        "item_index": pa.array(item_index_E, pa.int32()),
        "time": pa.array(time_E, pa.int64()),
    }).sort_by([("user_index", "ascending"), ("item_index", "ascending")])  # fmt: skip
    users_table = pa.table({"user_index": _range(len(users)), "user": pa.array(users, pa.string())})
    items_table = _joined(items, item_ids)
    density = left["interactions"] / (left["users"] * left["items"])
    shown = {f"items_without_{m}": items_table[m].null_count for m in ("image", "text")}
    stats = {**left, "density": density, "core": config.core, **shown, **steps}
    return Filtered(interactions, users_table, items_table, stats)


def k_core(
    user_E: Int[np.ndarray, "E"], item_E: Int[np.ndarray, "E"], k: int
) -> tuple[Bool[np.ndarray, "E"], list[dict[str, int]]]:
    """The largest set of pairs in which every user and every item has at least `k`; and what each round left.

    Each round drops the users and items that have fewer than `k` at its start, until none is dropped. The result
    does not depend on the order of rows or of the two sides. Ids are non-negative, pairs are unique.
    """
    keep_E = np.ones(len(user_E), dtype=bool)
    rounds = []
    while True:
        user_degrees = np.bincount(user_E[keep_E], minlength=1 + user_E.max(initial=0))
        item_degrees = np.bincount(item_E[keep_E], minlength=1 + item_E.max(initial=0))
        next_E = keep_E & (user_degrees[user_E] >= k) & (item_degrees[item_E] >= k)
        if next_E.sum() == keep_E.sum():
            return keep_E, rounds
        keep_E = next_E
        rounds.append(_count(user_E[keep_E], item_E[keep_E]))


def _collect(events: Iterator[pa.RecordBatch], window: Window) -> tuple[Any, ...]:
    """Reads all events, keeps those inside the window; ids become codes into arrays of raw ids."""
    since = _midnight(window.since) if window.since else np.iinfo(np.int64).min
    before = _midnight(window.until + timedelta(days=1)) if window.until else np.iinfo(np.int64).max
    kept, read = [], 0
    for batch in events:
        _check_schema(batch.schema, EVENTS, "events")
        read += len(batch)
        inside = pc.and_(pc.greater_equal(batch["time"], since), pc.less(batch["time"], before))
        kept.append(batch.filter(inside))
    table = pa.Table.from_batches(kept, EVENTS)
    for name in EVENTS.names:
        if table[name].null_count:
            raise DataError(f"{table[name].null_count} events have no {name}", mend="drop or mend these rows")
    users, user_E = _codes(table["user"])
    items, item_E = _codes(table["item"])
    return users, items, user_E, item_E, table["time"].to_numpy(), {"interactions": read}


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, Int[np.ndarray, "E"]]:
    """Distinct values, and for each row its place among them."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_numpy(zero_copy_only=False), encoded.indices.to_numpy().astype(np.int64)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _available(items: pa.Table, require: tuple[str, ...], item_ids: np.ndarray) -> Bool[np.ndarray, "I"]:
    """Which of `item_ids` have everything in `require`; an id that the item table lacks has nothing."""
    has = np.ones(len(items), dtype=bool)
    for column in require:
        has &= items[column].is_valid().to_numpy()
    return pc.is_in(pa.array(item_ids, pa.string()), items["item"].filter(pa.array(has))).to_numpy(False)


def _first_of_each_pair(
    user_E: Int[np.ndarray, "E"], item_E: Int[np.ndarray, "E"], time_E: Int[np.ndarray, "E"], n_items: int
) -> Int[np.ndarray, "pairs"]:
    """Row numbers of the earliest event of every (user, item) pair."""
    pair_E = user_E * n_items + item_E
    order = np.lexsort((time_E, pair_E))
    sorted_pairs = pair_E[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = sorted_pairs[1:] != sorted_pairs[:-1]
    return order[is_first]


def _dense(code_E: Int[np.ndarray, "E"], raw_ids: np.ndarray) -> tuple[Int[np.ndarray, "E"], np.ndarray]:
    """Codes to dense ids 0..n-1 in the sorted order of raw ids, and those raw ids."""
    used = np.unique(code_E)
    ids, order = np.unique(raw_ids[used].astype(str), return_inverse=True)
    dense = np.empty(len(raw_ids), dtype=np.int64)
    dense[used] = order
    return dense[code_E], ids


def _joined(items: pa.Table, item_ids: np.ndarray) -> pa.Table:
    """The item table's rows for `item_ids`, in their order; an id without a row keeps null text and image."""
    where = pc.index_in(pa.array(item_ids, pa.string()), items["item"])
    rows = items.select(["text", "image"]).take(where)
    columns = {"item_index": _range(len(item_ids)), "item": pa.array(item_ids, pa.string())}
    return pa.table({**columns, "text": rows["text"], "image": rows["image"]})


def _range(n: int) -> pa.Array:
    return pa.array(np.arange(n), pa.int32())


def _count(user_E: Int[np.ndarray, "E"], item_E: Int[np.ndarray, "E"]) -> dict[str, int]:
    return {"users": len(np.unique(user_E)), "items": len(np.unique(item_E)), "interactions": len(user_E)}


def _check_schema(schema: pa.Schema, wanted: pa.Schema, what: str) -> None:
    for field in wanted:
        if field.name not in schema.names:
            raise DataError(f"no column {field.name!r}", where=what, mend=f"it has {', '.join(schema.names)}")
        found = schema.field(field.name).type
        if found != field.type:
            mend = "read ids as text: a number loses its leading zeros" if field.type == pa.string() else "convert it"
            raise DataError(f"column {field.name!r} is {found}, not {field.type},", where=what, mend=mend)
