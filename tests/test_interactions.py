"""The filter: laws of a k-core, the fixed order of operations, and its certificate."""

from collections import Counter
from datetime import date
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befa.datasets import ACTION, EVENTS, ITEMS, PLACE, DatasetConfig, Window
from befa.errors import ConfigError, DataError
from befa.interactions import filter_events
from befa.pairs import Spool, k_core

DAY = 86_400

pairs = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=50).map(sorted)


def spools(edges, pieces=1):
    """The edges in some pieces, each half in memory and half on disk."""
    table = np.array(edges, dtype=np.int32).reshape(-1, 2)
    result = [Spool(rows_in_memory=len(table) // 2 // pieces) for _ in range(pieces)]
    for start in range(0, len(table), 3):
        rows = table[start : start + 3]
        result[start % pieces].append(rows[:, 0], rows[:, 1], np.zeros(len(rows), np.int64))
    return result


def naive_core(edges, k):
    """Drop one poor node at a time, whichever comes first."""
    edges = set(edges)
    while True:
        users, items = Counter(u for u, _ in edges), Counter(i for _, i in edges)
        poor = next((e for e in sorted(edges) if users[e[0]] < k or items[e[1]] < k), None)
        if poor is None:
            return edges
        edges.discard(poor)


@given(pairs, st.integers(1, 4))
def test_k_core_is_the_largest_fixed_point_whatever_the_row_order(edges, k):
    users_U, items_I, rounds = k_core(spools(edges), 8, 8, k)
    core = {(u, i) for u, i in edges if users_U[u] and items_I[i]}
    assert core == naive_core(edges, k)
    assert set(np.flatnonzero(users_U)) == {u for u, _ in core}
    assert set(np.flatnonzero(items_I)) == {i for _, i in core}
    again_U, again_I, same_rounds = k_core(spools(edges[::-1], pieces=2), 8, 8, k)
    assert (again_U.tolist(), again_I.tolist(), same_rounds) == (users_U.tolist(), items_I.tolist(), rounds)
    sizes = [r["interactions"] for r in rounds]
    assert (sizes[0], sizes[-1]) == (len(edges), len(core))
    assert all(before > after for before, after in pairwise(sizes))


def config(**changes):
    return DatasetConfig(**{"kind": "demo", "source": None, "core": 1, "floor": 1, **changes})


def events(rows):
    users, items, times = zip(*rows, strict=True)
    half = len(rows) // 2
    table = pa.table([users, items, times], schema=EVENTS)
    return iter(table.slice(0, half).to_batches() + table.slice(half).to_batches())


def items(*rows):
    table = pa.Table.from_pylist([dict(zip(ITEMS.names, row, strict=True)) for row in rows], schema=ITEMS)
    return lambda: table.to_batches(max_chunksize=2)


CATALOGUE = items(("010", "ten", "a.jpg"), ("009", None, "b.jpg"), ("100", "hundred", None), ("000", "unsold", "c.jpg"))


def test_ids_are_dense_in_the_order_of_raw_ids_and_the_first_time_is_kept():
    rows = [("b", "100", 30), ("a", "010", 20), ("a", "010", 10), ("b", "009", 5), ("a", "010", 40)]
    result = filter_events(events(rows), CATALOGUE, config())
    assert result.users.to_pylist() == [{"user_index": 0, "user": "a"}, {"user_index": 1, "user": "b"}]
    assert result.items.select(["item_index", "item", "image"]).to_pylist() == [
        {"item_index": 0, "item": "009", "image": "b.jpg"},
        {"item_index": 1, "item": "010", "image": "a.jpg"},
        {"item_index": 2, "item": "100", "image": None},
    ]
    assert [tuple(row.values()) for row in result.interactions.to_pylist()] == [(0, 1, 10), (1, 0, 5), (1, 2, 30)]


def test_the_window_holds_both_its_days_and_comes_before_the_core():
    rows = [("a", "010", 2 * DAY - 1), ("a", "009", 2 * DAY), ("b", "009", 4 * DAY - 1), ("b", "010", 4 * DAY)]
    window = Window(since=date(1970, 1, 3), until=date(1970, 1, 4))
    result = filter_events(events(rows), CATALOGUE, config(window=window))
    assert result.interactions["time"].to_pylist() == [2 * DAY, 4 * DAY - 1]
    assert result.stats["read"] == {"interactions": 4}
    assert result.stats["window"] == {"users": 2, "items": 1, "interactions": 2}


def test_an_event_without_a_time_is_an_error_with_a_window_too():
    none = pa.record_batch([["u"], ["i"], pa.array([None], pa.int64())], schema=EVENTS)
    with pytest.raises(DataError, match="1 events have no time"):
        filter_events([none], CATALOGUE, config(window=Window(since=date(1970, 1, 3))))


def test_a_window_needs_times_and_places_are_told_on():
    def placed():
        return [batch.replace_schema_metadata({PLACE: "user"}) for batch in events([("a", "010", 0), ("a", "009", 1)])]

    assert filter_events(placed(), CATALOGUE, config()).place == "user"
    assert filter_events(events([("a", "010", 0)]), CATALOGUE, config()).place is None
    with pytest.raises(ConfigError, match="the events have no times to cut a window from"):
        filter_events(placed(), CATALOGUE, config(window=Window(first_days=1)))


def test_availability_is_asked_for_and_recorded():
    rows = [("a", "010", 1), ("a", "009", 2), ("b", "100", 3), ("b", "elsewhere", 4)]
    everything = filter_events(events(rows), CATALOGUE, config())
    assert everything.stats["items_without_image"] == 2
    assert everything.stats["items_without_text"] == 2
    with_both = filter_events(events(rows), CATALOGUE, config(require=("image", "text")))
    assert with_both.items["item"].to_pylist() == ["010"]
    assert with_both.stats["available"] == {"require": ["image", "text"], "users": 1, "items": 1, "interactions": 1}


def test_the_certificate_names_every_round():
    # c's only item is x, sold twice; without c, x has one buyer left and goes too.
    rows = [(u, i, 0) for u in "ab" for i in ("010", "009")] + [("a", "x", 0), ("c", "x", 0)]
    stats = filter_events(events(rows), CATALOGUE, config(core=2)).stats
    assert stats["unique"] == {"users": 3, "items": 3, "interactions": 6}
    assert stats["rounds"] == [
        {"users": 2, "items": 3, "interactions": 5},
        {"users": 2, "items": 2, "interactions": 4},
    ]
    assert (stats["users"], stats["items"], stats["interactions"], stats["density"]) == (2, 2, 4, 1.0)


def test_a_core_that_leaves_too_little_names_the_parameter():
    with pytest.raises(DataError, match=r"core 3 leaves 0 users and 0 items \(floor: 1\) in .*yaml; lower `core`"):
        filter_events(events([("a", "010", 1), ("b", "009", 2)]), CATALOGUE, config(core=3))


def test_an_id_read_as_a_number_is_an_error():
    batch = pa.record_batch({"user": ["a"], "item": [108775015], "time": [1]})
    with pytest.raises(DataError, match=r"column 'item' is int64, not string, in events; .*leading zeros"):
        filter_events(iter([batch]), CATALOGUE, config())


def test_an_item_that_occurs_twice_is_an_error():
    twice = items(("010", "ten", None), ("010", "zehn", None))
    with pytest.raises(DataError, match="1 item ids occur more than once"):
        filter_events(events([("a", "010", 1), ("b", "010", 2)]), twice, config())


def test_ids_that_the_item_table_does_not_know_are_told(caplog):
    bought = events([("a", "010", 1), ("b", "0101", 2)])
    assert filter_events(bought, CATALOGUE, config()).items["text"].to_pylist() == ["ten", None]
    assert "1 of 2 items have no row in the item table (such as '0101'; the table's are such as '010')" in caplog.text
    with pytest.raises(DataError, match=r"no item has a row in the item table .*; give both files the same ids"):
        filter_events(events([("a", "10", 1), ("b", "9", 2)]), CATALOGUE, config())


def test_an_event_without_a_user_is_an_error():
    with pytest.raises(DataError, match="1 events have no user"):
        filter_events(events([(None, "010", 1), ("b", "010", 2)]), CATALOGUE, config())


logs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=60)


@given(logs, st.integers(1, 2), st.sampled_from([1, 7, 20]))
def test_what_is_held_on_disk_changes_nothing(rows, core, rows_in_memory):
    rows = [(f"u{u}", f"i{i}", t * DAY) for u, i, t in rows]
    window, sold = Window(first_days=4), items(*((f"i{n}", f"title {n}", None) for n in range(10)))
    results = []
    for limit in (1_000, rows_in_memory):
        try:
            found = filter_events(events(rows), sold, config(core=core, window=window), rows_in_memory=limit)
            results.append((found.interactions.to_pylist(), found.users, found.items, found.stats))
        except DataError as error:
            results.append(str(error))
    assert results[0] == results[1]
    # Against a plain loop.
    begin = min(t for _, _, t in rows) // DAY
    first = {}
    for u, i, t in rows:
        if t < (begin + 4) * DAY:
            first[u, i] = min(t, first.get((u, i), t))
    left = naive_core(first, core)
    if left:
        found, users, kept_items, _ = results[0]
        names = [
            (users["user"][row["user_index"]].as_py(), kept_items["item"][row["item_index"]].as_py()) for row in found
        ]
        assert names == sorted(left)
        assert [row["time"] for row in found] == [first[pair] for pair in names]
    else:
        assert "leaves 0 users" in results[0]


def acted(rows):
    return [
        pa.table(dict(zip([*EVENTS.names, ACTION], map(list, zip(*rows, strict=True)), strict=True))).to_batches()[0]
    ]


def test_actions_are_chosen_and_counted(caplog):
    rows = [("a", "010", 1, "click"), ("a", "009", 2, "buy"), ("b", "009", 3, "buy"), ("b", "100", 4, None)]
    result = filter_events(acted(rows), CATALOGUE, config(actions=("buy",)))
    assert result.stats["read"] == {"interactions": 4, "actions": {"None": 1, "buy": 2, "click": 1}}
    assert result.stats["window"] == {"users": 2, "items": 1, "interactions": 2}
    with pytest.raises(DataError, match=r"no event has the action 'by'.*did you mean 'buy'"):
        filter_events(acted(rows), CATALOGUE, config(actions=("by",)))
    filter_events(acted(rows), CATALOGUE, config(actions=("buy", "clic")))
    assert "no event has the action 'clic'; did you mean 'click'" in caplog.text
    with pytest.raises(DataError, match="this source has no actions"):
        filter_events(events([("a", "010", 1), ("b", "009", 2)]), CATALOGUE, config(actions=("buy",)))


def test_progress_counts_what_was_read():
    seen = []
    log = events([("a", "010", 1), ("b", "010", 2)])
    filter_events(log, CATALOGUE, config(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, None), (2, None)]


def test_a_window_without_events_is_the_same_clear_error():
    for window in (Window(since=date(2030, 1, 1)), Window(until=date(1960, 1, 1), first_days=3)):
        with pytest.raises(DataError, match="core 1 leaves 0 users and 0 items"):
            filter_events(events([("a", "010", 1), ("b", "009", 2)]), CATALOGUE, config(window=window))
