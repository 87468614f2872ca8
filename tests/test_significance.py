"""Paired comparison of cells: against scipy on pandas' joins and naive loops, its laws, its coverage, its errors."""

import gc
import math
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from befa import significance
from befa.errors import DataError
from befa.metrics import TEST
from befa.rng import numpy_stream
from befa.significance import LEVELS, PValues, compare, holm, holm_within, legend, stars

USERS = [f"user{number:02}" for number in range(30)]


def per_user(values_US, *, users=None, seeds=None, positives=None):
    """A table as `evaluation.over_seeds` makes it, from values by user and seed."""
    values_US = np.asarray(values_US, dtype=np.float64)
    n, n_seeds = values_US.shape
    users = USERS[:n] if users is None else users
    seeds = list(range(1, n_seeds + 1)) if seeds is None else seeds
    return pa.table(
        {
            "seed": pa.array(np.repeat(seeds, n), pa.int64()),
            "user": pa.array(list(users) * n_seeds, pa.string()),
            "positives": pa.array(np.tile(np.full(n, 2) if positives is None else positives, n_seeds), pa.int64()),
            "recall@20": values_US.T.ravel(),
        }
    )


def compared(base, adapted, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compare(base, adapted, "recall@20", rng=numpy_stream(7, "bootstrap"), **options)


def made(n_users=30, n_seeds=3, *, shift=0.05, seed=1):
    rng = np.random.default_rng(seed)
    base_US = rng.integers(0, 5, (n_users, n_seeds)) / 4
    return base_US, np.clip(base_US + rng.normal(shift, 0.2, base_US.shape), 0, 1)


def shuffled(table, seed=2):
    return table.take(np.random.default_rng(seed).permutation(len(table)))


def test_it_is_scipy_on_rows_that_pandas_joins():
    base, adapted = (shuffled(per_user(x), seed) for seed, x in enumerate(made()))
    found = compared(base, adapted)
    joined = base.to_pandas().merge(adapted.to_pandas(), on=["seed", "user"], suffixes=("", "_adapted"))
    for pairs, tests in (
        (joined.groupby("user")[["recall@20", "recall@20_adapted"]].mean(), found.over_users),
        (joined.groupby("seed")[["recall@20", "recall@20_adapted"]].mean(), found.over_seeds),
    ):
        before, after = pairs["recall@20"], pairs["recall@20_adapted"]
        assert tests.t == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=1e-9)
        different = (after - before).round(12)
        assert tests.wilcoxon == pytest.approx(stats.wilcoxon(different[different != 0]).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(joined["recall@20_adapted"].mean() - joined["recall@20"].mean())
    assert found.gain == pytest.approx(joined["recall@20_adapted"].mean() / joined["recall@20"].mean() - 1)
    assert (found.users, found.seeds) == (30, (1, 2, 3))
    assert (found.base, found.adapted) == pytest.approx(tuple(joined[["recall@20", "recall@20_adapted"]].mean()))


def test_wilcoxon_is_exact_where_few_pairs_differ():
    for same in (0, 45, 996):
        difference = np.concatenate([np.zeros(same), [0.1, 0.2, 0.3, 0.4, 0.5]])
        assert significance._tests(difference).wilcoxon == pytest.approx(2**-4)


def test_the_intervals_are_those_of_a_loop_over_resamples():
    base_US, adapted_US = made()
    base_U, adapted_U, rng = base_US.mean(1), adapted_US.mean(1), np.random.default_rng(3)
    differences, gains = [], []
    for _ in range(4000):
        drawn = rng.integers(0, len(base_U), len(base_U))
        differences.append(sum(adapted_U[u] - base_U[u] for u in drawn) / len(drawn))
        gains.append(sum(adapted_U[drawn]) / sum(base_U[drawn]) - 1)
    found = compared(per_user(base_US), per_user(adapted_US), resamples=4000)
    for interval, draws in ((found.difference_interval, differences), (found.gain_interval, gains)):
        wanted = np.percentile(draws, [2.5, 97.5])
        assert interval == pytest.approx(tuple(wanted), abs=0.05 * np.ptp(wanted))


def test_the_t_test_is_its_formula():
    base_US, adapted_US = made(n_users=8, n_seeds=1)
    difference = (adapted_US - base_US).ravel()
    mean = sum(difference) / 8
    deviation = math.sqrt(sum((d - mean) ** 2 for d in difference) / 7)
    p = 2 * stats.t.sf(abs(mean) / (deviation / math.sqrt(8)), df=7)
    assert compared(per_user(base_US), per_user(adapted_US)).over_users.t == pytest.approx(p)


few = settings(max_examples=20)  # a comparison takes 10 ms
values = st.integers(0, 64).map(lambda n: n / 64)
pairs = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.tuples(values, values), min_size=n, max_size=n)] * 2)
)


