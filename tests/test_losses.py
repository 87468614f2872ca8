"""Each loss against its formula, written out in NumPy."""

import numpy as np
import pytest
import torch

from befa import losses
from befa.rng import stream


@pytest.fixture
def vectors():
    rng = stream(0, "vectors")
    return [torch.randn(7, 5, generator=rng) for _ in range(3)]


MASK = torch.tensor([True, False, True, True, False, False, True])


def naive_bpr(u, i, j):
    return np.mean([-np.log(1 / (1 + np.exp(-(a @ b - a @ c)))) for a, b, c in zip(u, i, j, strict=True)])


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_bpr(vectors):
    u, i, j = (v.numpy() for v in vectors)
    assert losses.bpr(*vectors).item() == pytest.approx(naive_bpr(u, i, j), rel=1e-5)
    kept = MASK.numpy()
    assert losses.bpr(*vectors, MASK).item() == pytest.approx(naive_bpr(u[kept], i[kept], j[kept]), rel=1e-5)


def test_bpr_of_hopeless_pairs_is_finite():
    a, b = torch.full((1, 4), 100.0), torch.full((1, 4), -100.0)
    assert losses.bpr(a, b, a).item() == pytest.approx(80_000, rel=1e-5)


def test_squared_norms(vectors):
    expected = sum((v.numpy() ** 2).sum() for v in vectors) / (2 * 7)
    assert losses.squared_norms(*vectors).item() == pytest.approx(expected, rel=1e-5)


def test_embedding_norms_counts_the_last_arguments_rows(vectors):
    users, items = vectors[0], vectors[1][:4]
    expected = (np.linalg.norm(users) + np.linalg.norm(items)) / 4
    assert losses.embedding_norms(users, items).item() == pytest.approx(expected, rel=1e-5)


def test_embedding_norms_has_the_gradient_of_its_formula(vectors):
    a, b = (v.double().requires_grad_() for v in vectors[:2])
    assert torch.autograd.gradcheck(losses.embedding_norms, (a, b))


def test_embedding_norms_of_a_table_of_zeros_has_no_gradient():
    zeros = torch.zeros(3, 4, requires_grad=True)
    losses.embedding_norms(zeros).backward()
    assert zeros.grad.tolist() == torch.zeros(3, 4).tolist()


def test_cosine_distance(vectors):
    a, b = (v.numpy() for v in vectors[:2])
    distances = np.array([1 - cosine(x, y) for x, y in zip(a, b, strict=True)])
    assert losses.cosine_distance(*vectors[:2]).item() == pytest.approx(distances.mean(), rel=1e-5)
    masked = losses.cosine_distance(*vectors[:2], MASK).item()
    assert masked == pytest.approx(distances[MASK.numpy()].mean(), rel=1e-5)


def test_info_nce(vectors):
    a, b = (v.numpy() for v in vectors[:2])
    weights = np.exp([[cosine(x, y) / 0.2 for y in b] for x in a])
    expected = -np.log(np.diag(weights) / weights.sum(1)).mean()
    assert losses.info_nce(*vectors[:2], temperature=0.2).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_of_counted_rows_is_that_of_the_rows_repeated(vectors, monkeypatch):
    monkeypatch.setattr("befa.losses.ROWS", 3)
    counts = torch.tensor([1, 3, 1, 2, 1, 1, 2])
    found, expected = [], []
    for gradients, repeats in ((found, None), (expected, counts)):
        a, b = (v.double().requires_grad_() for v in vectors[:2])
        rows = torch.arange(7) if repeats is None else torch.arange(7).repeat_interleave(repeats)
        loss = losses.info_nce(a[rows], b[rows], temperature=0.2, counts_n=counts if repeats is None else None)
        loss.mul(3).backward()
        gradients += [loss.detach(), a.grad, b.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_info_nce_has_the_gradient_of_its_formula(vectors):
    a, b = (v.double().requires_grad_() for v in vectors[:2])
    assert torch.autograd.gradcheck(lambda a, b: losses.info_nce(a, b, temperature=0.5), (a, b))


def test_info_nce_does_not_overflow_at_low_temperature(vectors):
    assert losses.info_nce(*vectors[:2], temperature=0.001).isfinite()


def test_no_present_row_gives_zero_and_no_gradient(vectors):
    a, b = vectors[0].requires_grad_(), torch.zeros(7, 5)
    loss = losses.cosine_distance(a, b, torch.zeros(7, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not a.grad.any()


def test_absent_rows_of_zeros_leave_the_gradient_finite():
    a = torch.zeros(7, 5, requires_grad=True)
    losses.cosine_distance(a, torch.ones(7, 5), MASK).backward()
    losses.bpr(torch.ones(7, 5), a, a, MASK).backward()
    assert a.grad.isfinite().all()
