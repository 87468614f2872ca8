"""Raw events to dense interactions: window, availability, unique pairs, iterated k-core, ids, certificate.

Rows become three numbers as they are read, and are held on disk beyond a number of them: memory grows with the users
and items, not with the length of the log.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from befa.datasets import ACTION, EVENTS, ITEMS, PLACE, DatasetConfig, Window
from befa.errors import ConfigError, DataError, nearest
from befa.ids import Ids
from befa.pairs import Columns, Spool, k_core, partition, unique_pieces
from befa.parallel import ordered
from befa.progress import Progress

log = logging.getLogger(__name__)

ROWS_IN_MEMORY = 1 << 25
"""Rows held in memory (16 bytes each, a few times over while they are sorted); more are held on disk."""

ROWS_IN_PIECE = 1 << 22
"""Rows sorted at a time."""

DAY = 86_400


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
    place: str | None = None
    """Where times are none: what they are a place in (see datasets.PLACE)."""


def filter_events(
    events: Iterable[pa.RecordBatch],
    items: Callable[[], Iterable[pa.RecordBatch]],
    config: DatasetConfig,
    *,
    rows_in_memory: int = ROWS_IN_MEMORY,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Filtered:
    """Applies the fixed order of operations of the field's preprocessing, and says what each step left.

    read -> window and actions -> availability -> unique pairs (the first time is kept) -> k-core to a fixed point ->
    dense ids. `items` starts a reading of the item table: it is read once, twice where availability is asked for.
    What is more than `rows_in_memory` goes to unnamed temporary files in `folder`. `progress` is told the rows read.
    Raises DataError when ids are not strings, when an item that is kept has more than one row in the item table, when
    an action is not in the log, or when fewer than `config.floor` users or items are left; ConfigError for a window
    over events that have no times.
    """
    read = _read(events, config, rows_in_memory, folder, progress)
    steps: dict[str, Any] = {"read": read.counts}
    rank_U, users = read.users.ranks()
    rank_I, item_ids = read.items.ranks()
    keep_I = None
    if config.require:
        keep_I = _available(items(), config.require, item_ids)

    before = None
    if config.window.first_days is not None:
        before = (read.first // DAY + config.window.first_days) * DAY
    seen_U, seen_I, kept_U = (np.zeros(n, bool) for n in (len(users), len(item_ids), len(users)))
    in_window, ranked = 0, Spool(rows_in_memory, folder)

    def by_rank(columns: Columns) -> Columns:
        user_E, item_E, time_E = columns
        columns = (rank_U[user_E], rank_I[item_E], time_E)
        return columns if before is None else tuple(column[time_E < before] for column in columns)

    for user_E, item_E, time_E in ordered(by_rank, read.rows.chunks(forget=True)):
        in_window += len(user_E)
        seen_U[user_E] = seen_I[item_E] = True
        if keep_I is not None:
            available = keep_I[item_E]
            user_E, item_E, time_E = user_E[available], item_E[available], time_E[available]
            kept_U[user_E] = True
        ranked.append(user_E, item_E, time_E)
    steps["window"] = {"users": int(seen_U.sum()), "items": int(seen_I.sum()), "interactions": in_window}
    if keep_I is not None:
        counts = {"users": int(kept_U.sum()), "items": int((seen_I & keep_I).sum()), "interactions": ranked.rows}
        steps["available"] = {"require": list(config.require), **counts}

    number = max(1, -(-ranked.rows // min(ROWS_IN_PIECE, rows_in_memory)))
    pieces = partition(ranked, len(users), number, rows_in_memory=rows_in_memory, folder=folder)
    pieces = unique_pieces(pieces, len(item_ids), rows_in_memory=rows_in_memory, folder=folder)
    alive_U, alive_I, rounds = k_core(pieces, len(users), len(item_ids), config.core)
    steps["unique"], steps["rounds"] = rounds[0], rounds[1:]
    left = rounds[-1]
    if min(left["users"], left["items"]) < config.floor:
        raise DataError(
            f"core {config.core} leaves {left['users']} users and {left['items']} items (floor: {config.floor})",
            where="the dataset's block of params.yaml",
            mend="lower `core`, widen `window`, or lower `floor`",
        )

    interactions = _dense(pieces, alive_U, alive_I)
    kept_users = pa.table({"user_index": _range(left["users"]), "user": users.filter(pa.array(alive_U)).cast("string")})
    kept_items = _joined(items(), item_ids.filter(pa.array(alive_I)).cast("string"))
    density = left["interactions"] / (left["users"] * left["items"])
    shown = {f"items_without_{m}": kept_items[m].null_count for m in ("image", "text")}
    stats = {**left, "density": density, "core": config.core, **shown, **steps}
    return Filtered(interactions, kept_users, kept_items, stats, read.place)


@dataclass(frozen=True)
class _Log:
    """What was read: coded rows of the window's days and actions, and the ids that the codes stand for."""

    rows: Spool
    users: Ids
    items: Ids
    first: int
    """Earliest time."""
    counts: dict[str, Any]
    place: str | None
    """See `Filtered`."""


