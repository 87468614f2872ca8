"""Problems from arrays; the examples of docs/in-your-own-code.md run."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from befa.building import problem_of
from befa.errors import DataError
from befa.problem import Content
from befa.rng import numpy_stream

PAGE = Path(__file__).parents[1] / "docs/in-your-own-code.md"
ADAPTER, MODEL = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_a_problem_from_arrays_is_that_of_its_set_of_pairs():
    users, items = np.array([2, 0, 2, 1, 2]), np.array([1, 3, 0, 3, 1], dtype=np.int32)
    images = np.array([[1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [0.0, -1.0]])
    problem = problem_of(users, items, 4, 4, {"image": images})
    assert torch.stack([problem.users_E, problem.items_E]).T.tolist() == [[0, 3], [1, 3], [2, 0], [2, 1]]
    assert problem.users_E.dtype == problem.items_E.dtype == torch.int64
    content = problem.contents["image"]
    assert content.present_I.tolist() == [True, False, False, True]
    assert content.values_Ic.tolist() == [[1, 2], [0, 0], [0, 0], [0, -1]]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"users_E": torch.tensor([1, 0])}, "not unique and sorted by user, then item; make the problem by problem_of"),
        ({"items_E": torch.tensor([1, 1]), "users_E": torch.tensor([1, 1])}, "not unique and sorted"),
        (
            {"contents": {"image": Content(torch.ones(4, 2), torch.ones(4) > 0)}},
            r"image content is \(4, 2\) .* of 3 items",
        ),
        (
            {"contents": {"image": Content(torch.ones(3, 0), torch.ones(3) > 0)}},
            r"image content is \(3, 0\) .* of 3 items",
        ),
        (
            {"contents": {"image": Content(torch.ones(3, 2, dtype=torch.float64), torch.ones(3) > 0)}},
            "torch.float64 and 3 of torch.bool, of 3 items; give each item a row of float32 and a bool",
        ),
        (
            {"contents": {"text": Content(torch.tensor([[1, 0], [torch.nan, 2], [0, torch.inf]]), torch.ones(3) > 0)}},
            "row 1 of text is not finite; make absent rows zero, and mark them in the mask",
        ),
    ],
)
def test_what_a_model_would_take_for_something_else_is_an_error(changed, says):
    problem = problem_of(np.array([0, 1]), np.array([2, 0]), 2, 3, {})
    with pytest.raises(DataError, match=says):
        replace(problem, **changed)


def test_the_documented_adapter_stands_in_another_model():
    example = {}
    exec(ADAPTER, example)
    model = example["YourModel"](5, torch.randn(5, 512, generator=torch.Generator().manual_seed(1)))
    content = model.content(torch.tensor([4, 0, 4]))
    assert content.shape == (3, 64)
    content.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    model.eval()
    assert torch.equal(*(model.content(torch.arange(5)) for _ in range(2)))


def test_the_documented_run_learns_what_is_in_the_arrays(capsys):
    """Users like one of two kinds of items: a third of them are asked for again."""
    rng, n_users, n_items = numpy_stream(1, "example"), 60, 40
    likes = rng.permuted(np.tile(np.arange(20), (n_users, 1)), axis=1)[:, :12] * 2 + np.arange(n_users)[:, None] % 2
    parts = {"": likes[:, :8], "valid_": likes[:, 8:10], "test_": likes[:, 10:]}
    given = {
        f"{part}{name}": ids
        for part, of in parts.items()
        for name, ids in (("users", np.repeat(np.arange(n_users), of.shape[1])), ("items", of.ravel()))
    }
    features = np.eye(2)[np.arange(n_items) % 2] + 0.1 * rng.standard_normal((n_items, 2))
    example = given | {"n_users": n_users, "n_items": n_items, "images": features, "texts": features}
    quicker = MODEL.replace("learning_rate=0.001", "learning_rate=0.01")
    exec(quicker.replace("epochs=1000, batch_size=2048", "epochs=40, batch_size=128"), example)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    found = example["means"](example["metrics_per_user"](example["top"], example["tested"], example["test"]))
    assert str(found) == lines[-1]
    assert found["recall@10"] > 0.8  # of the kind's ten that are left; chance: a third
