"""Ranking and metrics: the field's reference values, and naive loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from befa.errors import TrainingError
from befa.metrics import CUTOFFS, METRICS, Interactions, means, metrics_per_user
from befa.ranking import chunks, products, rank, scorer, top_items

GOLDEN = Path(__file__).parent / "golden/metrics.npz"


def test_metrics_are_the_fields():
    golden = np.load(GOLDEN)  # MMRec e775373, see golden/README.md
    positives = Interactions(golden["offsets"], golden["positives"])
    users = np.arange(len(golden["topk"]))
    # The golden positives are in draw order; rows of Interactions ascend.
    positives = Interactions.of(np.repeat(users, positives.counts), golden["positives"], len(users))
    found = means(metrics_per_user(golden["topk"], users, positives))
    assert set(found) == {f"{m}@{k}" for m in METRICS for k in CUTOFFS}
    for name, value in found.items():
        assert value == pytest.approx(float(golden[name]), rel=1e-12), name


def naive_metrics(ranked, positives, k):
    hits = [1 if item in positives else 0 for item in ranked[:k]]
    dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(positives), k)))
    average = sum(hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits))
    return {
        f"recall@{k}": sum(hits) / len(positives),
        f"ndcg@{k}": dcg / ideal,
        f"precision@{k}": sum(hits) / k,
        f"map@{k}": average / min(k, len(positives)),
    }


@st.composite
def problems(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    # Few distinct scores, so that ties are common.
    scores = draw(st.lists(st.integers(-2, 2), min_size=n_users * n_items, max_size=n_users * n_items))
    roles = draw(st.lists(st.sampled_from("---tp"), min_size=n_users * n_items, max_size=n_users * n_items))
    return (
        np.array(scores, dtype=np.float32).reshape(n_users, n_items),
        np.array(roles).reshape(n_users, n_items),
    )


@given(problems(), st.integers(1, 14))
def test_ranking_and_metrics_agree_with_naive_loops(problem, k):
    scores_UI, roles_UI = problem
    n_users = len(scores_UI)
    train = Interactions.of(*np.nonzero(roles_UI == "t"), n_users)
    positives = Interactions.of(*np.nonzero(roles_UI == "p"), n_users)
    users = np.flatnonzero(positives.counts)
    top = rank(lambda users_B: torch.from_numpy(scores_UI)[users_B], scores_UI.shape[1], users, [train], k)
    assert len(top) == len(users)
    for row, user in enumerate(users):
        candidates = [i for i in range(scores_UI.shape[1]) if roles_UI[user, i] != "t"]
        ranked = sorted(candidates, key=lambda i: (-scores_UI[user, i], i))[:k]
        assert [i for i in top[row].tolist() if i >= 0] == ranked
        found = metrics_per_user(top[row : row + 1], users[row : row + 1], positives, (k,))
        wanted = naive_metrics(ranked, set(np.flatnonzero(roles_UI[user] == "p")), k)
        assert {name: float(values[0]) for name, values in found.items()} == pytest.approx(wanted)


def test_equal_scores_rank_by_item_id():
    assert top_items(torch.zeros(2, 9), 4).tolist() == [[0, 1, 2, 3]] * 2
    assert top_items(torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]]), 4).tolist() == [[1, 3, 4, 0]]


@pytest.mark.parametrize("n_items", [671, 672, 1000, 1007])
@pytest.mark.parametrize("distinct", [3, 400, 10**6])
def test_of_many_items_the_best_are_found_wherever_they_are(n_items, distinct):
    # 672 items are the first that are looked at in groups of 16 where k is 20; 1,000 leave 8 without a group.
    rng = torch.Generator().manual_seed(n_items + distinct)
    scores = torch.randint(distinct, (200, n_items), generator=rng).float()
    scores[torch.rand(200, n_items, generator=rng) < 0.3] = -torch.inf
    scores[:5, 10:] = -torch.inf  # fewer candidates than are asked for
    wanted = scores.argsort(dim=1, descending=True, stable=True)[:, :20]
    assert torch.equal(top_items(scores, 20), wanted)


def test_chunks_do_not_change_the_ranking(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    users, items = torch.randn(17, 4, generator=rng), torch.randn(23, 4, generator=rng)
    nothing = Interactions.of(np.array([], dtype=int), np.array([], dtype=int), 17)
    whole = rank(products(users, items), 23, np.arange(17), [nothing], 5)
    monkeypatch.setattr("befa.ranking.SCORES_PER_CHUNK", 50)
    assert (rank(products(users, items), 23, np.arange(17), [nothing], 5) == whole).all()


class Vectors(torch.nn.Module):
    def user_item_vectors(self):
        return torch.eye(3), torch.arange(12.0).reshape(4, 3)


class Scores(torch.nn.Module):
    def scores(self, users_B):
        return torch.arange(12.0).reshape(4, 3).T[users_B]


def test_vectors_and_scores_are_two_forms_of_the_same():
    asked = torch.tensor([2, 0])
    assert scorer(Vectors())(asked).tolist() == scorer(Scores())(asked).tolist() == [[2, 5, 8, 11], [0, 3, 6, 9]]


def test_interactions_are_sorted_by_user_then_item():
    found = Interactions.of(np.array([1, 0, 0]), np.array([2, 3, 1]), 3)
    assert found.offsets.tolist() == [0, 2, 3, 3]
    assert found.items_E.tolist() == [1, 3, 2]


def test_the_sha_of_interactions_is_of_users_and_items():
    pairs = [([0, 1], [1, 2]), ([0, 0], [1, 2]), ([0, 1], [1, 3])]
    assert len({Interactions.of(np.array(u), np.array(i), 2).sha256 for u, i in pairs}) == 3


@pytest.mark.parametrize(
    ("top", "items"),
    [([2, -1], [2, 0]), ([3, 0], [4, 5]), ([5, 0], [3, 1])],
    ids=["no candidate left", "a positive beyond the ranked", "a ranked one beyond the positives"],
)
def test_a_hit_is_the_users_own(top, items):
    positives = Interactions.of(np.arange(2), np.array(items), 2)
    found = metrics_per_user(np.array(top)[:, None], np.arange(2), positives, (1,))
    assert found["recall@1"].tolist() == [float(t == i) for t, i in zip(top, items, strict=True)]


def test_more_items_than_scores_in_a_chunk(monkeypatch):
    monkeypatch.setattr("befa.ranking.SCORES_PER_CHUNK", 10)
    assert [part.tolist() for part in chunks(np.arange(2), 23)] == [[0], [1]]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_best_score_that_is_no_number_is_told(number):
    scores = torch.zeros(2, 9)
    scores[1, 3] = number
    with pytest.raises(TrainingError, match="scores are not finite"):
        rank(lambda users_B: scores[users_B], 9, np.arange(2), [], 3)