def _read(
    events: Iterable[pa.RecordBatch],
    config: DatasetConfig,
    rows_in_memory: int,
    folder: Path | None,
    progress: Progress | None,
) -> _Log:
    """Codes events as they come, users and items side by side with the reading of the next ones."""
    users, items, rows = Ids(), Ids(), Spool(rows_in_memory, folder)
    read, first, actions, place = 0, np.iinfo(np.int64).max, {}, None

    def chosen() -> Iterator[pa.RecordBatch]:
        nonlocal read, first, place
        for batch in events:
            _check_schema(batch.schema, EVENTS, "events")
            place = _place(batch.schema, config)
            read += len(batch)
            batch = _chosen(batch, config, actions)
            if progress is not None:
                progress(read, None)
            for name in EVENTS.names:
                if batch[name].null_count:
                    raise DataError(f"{batch[name].null_count} events have no {name}", mend="drop or mend these rows")
            if len(batch):
                first = min(first, pc.min(batch["time"]).as_py())
                yield batch

    def coded(batch: pa.RecordBatch) -> Columns:
        return users.encode(batch["user"]), items.encode(batch["item"]), batch["time"].to_numpy()

    # One thread: codes are given in the order of rows. It works while the next rows are read.
    for columns in ordered(coded, chosen(), threads=1):
        rows.append(*columns)
    counts: dict[str, Any] = {"interactions": read}
    if actions:
        counts["actions"] = dict(sorted(actions.items()))
    unseen = [action for action in config.actions or () if action not in actions]
    if unseen and read:
        mend = nearest(unseen[0], sorted(actions)) if actions else "this source has no actions: set it to null"
        what = f"no event has the action {unseen[0]!r}"
        if len(unseen) == len(config.actions):
            raise DataError(what, where="`actions` of params.yaml", mend=mend)
        log.warning("%s; %s", what, mend)
    return _Log(rows, users, items, first, counts, place)


def _place(schema: pa.Schema, config: DatasetConfig) -> str | None:
    """See `Filtered.place`."""
    place = (schema.metadata or {}).get(PLACE.encode())
    if place is not None and config.window != Window():
        mend = "set since, until and first_days to null, or get files that have times"
        raise ConfigError("the events have no times to cut a window from", where="`window` of params.yaml", mend=mend)
    return None if place is None else place.decode()


def _chosen(batch: pa.RecordBatch, config: DatasetConfig, actions: dict[str, int]) -> pa.RecordBatch:
    """The rows of the window's days and of the wanted actions; counts all actions into `actions`."""
    if ACTION in batch.schema.names:
        for counted in batch[ACTION].value_counts():
            name = str(counted["values"])
            actions[name] = actions.get(name, 0) + counted["counts"].as_py()
        if config.actions is not None:
            batch = batch.filter(pc.is_in(batch[ACTION], value_set=pa.array(config.actions)))
    masks = []
    if config.window.since is not None:
        masks.append(pc.greater_equal(batch["time"], _midnight(config.window.since)))
    if config.window.until is not None:
        masks.append(pc.less(batch["time"], _midnight(config.window.until + timedelta(days=1))))
    if masks and batch["time"].null_count:  # they would be left out without a word
        raise DataError(f"{batch['time'].null_count} events have no time", mend="drop or mend these rows")
    for mask in masks[1:]:
        masks[0] = pc.and_(masks[0], mask)
    return batch.filter(masks[0]) if masks else batch


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _available(items: Iterable[pa.RecordBatch], require: tuple[str, ...], item_ids: pa.Array) -> Bool[np.ndarray, " I"]:
    """Which of the sorted `item_ids` have everything in `require`; an id that the item table lacks has nothing."""
    has_I = np.zeros(len(item_ids), bool)
    for batch, place_R in _placed(items, item_ids):
        has_R = np.ones(len(batch), bool)
        for column in require:
            has_R &= batch[column].is_valid().to_numpy(False)
        has_I[place_R[has_R]] = True
    return has_I