@few
@given(pairs)
def test_swapping_the_cells_turns_the_signs_and_keeps_the_p_values(both):
    base, adapted = map(per_user, both)
    there, back = compared(base, adapted, resamples=50), compared(adapted, base, resamples=50)
    assert back.difference == -there.difference
    assert (back.base, back.adapted) == (there.adapted, there.base)
    assert back.difference_interval == pytest.approx(tuple(-end for end in reversed(there.difference_interval)))
    for one, other in ((there.over_users, back.over_users), (there.over_seeds, back.over_seeds)):
        assert (one.t, one.wilcoxon) == pytest.approx((other.t, other.wilcoxon))
        assert 0 <= one.t <= 1
        assert 0 <= one.wilcoxon <= 1


@few
@given(pairs, st.integers(0, 9))
def test_the_order_of_rows_does_not_matter(both, seed):
    base, adapted = map(per_user, both)
    assert compared(shuffled(base, seed), shuffled(adapted, seed + 1), resamples=50) == compared(
        base, adapted, resamples=50
    )


@few
@given(pairs, st.integers(1, 64).map(lambda n: n / 64))
def test_a_constant_more_for_everyone_moves_difference_and_interval_by_itself(both, more):
    base_US, adapted_US = map(np.asarray, both)
    found = compared(per_user(base_US), per_user(adapted_US), resamples=50)
    moved = compared(per_user(base_US), per_user(adapted_US + more), resamples=50)
    assert moved.difference == pytest.approx(found.difference + more)
    assert moved.difference_interval == pytest.approx(tuple(end + more for end in found.difference_interval))


@few
@given(pairs)
def test_the_gain_has_no_unit(both):
    base_US, adapted_US = map(np.asarray, both)
    found, scaled = (compared(per_user(base_US * k), per_user(adapted_US * k), resamples=50) for k in (1, 0.25))
    assert scaled.gain == pytest.approx(found.gain)
    assert scaled.gain_interval == pytest.approx(found.gain_interval)
    assert scaled.over_users == found.over_users


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = covered_gain = 0
    for draw in range(100):
        base_U1 = rng.gamma(2, 0.1, (200, 1))  # skewed, as metrics of users are; its mean is 0.2
        adapted_U1 = base_U1 + rng.gamma(1, 0.02, (200, 1))  # 0.02 more
        users = [f"{draw}-{n}" for n in range(200)]
        found = compared(per_user(base_U1, users=users), per_user(adapted_U1, users=users), resamples=500)
        covered += found.difference_interval[0] <= 0.02 <= found.difference_interval[1]
        covered_gain += found.gain_interval[0] <= 0.1 <= found.gain_interval[1]
    assert 88 <= covered <= 99  # of 100 at 95 %: outside in one of 500 suites
    assert 88 <= covered_gain <= 99


def test_where_nothing_differs_but_noise_one_of_twenty_tests_says_otherwise():
    rng = np.random.default_rng(5)
    tests = []
    for _ in range(400):
        both = rng.integers(0, 3, (2, 30, 2)) / 2
        tests.append(compared(*map(per_user, both), resamples=2).over_users)
    for p in ("t", "wilcoxon"):
        assert 0.02 < np.mean([getattr(test, p) < 0.05 for test in tests]) < 0.08  # of 400: three deviations


def test_identical_cells_do_not_differ():
    base = per_user(made()[0])
    found = compared(base, shuffled(base))
    assert found.over_users == found.over_seeds == PValues(1.0, 1.0)
    assert (found.difference, found.gain) == (0, 0)
    assert found.difference_interval == found.gain_interval == (0, 0)


