"""An epoch of batches: each pair once, negatives the user has not seen, the same from the same seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from befa.errors import DataError
from befa.problem import Problem
from befa.rng import stream
from befa.sampling import batches


def make(pairs, n_users, n_items):
    users, items = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2).T
    return Problem(n_users, n_items, users, items)


def epoch(problem, size, seed=0):
    return list(batches(problem, size, rng=stream(seed, "sampling")))


def whole(found, name):
    return torch.cat([getattr(batch, name) for batch in found])


PAIRS = {(u, i) for u in range(12) for i in range(10) if (u * 7 + i * 3) % 5 < 2}
EVERYDAY = make(PAIRS, 12, 11)  # item 10 has no training interaction


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1), st.integers(1, 60))
def test_every_pair_once_and_no_negative_the_user_has(pairs, size):
    items = {item for _, item in pairs}
    has = {user: {i for u, i in pairs if u == user} for user, _ in pairs}
    problem = make(pairs, 6, 9)
    if any(own == items for own in has.values()):
        with pytest.raises(DataError, match=r"user \d+ has all \d+ items of the training interactions"):
            epoch(problem, size)
        return
    found = epoch(problem, size)
    users, positives, negatives = (whole(found, f"{name}_B").tolist() for name in ("users", "positives", "negatives"))
    assert sorted(zip(users, positives, strict=True)) == sorted(pairs)
    assert all(negative in items - has[user] for user, negative in zip(users, negatives, strict=True))


def test_the_last_batch_is_short_and_the_first_starts_the_epoch():
    found = epoch(EVERYDAY, 7)
    lengths = [len(batch.users_B) for batch in found]
    assert lengths == [7] * (len(PAIRS) // 7) + [len(PAIRS) % 7]
    assert [batch.starts_epoch for batch in found] == [True] + [False] * (len(found) - 1)


def test_the_seed_decides_and_epochs_differ():
    rng = stream(0, "sampling")
    first, second = list(batches(EVERYDAY, 8, rng=rng)), list(batches(EVERYDAY, 8, rng=rng))
    for name in ("users_B", "negatives_B"):
        assert torch.equal(whole(first, name), whole(epoch(EVERYDAY, 8), name))
        assert not torch.equal(whole(first, name), whole(second, name))
        assert not torch.equal(whole(first, name), whole(epoch(EVERYDAY, 8, seed=1), name))


def test_negatives_are_uniform_over_the_items_a_user_has_not_seen():
    rng, counts = stream(0, "sampling"), torch.zeros(12, 11)
    for _ in range(600):
        for batch in batches(EVERYDAY, 1000, rng=rng):
            counts.index_put_((batch.users_B, batch.negatives_B), torch.tensor(1.0), accumulate=True)
    for user in range(12):
        open_ = [i for i in range(10) if (user, i) not in PAIRS]
        drawn = counts[user]
        expected = drawn.sum() / len(open_)
        assert drawn[open_].sum() == drawn.sum()
        # 5 standard deviations of a count
        assert (drawn[open_] - expected).abs().max() < 5 * expected.sqrt()


def test_no_interactions_make_no_batches():
    assert epoch(make(set(), 2, 2), 4) == []
