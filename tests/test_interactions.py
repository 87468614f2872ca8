"""The filter: laws of a k-core, the fixed order of operations, and its certificate."""

from collections import Counter
from datetime import date
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befa.errors import DataError
from befa.interactions import filter_events, k_core
from befa.sources.base import EVENTS, ITEMS, DatasetConfig, Window

DAY = 86_400

pairs = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=50).map(sorted)


def arrays(edges):
    table = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


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
    keep, rounds = k_core(*arrays(edges), k)
    core = {edge for edge, kept in zip(edges, keep, strict=True) if kept}
    assert core == naive_core(edges, k)
    keep_reversed, _ = k_core(*arrays(edges[::-1]), k)
    assert keep_reversed[::-1].tolist() == keep.tolist()
    sizes = [len(edges)] + [r["interactions"] for r in rounds]
    assert sizes[-1] == len(core)
    assert all(before > after for before, after in pairwise(sizes))


def config(**changes):
    return DatasetConfig(**{"kind": "demo", "source": None, "core": 1, "floor": 1, **changes})


def events(rows):
    users, items, times = zip(*rows, strict=True)
    half = len(rows) // 2
    table = pa.table([users, items, times], schema=EVENTS)
    return iter(table.slice(0, half).to_batches() + table.slice(half).to_batches())


def items(*rows):
    return pa.Table.from_pylist([dict(zip(ITEMS.names, row, strict=True)) for row in rows], schema=ITEMS)


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
    with pytest.raises(DataError, match=r"core 3 leaves 0 users and 0 items \(floor: 1\); lower `core`"):
        filter_events(events([("a", "010", 1), ("b", "009", 2)]), CATALOGUE, config(core=3))


def test_an_id_read_as_a_number_is_an_error():
    batch = pa.record_batch({"user": ["a"], "item": [108775015], "time": [1]})
    with pytest.raises(DataError, match=r"column 'item' is int64, not string, in events; .*leading zeros"):
        filter_events(iter([batch]), CATALOGUE, config())


def test_an_item_that_occurs_twice_is_an_error():
    twice = items(("010", "ten", None), ("010", "zehn", None))
    with pytest.raises(DataError, match="1 item ids occur more than once"):
        filter_events(events([("a", "010", 1), ("b", "010", 2)]), twice, config())


def test_an_event_without_a_user_is_an_error():
    with pytest.raises(DataError, match="1 events have no user"):
        filter_events(events([(None, "010", 1), ("b", "010", 2)]), CATALOGUE, config())