def test_seeds_that_sum_to_the_same_in_another_order_do_not_differ():
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point: rounding errors are no evidence."""
    base_US = np.tile([0.1, 0.2, 0.3], (30, 1))
    found = compared(per_user(base_US), per_user(base_US[:, ::-1]))
    assert (base_US.mean(1) != base_US[:, ::-1].mean(1)).any()
    assert found.over_users == PValues(1.0, 1.0)


def test_the_same_difference_everywhere_is_no_noise():
    base_US = np.full((10, 3), 0.3)
    found = compared(per_user(base_US), per_user(base_US + 0.1))
    assert found.over_users.t == found.over_seeds.t == 0
    assert found.over_users.wilcoxon == 2**-9
    assert found.over_seeds.wilcoxon == 2**-2  # the floor of three seeds


def test_one_seed_has_no_test_over_seeds():
    base_US, adapted_US = made(n_seeds=1)
    found = compared(per_user(base_US), per_user(adapted_US))
    assert found.over_seeds == PValues(None, None)
    assert None not in (found.over_users.t, found.over_users.wilcoxon)


def test_one_user_has_no_interval_and_no_test_over_users():
    found = compared(per_user([[0.5, 0.25]]), per_user([[0.75, 0.5]]))
    assert (found.difference, found.gain) == (0.25, 0.25 / 0.375)
    assert found.difference_interval is found.gain_interval is None
    assert found.over_users == PValues(None, None)


def test_only_seeds_that_both_cells_have_count():
    base_US, adapted_US = made(n_seeds=4)
    found = compared(per_user(base_US, seeds=[9, 1, 3, 2]), per_user(adapted_US, seeds=[1, 7, 2, 3]))
    assert found.seeds == (1, 2, 3)
    wanted = compared(per_user(base_US[:, [1, 3, 2]]), per_user(adapted_US[:, [0, 2, 3]]))
    assert found == wanted


def test_a_base_of_nothing_has_no_gain():
    found = compared(per_user(np.zeros((5, 2))), per_user(np.full((5, 2), 0.5)))
    assert found.gain is found.gain_interval is None
    assert found.difference_interval == (0.5, 0.5)
    rare = np.zeros((5, 1))
    rare[0] = 1  # many a resample leaves the one hit out
    found = compared(per_user(rare), per_user(np.full((5, 1), 0.5)))
    assert found.gain == pytest.approx(1.5)
    assert found.gain_interval is None


def test_the_same_stream_gives_the_same_interval():
    base, adapted = map(per_user, made())
    assert compared(base, adapted) == compared(base, adapted)
    other = compare(base, adapted, "recall@20", rng=numpy_stream(8, "bootstrap"))
    assert other.difference_interval != compared(base, adapted).difference_interval


def test_what_cannot_be_compared_says_why():
    base_US, adapted_US = made(n_users=5)
    base = per_user(base_US)
    others = per_user(adapted_US, users=["new", *USERS[1:5]])
    with pytest.raises(DataError, match=r"1 in base alone \(first: 'user00'\), 1 in adapted alone \(first: 'new'\)"):
        compared(base, others)
    with pytest.raises(DataError, match=r"not the same users: 1 in base alone \(first: 'user04'\); evaluate both"):
        compared(base, per_user(adapted_US[:4]))
    with pytest.raises(DataError, match=r"1 users have other numbers .* 'user02', 2 in base and 3 in adapted"):
        compared(base, per_user(adapted_US, positives=[2, 2, 3, 2, 2]))
    tests = [
        per_user(values).replace_schema_metadata({TEST: name}) for values, name in ((base_US, "a"), (adapted_US, "b"))
    ]
    with pytest.raises(DataError, match=r"not the same test: users have as many test items in both, but other ones"):
        compared(*tests)
    assert compared(base, tests[1]).users == 5  # one that does not say
    with pytest.raises(DataError, match=r"no seed in common: base has \[1, 2, 3\], adapted has \[4, 5, 6\]"):
        compared(base, per_user(adapted_US, seeds=[4, 5, 6]))
    with pytest.raises(DataError, match=r"no column 'recall@2' in base's users; did you mean 'recall@20'"):
        compare(base, base, "recall@2", rng=numpy_stream(1))
    for broken in (base.slice(1), pa.concat_tables([base, base.slice(0, 1)])):
        with pytest.raises(DataError, match="missing from a seed, or there twice in adapted's users"):
            compared(base, broken)
    nan = per_user(np.where(base_US == base_US[0, 0], np.nan, base_US))
    with pytest.raises(DataError, match="recall@20 is not a finite number for a user in adapted's users"):
        compared(base, nan)


def test_holm_within_leaves_each_family_to_itself():
    corrected = holm_within(["a", "b", "a", "b", "b"], [0.01, 0.02, 0.03, None, 0.04])
    assert corrected == pytest.approx([0.02, 0.04, 0.03, None, 0.04])
    assert holm_within([], []) == []


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None, None]) == [None, None]
    assert holm([]) == []


@few
@given(st.lists(st.none() | st.floats(0, 1), max_size=12))
def test_holm_is_its_definition(p_values):
    known = sorted(p for p in p_values if p is not None)
    worst, wanted = 0.0, {}
    for place, p in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - place)))
        wanted.setdefault(p, worst)
    assert holm(p_values) == pytest.approx([None if p is None else wanted[p] for p in p_values])


def test_stars_are_what_the_legend_says():
    assert [stars(p) for p in (0.0, 0.00099, 0.001, 0.0099, 0.01, 0.049, 0.05, 1.0, None)] == [
        "***", "***", "**", "**", "*", "*", "", "", ""
    ]  # fmt: skip
    for mark, level in LEVELS.items():
        assert f"{mark} p < {level}" in legend("all comparisons")


def test_pandas_reads_a_comparison():
    """What a report does with many of them."""
    found = compared(*map(per_user, made()))
    frame = pd.json_normalize([vars(found) | {"over_users": vars(found.over_users)}])
    assert frame.loc[0, "over_users.t"] == found.over_users.t


def collected(one) -> bool:
    """Whether the garbage collector looks at an object: a frozen one it leaves alone."""
    return any(other is one for other in gc.get_objects())


def test_what_a_program_has_frozen_stays_frozen():
    # One object of ours, not the count of all: frozen ones that nobody holds any more leave it.
    ours = [[]]
    gc.freeze()
    try:
        significance.holm([0.01, 0.02])
        assert not collected(ours)
    finally:
        gc.unfreeze()
    significance.holm([0.01, 0.02])
    assert collected(ours)
