"""ItemKNN computes its formula, whatever users it is asked for."""

from dataclasses import replace

import pytest
import torch

from befa.models.item_knn import ItemKNN
from tests.models import naive


def naive_score(problem, u, i, k):
    pairs, total = naive.pairs_of(problem), 0.0
    for content in problem.contents.values():
        total += sum(cosine for j, cosine in naive.nearest(content, k)[i].items() if (u, j) in pairs)
    return total / len(problem.contents)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_scores_are_the_formula(k):
    problem = naive.small_problem()
    scores_UI = naive.build(ItemKNN, problem, knn_k=k).scores(torch.arange(naive.N_USERS))
    for u in range(naive.N_USERS):
        wanted = [naive_score(problem, u, i, k) for i in range(naive.N_ITEMS)]
        assert scores_UI[u].tolist() == pytest.approx(wanted, abs=1e-6)


def test_users_may_be_asked_for_in_any_order_and_twice():
    model = naive.build(ItemKNN, naive.small_problem(), knn_k=3)
    everyone_UI = model.scores(torch.arange(naive.N_USERS))
    asked = torch.tensor([5, 0, 5, 2])
    assert torch.equal(model.scores(asked), everyone_UI[asked])
    assert model.scores(asked[:0]).shape == (0, naive.N_ITEMS)


def test_without_content_every_item_is_alike():
    model = naive.build(ItemKNN, replace(naive.small_problem(), contents={}), knn_k=3)
    assert not model.scores(torch.arange(naive.N_USERS)).any()


def test_a_user_without_history_gets_zeros():
    problem = naive.small_problem()
    known = problem.users_E != 5
    problem = replace(problem, users_E=problem.users_E[known], items_E=problem.items_E[known])
    assert not naive.build(ItemKNN, problem, knn_k=3).scores(torch.tensor([5])).any()
