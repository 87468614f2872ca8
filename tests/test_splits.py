"""Splits partition their input, whatever the rule, and hold out what the rule says."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from befa import splits, tables
from befa.datasets import PLACE, SplitConfig
from befa.errors import ConfigError, DataError

RULES = ("random", "user_time", "global_time", "mmrec")


def interactions(rows):
    users, items, times = zip(*rows, strict=True)
    return pa.table({
        "user_index": pa.array(users, pa.int32()),
        "item_index": pa.array(items, pa.int32()),
        "time": pa.array(times, pa.int64()),
    })  # fmt: skip


def history(user, n):
    return [(user, item, 1000 - item) for item in range(n)]


rows = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 20)), st.integers(0, 3), min_size=1, max_size=80
).map(lambda times: [(*pair, time) for pair, time in times.items()])


@given(rows, st.sampled_from(RULES))
def test_a_split_partitions_its_input_whatever_the_row_order(rows, rule):
    table = splits.split(interactions(rows), SplitConfig(rule=rule))
    assert list(zip(table["user_index"].to_pylist(), table["item_index"].to_pylist(), strict=True)) == sorted(
        (user, item) for user, item, _ in rows
    )
    assert set(table["split"].to_pylist()) <= set(splits.PARTS)
    assert splits.split(interactions(rows[::-1]), SplitConfig(rule=rule)).equals(table)


@pytest.mark.parametrize("rule", ["random", "user_time"])
@pytest.mark.parametrize(("n", "held"), [(2, 0), (3, 1), (5, 1), (10, 1), (14, 1), (15, 2), (20, 2), (100, 10)])
def test_eight_one_one_per_user(rule, n, held):
    table = splits.split(interactions(history(0, n)), SplitConfig(rule=rule))
    counts = {part: table["split"].to_pylist().count(part) for part in splits.PARTS}
    assert counts == {"train": n - 2 * held, "valid": held, "test": held}


@pytest.mark.parametrize(
    ("n", "counts"), [(9, (7, 1, 1)), (10, (8, 1, 1)), (15, (12, 1, 2)), (19, (16, 1, 2)), (20, (16, 2, 2))]
)
def test_mmrec_rule(n, counts):
    table = splits.split(interactions(history(0, n)), SplitConfig(rule="mmrec"))
    assert tuple(table["split"].to_pylist().count(part) for part in splits.PARTS) == counts


@pytest.mark.parametrize("rule", ["random", "user_time"])
@pytest.mark.parametrize(("valid", "test"), [(0.4, 0.4), (0.49, 0.5), (0.0, 0.99), (0.99, 0.0)])
def test_every_user_keeps_something_to_train_on(rule, valid, test):
    rows = [row for user, n in enumerate(range(1, 20)) for row in history(user, n)]
    table = splits.split(interactions(rows), SplitConfig(rule=rule, valid=valid, test=test))
    trained = {row["user_index"] for row in table.to_pylist() if row["split"] == "train"}
    assert trained == set(range(19))


def test_shares_that_leave_nothing_are_an_error():
    for rule in ("random", "user_time", "global_time"):
        with pytest.raises(ConfigError, match=r"0\.6 \(valid\) and 0\.4 \(test\) leave nothing to train on"):
            splits.split(interactions(history(0, 10)), SplitConfig(rule=rule, valid=0.6, test=0.4))
    splits.split(interactions(history(0, 10)), SplitConfig(rule="mmrec", valid=0.6, test=0.4))  # has its own shares


def test_places_in_a_users_order_are_no_times():
    known = interactions(history(0, 10))
    for place, refused in (("user", True), ("file", False)):
        table = known.replace_schema_metadata({PLACE: place})
        if refused:
            with pytest.raises(ConfigError, match="global_time compares users' times"):
                splits.split(table, SplitConfig(rule="global_time"))
        else:
            splits.split(table, SplitConfig(rule="global_time"))
        assert splits.split(table, SplitConfig(rule="user_time")) == splits.split(known, SplitConfig(rule="user_time"))


def test_user_time_holds_out_the_latest_and_breaks_ties_by_item():
    rows = [(0, 3, 7), (0, 1, 9), (0, 0, 9), (0, 2, 1), (0, 4, 1)]
    table = splits.split(interactions(rows), SplitConfig(rule="user_time"))
    assert dict(zip(table["item_index"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        2: "train", 4: "train", 3: "train", 0: "valid", 1: "test",
    }  # fmt: skip


def test_global_time_never_trains_on_what_comes_after_the_test():
    rng = np.random.default_rng(0)
    rows = [(u, i, int(rng.integers(1000))) for u in range(20) for i in range(10)]
    times = {(u, i): t for u, i, t in rows}
    table = splits.split(interactions(rows), SplitConfig(rule="global_time")).to_pylist()
    by_part = {p: [times[r["user_index"], r["item_index"]] for r in table if r["split"] == p] for p in splits.PARTS}
    assert [len(by_part[p]) for p in splits.PARTS] == [160, 20, 20]
    assert max(by_part["train"]) <= min(by_part["valid"])
    assert max(by_part["valid"]) <= min(by_part["test"])


def test_a_seed_is_a_split():
    rows = [row for user in range(9) for row in history(user, 12)]
    one, again, other = (
        splits.split(interactions(rows), SplitConfig(seed=seed))["split"].to_pylist() for seed in (1, 1, 2)
    )
    assert one == again != other


def test_parts_are_read_back(tmp_path):
    table = splits.split(interactions([row for user in range(4) for row in history(user, 10)]), SplitConfig())
    splits.write(tmp_path / "split.parquet", table, pa.chunked_array([["a"]]), pa.chunked_array([["b"]]))
    read = [splits.read(tmp_path / "split.parquet", part) for part in splits.PARTS]
    assert [len(users) for users, _ in read] == [32, 4, 4]
    whole = sorted((u, i) for users, items in read for u, i in zip(users.tolist(), items.tolist(), strict=True))
    assert whole == [(u, i) for u in range(4) for i in range(10)]


def test_a_split_of_other_users_or_items_is_an_error(tmp_path):
    path = tmp_path / "hm.parquet"
    table = splits.split(interactions(history(0, 2)), SplitConfig())
    users, items, shifted = (pa.chunked_array([ids]) for ids in (["u"], ["a", "b"], ["0", "a"]))
    splits.write(path, table, users, items)
    splits.check(path, users, items)
    for other in ((users, shifted), (pa.chunked_array([["v"]]), items), (users, pa.chunked_array([["ab"]]))):
        with pytest.raises(DataError, match=r"other users or items .*hm\.parquet; run dvc repro split@hm"):
            splits.check(path, *other)
    tables.write_table(path, table)  # by another program, which says nothing
    splits.check(path, users, shifted)


def test_a_split_of_another_program_may_have_any_order_and_no_pair_twice(tmp_path):
    path, users, items = tmp_path / "hm.parquet", pa.chunked_array([["a", "b"]]), pa.chunked_array([["x", "y"]])
    table = pa.table({"user_index": [1, 0, 1], "item_index": [1, 0, 0], "split": ["train", "train", "train"]})
    tables.write_table(path, table)
    splits.check(path, users, items)
    assert [column.tolist() for column in splits.read(path, "train")] == [[0, 1, 1], [0, 0, 1]]
    again = pa.table({"user_index": [1], "item_index": [0], "split": ["test"]})
    tables.write_table(path, pa.concat_tables([table, again]))
    with pytest.raises(DataError, match=r"user_index 1 has item_index 0 twice .*hm\.parquet; keep one of them"):
        splits.check(path, users, items)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ((0, 2, "test"), r"item_index is from 0 to 2, and there are 2"),
        ((0, -1, "valid"), r"item_index is from -1 to 1, and there are 2"),
        ((2, 0, "test"), r"user_index is from 0 to 2, and there are 2"),
        ((None, 0, "test"), r"user_index is of type int64 with 1 nulls"),
        ((0, 1, "Test"), r"a pair has the split 'Test'.*it is one of train, valid, test"),
        ((0, 1, None), r"a pair has the split None"),
    ],
)
def test_a_split_of_another_program_names_what_there_is(tmp_path, row, error):
    """An item of -1 was the last one of the user before, and a recall of 2."""
    path, users, items = tmp_path / "hm.parquet", pa.chunked_array([["a", "b"]]), pa.chunked_array([["x", "y"]])
    rows = [(0, 0, "train"), (1, 1, "train"), row]
    columns = map(list, zip(*rows, strict=True))
    tables.write_table(path, pa.table(dict(zip(("user_index", "item_index", "split"), columns, strict=True))))
    with pytest.raises(DataError, match=error):
        splits.check(path, users, items)


@pytest.mark.parametrize(("share", "n", "wanted"), [(0.35, 90, 32), (0.29, 50, 15), (0.145, 100, 15), (0.1, 15, 2)])
def test_halves_go_up_whatever_the_binary_number_below_the_share(share, n, wanted):
    table = interactions(history(0, n))
    found = splits.split(table, SplitConfig(test=share, valid=0.0))["split"].to_pylist()
    assert found.count("test") == wanted


def test_global_time_rounds_its_shares():
    rows = {
        "user_index": pa.array([0] * 16, pa.int32()),
        "item_index": pa.array(range(16), pa.int32()),
        "time": pa.array(range(16), pa.int64()),
    }
    table = splits.split(pa.table(rows), SplitConfig(rule="global_time"))
    assert table["split"].to_pylist() == ["train"] * 12 + ["valid"] * 2 + ["test"] * 2


def test_a_rule_draws_for_itself():
    rows = {
        "user_index": pa.array(np.repeat(range(20), 12), pa.int32()),
        "item_index": pa.array(list(range(12)) * 20, pa.int32()),
        "time": pa.array([0] * 240, pa.int64()),
    }
    held = [
        {
            (r["user_index"], r["item_index"])
            for r in splits.split(pa.table(rows), SplitConfig(rule=rule)).to_pylist()
            if r["split"] != "train"
        }
        for rule in ("random", "mmrec")
    ]
    assert held[0] != held[1]


def test_parts_are_read_by_user_then_item(tmp_path):
    table = pa.table({"user_index": [1, 0], "item_index": [0, 1], "split": ["train", "train"]})
    tables.write_table(tmp_path / "x.parquet", table)
    assert [column.tolist() for column in splits.read(tmp_path / "x.parquet", "train")] == [[0, 1], [1, 0]]
