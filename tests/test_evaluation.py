"""The test part: what is masked under each protocol, who is left out, and that nothing else reads it."""

import ast
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from befa import tables
from befa.errors import DataError
from befa.evaluation import Evaluation, evaluate, over_seeds
from befa.metrics import CUTOFFS, METRICS, TEST
from befa.paths import Layout
from befa.problem import Problem
from befa.report.befa_table import befa_table, cells, markdown
from tests.test_training import small_cell

ROOT = Path(__file__).parent.parent
# user: (train, valid, test); item ids are scores for every user, so item 5 ranks first
PARTS = {0: ([0], [5], [4]), 1: ([5], [4], [3]), 2: ([], [1], [2]), 3: ([1, 2], [], [])}


class Fixed(nn.Module):
    def user_item_vectors(self):
        return torch.ones(4, 1), torch.arange(6.0)[:, None]


@pytest.fixture
def layout(tmp_path):
    at = Layout(tmp_path)
    rows = [
        (u, i, name)
        for u, parts in PARTS.items()
        for name, items in zip(("train", "valid", "test"), parts, strict=True)
        for i in items
    ]
    users, items, names = zip(*rows, strict=True)
    split = {"user_index": pa.array(users, pa.int32()), "item_index": pa.array(items, pa.int32()), "split": names}
    tables.write_table(at.split("small"), pa.table(split))
    tables.write_table(at.filtered("small") / "users.parquet", pa.table({"user": ["a", "b", "c", "d"]}))
    return at


def result(layout, protocol):
    train = [(u, i) for u, (items, _, _) in PARTS.items() for i in items]
    problem = Problem(4, 6, *(torch.tensor(column) for column in zip(*train, strict=True)))
    return evaluate(Fixed(), problem, layout, small_cell(protocol=protocol))


@pytest.mark.parametrize(("protocol", "ranks"), [("clean", [1, 1]), ("mmrec", [2, 2])])
def test_validation_items_are_masked_only_under_clean(layout, protocol, ranks):
    evaluated = result(layout, protocol)
    assert evaluated.per_user["user"].to_pylist() == ["a", "b"]
    wanted = 1 / np.log2(np.array(ranks) + 1)
    assert evaluated.per_user["ndcg@5"].to_pylist() == pytest.approx(wanted.tolist())
    assert evaluated.metrics["test"]["ndcg@5"] == pytest.approx(wanted.mean())
    # c has no training interaction, d has nothing to test
    assert (evaluated.metrics["users"], evaluated.metrics["left_out"]) == (2, 1)


def test_validation_is_reported_beside_the_test(layout):
    # a's valid item 5 ranks first; b's 4 ranks first as 5 is masked
    assert result(layout, "clean").metrics["valid"]["recall@5"] == 1.0


def test_nobody_to_test_is_an_error(layout):
    split = {"user_index": pa.array([0], pa.int32()), "item_index": pa.array([1], pa.int32()), "split": ["train"]}
    tables.write_table(layout.split("small"), pa.table(split))
    with pytest.raises(DataError, match="no test interaction of a known user"):
        result(layout, "clean")


def test_the_table_says_which_items_the_test_has(layout):
    path, before = layout.split("small"), result(layout, "clean").per_user.schema.metadata
    assert result(layout, "mmrec").per_user.schema.metadata == before
    split = tables.read_table(path)
    moved = pa.array([(item + 1) % 6 for item in split["item_index"].to_pylist()], pa.int32())
    tables.write_table(path, split.set_column(1, "item_index", moved))
    assert result(layout, "clean").per_user.schema.metadata != before
    assert over_seeds({1: result(layout, "clean")}).per_user.schema.metadata.keys() == {TEST.encode()}


def of_seed(recall, users=("a", "b")):
    metrics = {"test": {"recall@5": recall}, "valid": {"recall@5": recall / 2}, "users": len(users), "left_out": 1}
    return Evaluation(metrics, pa.table({"user": list(users), "recall@5": [recall] * len(users)}))


def test_several_seeds_are_a_mean_a_deviation_and_each_ones_own():
    result = over_seeds({7: of_seed(0.1), 3: of_seed(0.3)})
    assert result.metrics["test"]["recall@5"] == pytest.approx(0.2)
    assert result.metrics["valid"]["recall@5"] == pytest.approx(0.1)
    # of a sample: divided by n - 1
    assert result.metrics["deviation"]["test"]["recall@5"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert result.metrics["deviation"]["valid"]["recall@5"] == pytest.approx(np.std([0.05, 0.15], ddof=1))
    assert result.metrics["seeds"]["3"] == {"test": {"recall@5": 0.3}, "valid": {"recall@5": 0.15}}
    assert (result.metrics["users"], result.metrics["left_out"]) == (2, 1)
    assert result.per_user["seed"].to_pylist() == [7, 7, 3, 3]
    assert result.per_user["user"].to_pylist() == ["a", "b", "a", "b"]


def test_one_seed_has_no_deviation():
    result = over_seeds({7: of_seed(0.1)})
    assert "deviation" not in result.metrics
    assert result.metrics["test"] == result.metrics["seeds"]["7"]["test"] == {"recall@5": 0.1}


def by_model(deviation=None, seeds=1):
    names = [f"{metric}@{cutoff}" for metric in METRICS for cutoff in CUTOFFS]
    cell = {"test": dict.fromkeys(names, 0.25), "seeds": dict.fromkeys(map(str, range(seeds)))}
    return {"bm3": cell if deviation is None else cell | {"deviation": {"test": dict.fromkeys(names, deviation)}}}


def test_the_table_shows_deviations_where_both_cells_have_them():
    table = befa_table("demo", "clip_small", by_model(0.01, 3), by_model(0.02, 3))
    assert cells(table)[1][0] == ["bm3", "recall@10", "0.2500 ± 0.0100", "0.2500 ± 0.0200", "+0.0%"]
    assert "mean ± sample standard deviation over 3 seeds" in markdown(table)
    one = befa_table("demo", "clip_small", by_model(), by_model())
    assert cells(one)[1][0] == ["bm3", "recall@10", "0.2500", "0.2500", "+0.0%"]
    assert "Test part, one seed;" in markdown(one)


def test_only_evaluation_reads_the_test_part():
    readers = set()
    for path in [*ROOT.glob("befa/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("splits.read"):
                assert isinstance(node.args[1], ast.Constant), f"{path} hides which part it reads"
                readers |= {path.name} if node.args[1].value == "test" else set()
    assert readers == {"evaluation.py"}
