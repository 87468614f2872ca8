"""The top-k routine: a loop over all pairs, whoever proposes; many equal rows; and what it takes to load."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from befa import neighbours
from befa.neighbours import STEPS, nearest, nearest_others
from befa.rng import stream


def rows_of(n, width, *, seed=0):
    return torch.randn(n, width, generator=stream(seed, "rows"))


def by_loop(values, k):
    """Every row's nearest by cosine in steps, then by row; itself last where more than k equal ones hid it."""
    unit = values.double().numpy()
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    order = [np.lexsort((np.arange(len(unit)), -np.round(unit @ row * STEPS))) for row in unit]
    found = np.array(order).reshape(len(unit), -1)[:, :k]
    for row, of_row in enumerate(found):
        if row not in of_row:
            of_row[-1] = row
    return torch.from_numpy(found)


@pytest.fixture(params=["faiss", "torch", "all pairs"])
def proposes(request, monkeypatch):
    """Who proposes candidates; nobody, where all pairs are compared at once."""
    if request.param != "all pairs":
        monkeypatch.setattr(neighbours, "SMALL", 0)
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "faiss", None)  # as where the extra is not installed
    return request.param


def hostile(n=600, width=8):
    """Duplicates that fill more than the candidates, multiples of them, opposites, and rows of norm 0."""
    values = rows_of(n, width)
    values[100:180] = values[7]
    values[200:260] = 3 * values[9]
    values[300:310] = -values[7]
    values[400:430] = 0
    return values


@pytest.mark.parametrize("k", [1, 10, 40, 700])
def test_the_nearest_are_those_of_a_loop(proposes, k):
    for values in (rows_of(600, 8), hostile()):
        assert torch.equal(nearest(values, k), by_loop(values, k))


def test_neither_blocks_nor_the_batch_of_queries_change_the_answer(proposes, monkeypatch):
    values = hostile()
    whole, some = nearest(values, 10), torch.tensor([599, 105, 3, 401, 250, 8])
    assert torch.equal(nearest(values, 10, queries_Q=some), whole[some])
    for rows, queries in ((1, some), (37, torch.arange(600))):
        for name in ("COLUMNS", "GATHERED"):
            monkeypatch.setattr(neighbours, name, rows)
        for block in (1, 1000):
            asked = queries[: 40 * block]  # a row of similarities at a time is slow
            assert torch.equal(nearest(values, 10, queries_Q=asked, block=block), whole[asked])


def test_others_leave_out_the_row_itself_and_only_that(proposes):
    values = hostile()
    wanted = [[other for other in row if other != own][:10] for own, row in enumerate(by_loop(values, 600).tolist())]
    assert nearest_others(values, 10).tolist() == wanted
    assert nearest_others(values[:3], 10).shape == (3, 2)
    assert nearest_others(values[:1], 10).shape == (1, 0)


def test_no_rows_and_no_queries(proposes):
    none = torch.zeros(0, dtype=torch.int64)
    assert nearest(torch.zeros(0, 4), 3).shape == (0, 0)
    assert nearest_others(torch.zeros(0, 4), 3).shape == (0, 0)
    assert nearest(rows_of(50, 4), 3, queries_Q=none).shape == (0, 3)


def test_near_equal_cosines_are_told_apart_in_float64_alone(proposes):
    """Rows that differ by less than float32 sums can see: the candidates must not be cut among them."""
    turn = torch.arange(100, dtype=torch.float64)[torch.randperm(100, generator=stream(0, "turn"))]
    cosines = 0.9 - 4e-7 * turn
    values = torch.zeros(101, 3, dtype=torch.float64)
    values[0, 0] = 1
    values[1:, 0], values[1:, 1] = cosines, (1 - cosines**2).sqrt()
    [found] = nearest(values, 11, queries_Q=torch.tensor([0])).tolist()
    assert found == [0, *(1 + turn.argsort()[:10]).tolist()]


def test_rows_that_are_not_finite_get_rows_all_the_same(proposes):
    values = rows_of(80, 4)
    values[5] = torch.nan
    found = nearest(values, 10)
    assert found.shape == (80, 10)
    assert ((found >= 0) & (found < 80)).all()


def test_the_values_are_left_alone_and_get_no_gradient():
    values = rows_of(50, 4).requires_grad_()
    before = values.detach().clone()
    assert not nearest(values, 3).requires_grad
    assert torch.equal(values, before)


def test_faiss_is_loaded_by_use_and_not_by_import():
    """Stages start quickly, and train without the extra."""
    program = "import sys, befa.graphs, befa.coverage, befa.search; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same(monkeypatch):
    monkeypatch.setattr(neighbours, "SMALL", 0)
    for values in (rows_of(3000, 64), hostile()):
        assert torch.equal(nearest(values.cuda(), 10).cpu(), nearest(values, 10))


def test_a_row_that_asks_for_its_gradient_has_neighbours(monkeypatch):
    monkeypatch.setattr(neighbours, "SMALL", 0)
    x = torch.randn(100, 4, generator=stream(0, "rows"))
    assert torch.equal(neighbours.nearest(x.clone().requires_grad_(), 3), neighbours.nearest(x, 3))


def test_faiss_has_as_many_threads_as_torch(monkeypatch):
    import faiss

    seen, propose, before = [], faiss.knn, torch.get_num_threads()
    monkeypatch.setattr(neighbours, "SMALL", 0)
    monkeypatch.setattr(
        faiss, "knn", lambda *given, **named: (seen.append(faiss.omp_get_max_threads()), propose(*given, **named))[1]
    )
    for count in (1, 2):
        torch.set_num_threads(count)
        found = nearest(hostile(), 10)
        assert torch.equal(found, by_loop(hostile(), 10))
    torch.set_num_threads(before)
    assert seen == [1, 2]