def _joined(items: Iterable[pa.RecordBatch], item_ids: pa.Array) -> pa.Table:
    """The item table's rows for the sorted `item_ids`; an id without a row keeps null text and image."""
    count_I, row_I, kept, rows = np.zeros(len(item_ids), np.int64), np.full(len(item_ids), -1), [], 0
    theirs: list[str] = []
    for batch, place_R in _placed(_seen(items, theirs), item_ids):
        np.add.at(count_I, place_R, 1)
        row_I[place_R] = rows + np.arange(len(batch))
        kept.append(batch.select(["text", "image"]))
        rows += len(batch)
    if (count_I > 1).any():
        first = item_ids[int(np.argmax(count_I > 1))].as_py()
        what = f"{int((count_I > 1).sum())} item ids occur more than once in the item table (first: {first!r})"
        raise DataError(what, mend="keep one row per item")
    if theirs and (row_I < 0).any():
        such = f"such as {item_ids[int(np.argmax(row_I < 0))].as_py()!r}; the table's are such as {theirs[0]!r}"
        if not rows:
            raise DataError(f"no item has a row in the item table ({such})", mend="give both files the same ids")
        log.warning("%d of %d items have no row in the item table (%s)", (row_I < 0).sum(), len(item_ids), such)
    table = pa.Table.from_batches(kept, pa.schema([ITEMS.field("text"), ITEMS.field("image")]))
    table = table.take(pa.array(row_I, mask=row_I < 0))
    return pa.table({
        "item_index": _range(len(item_ids)), "item": item_ids, "text": table["text"], "image": table["image"],
    })  # fmt: skip


def _seen(items: Iterable[pa.RecordBatch], ids: list[str]) -> Iterator[pa.RecordBatch]:
    """`items`, with an id of theirs put into `ids`."""
    for batch in items:
        if not ids and len(batch) and batch.schema.get_field_index("item") >= 0:
            ids.append(batch["item"][0].as_py())
        yield batch


def _placed(
    items: Iterable[pa.RecordBatch], item_ids: pa.Array
) -> Iterator[tuple[pa.RecordBatch, Int[np.ndarray, " R"]]]:
    """Rows of the item table whose id is among `item_ids`, and their places in it."""
    item_ids = item_ids.cast("string")
    for batch in items:
        _check_schema(batch.schema, ITEMS, "item table")
        place = pc.index_in(batch["item"], value_set=item_ids)
        known = place.is_valid()
        yield batch.filter(known), place.drop_null().to_numpy()


def _dense(pieces: list[Spool], alive_U: Bool[np.ndarray, " U"], alive_I: Bool[np.ndarray, " I"]) -> pa.Table:
    """The pairs of those alive, by dense ids; pieces are sorted, and so is the table."""
    index_U, index_I = (np.cumsum(alive, dtype=np.int32) - np.int32(1) for alive in (alive_U, alive_I))

    def dense(columns: Columns) -> Columns:
        user_E, item_E, time_E = columns
        kept = alive_U[user_E] & alive_I[item_E]
        return index_U[user_E[kept]], index_I[item_E[kept]], time_E[kept]

    parts = list(ordered(dense, chain.from_iterable(piece.chunks(forget=True) for piece in pieces)))
    names = ("user_index", "item_index", "time")
    columns = zip(names, zip(*parts, strict=True), strict=True)
    return pa.table({name: pa.chunked_array(map(pa.array, column)) for name, column in columns})


def _range(n: int) -> pa.Array:
    return pa.array(np.arange(n), pa.int32())


def _check_schema(schema: pa.Schema, wanted: pa.Schema, what: str) -> None:
    for field in wanted:
        if field.name not in schema.names:
            raise DataError(f"no column {field.name!r}", where=what, mend=f"it has {', '.join(schema.names)}")
        found = schema.field(field.name).type
        if found != field.type:
            mend = "read ids as text: a number loses its leading zeros" if field.type == pa.string() else "convert it"
            raise DataError(f"column {field.name!r} is {found}, not {field.type},", where=what, mend=mend)
