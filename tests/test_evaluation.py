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
from befa.evaluation import evaluate
from befa.paths import Layout
from befa.problem import Problem
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


def test_only_evaluation_reads_the_test_part():
    readers = set()
    for path in [*ROOT.glob("befa/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("splits.read"):
                assert isinstance(node.args[1], ast.Constant), f"{path} hides which part it reads"
                readers |= {path.name} if node.args[1].value == "test" else set()
    assert readers == {"evaluation.py"}
