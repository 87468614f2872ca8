"""Is an adapted cell better than its base, or is it noise? Paired tests and intervals over users and over seeds."""

import gc
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.multitest import multipletests

from befa import errors
from befa.errors import DataError
from befa.metrics import TEST

RESAMPLES = 2000
"""Of the bootstrap. Other draws then move an end of an interval by some 1.5 % of its width."""

CONFIDENCE = 0.95
"""Of the intervals."""

DIGITS = 12
"""Decimals of a difference that count. Means over seeds carry rounding errors of 1e-17, which would break ties."""

LEVELS = {"***": 0.001, "**": 0.01, "*": 0.05}
"""What stars mean: p below it."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class PValues:
    """Of two-sided paired tests, in [0, 1]; None with fewer than two pairs, 1 where no pair differs."""

    t: float | None
    """0 where all pairs differ by the same: no spread is no noise, which means little where pairs are few."""
    wilcoxon: float | None
    """Signed-rank; pairs that do not differ are left out. Exact where few do: of n, it is at least 2 ** (1 - n), so
    that fewer than 6 seeds never give p < 0.05."""


@dataclass(frozen=True)
class Comparison:
    """An adapted cell against its base, in one metric."""

    metric: str
    users: int
    seeds: tuple[int, ...]
    """Those that both cells have, ascending; others are left out."""
    base: float
    """Mean over users and seeds."""
    adapted: float
    difference: float
    """adapted - base."""
    difference_interval: Interval | None
    """Bootstrap over users, percentiles; None with fewer than two users."""
    gain: float | None
    """difference / base (0.05 is +5 %); None where the base is 0."""
    gain_interval: Interval | None
    """Of the same resamples; None also where the base of one of them is 0."""
    over_users: PValues
    """Pairs: a user's values, each the mean over the seeds. The seeds are taken as given: with one of them, the noise
    of training is not in it."""
    over_seeds: PValues
    """Pairs: a seed's means over users. The users are taken as given."""


def compare(
    base: pa.Table, adapted: pa.Table, metric: str, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Comparison:
    """Compares two cells by their per_user.parquet (`evaluation.over_seeds`); users meet by id, in any order of rows.

    Raises DataError when a table lacks `metric` or has a value that is no number, when the cells have no seed in
    common, and when their users or these users' test items differ (of tables that do not say which: their numbers).
    """
    seeds = _common_seeds(base, adapted)
    users, positives, base_US = _rows(base, metric, seeds, "base")
    adapted_users, adapted_positives, adapted_US = _rows(adapted, metric, seeds, "adapted")
    _require_same_users(users, adapted_users)
    _require_same_test(users, positives, adapted_positives)
    tests = {(table.schema.metadata or {}).get(TEST.encode()) for table in (base, adapted)} - {None}
    if len(tests) > 1:
        what = "not the same test: users have as many test items in both, but other ones"
        raise DataError(what, mend="evaluate both cells on the same split")
    base_U, adapted_U = base_US.mean(1), adapted_US.mean(1)
    difference = float(adapted_U.mean() - base_U.mean())
    intervals = _intervals(base_U, adapted_U, rng, resamples)
    return Comparison(
        metric=metric,
        users=len(users),
        seeds=seeds,
        base=float(base_U.mean()),
        adapted=float(adapted_U.mean()),
        difference=difference,
        difference_interval=intervals[0],
        gain=difference / float(base_U.mean()) if base_U.any() else None,
        gain_interval=intervals[1],
        over_users=_tests(adapted_U - base_U),
        over_seeds=_tests(adapted_US.mean(0) - base_US.mean(0)),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p-value of a family of comparisons corrected by Holm's method, in its place; None is no comparison."""
    known = [p for p in p_values if p is not None]
    with _little_garbage():
        corrected = iter(multipletests(known, method="holm")[1].tolist() if known else ())
    return [None if p is None else next(corrected) for p in p_values]


@contextmanager
def _little_garbage() -> Iterator[None]:
    """statsmodels collects garbage: a tenth of a second for all that a report has loaded, thirty times."""
    theirs = gc.get_freeze_count() > 0  # what a program has frozen itself stays so
    if not theirs:
        gc.freeze()
    try:
        yield
    finally:
        if not theirs:
            gc.unfreeze()


def holm_within(families: Sequence[Hashable], p_values: Sequence[float | None]) -> list[float | None]:
    """`holm` of each family by itself; `families` names the one of each p-value."""
    corrected: list[float | None] = [None] * len(p_values)
    for family in dict.fromkeys(families):
        places = [place for place, one in enumerate(families) if one == family]
        for place, p in zip(places, holm([p_values[place] for place in places]), strict=True):
            corrected[place] = p
    return corrected


def legend(family: str) -> str:
    """What stars mean, to stand below a table with them.

    True of `compare(...).over_users.t` where all of a `family` ("all comparisons of this table") went through one
    `holm`.
    """
    return (
        "*** p < 0.001, ** p < 0.01, * p < 0.05: two-sided paired t-test of a cell against what it is compared with, "
        "over the test's users (of each, the mean over the seeds that both cells have), corrected by Holm's method "
        f"over {family}. It says whether the difference would hold for other users, not whether it would for other "
        "seeds."
    )


def stars(p: float | None) -> str:
    """The stars of a corrected p-value; see `legend`. None has none."""
    return next((mark for mark, level in LEVELS.items() if p is not None and p < level), "")


def _common_seeds(base: pa.Table, adapted: pa.Table) -> tuple[int, ...]:
    have = [sorted(_column(table, "seed", name).unique().to_pylist()) for table, name in _named(base, adapted)]
    common = tuple(seed for seed in have[0] if seed in have[1])
    if not common:
        raise DataError(
            f"no seed in common: base has {have[0]}, adapted has {have[1]}",
            mend="train both cells with the same training.seeds",
        )
    return common


def _named(base: pa.Table, adapted: pa.Table) -> list[tuple[pa.Table, str]]:
    return [(base, "base"), (adapted, "adapted")]


def _column(table: pa.Table, column: str, name: str) -> pa.ChunkedArray:
    if column not in table.column_names:
        raise DataError(
            f"no column {column!r}", where=f"{name}'s users", mend=errors.nearest(column, table.column_names)
        )
    return table[column]


def _rows(
    table: pa.Table, metric: str, seeds: Sequence[int], name: str
) -> tuple[pa.Array, np.ndarray, Float[np.ndarray, "U S"]]:
    """Users in order of their ids; the numbers of their test items; their values, a column for each of `seeds`."""
    wanted = {column: _column(table, column, name) for column in ("user", "seed", "positives", metric)}
    wanted["user"] = wanted["user"].cast(pa.string())  # ids are equal whatever Arrow's width of their offsets
    rows = pa.table(wanted).filter(pc.is_in(wanted["seed"], value_set=pa.array(seeds, wanted["seed"].type)))
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("user", "ascending"), ("seed", "ascending")]))
    users, shape = rows["user"].unique(), (-1, len(seeds))
    found = rows["seed"].to_numpy()
    if len(rows) != len(users) * len(seeds) or not (found.reshape(shape) == np.array(seeds)).all():
        raise DataError(
            f"some of the {len(users)} users are missing from a seed, or there twice",
            where=f"{name}'s users",
            mend="evaluate the cell again",
        )
    values = rows[metric].to_numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{metric} is not a finite number for a user", where=f"{name}'s users", mend="evaluate again")
    return users, rows["positives"].to_numpy().reshape(shape)[:, 0], values.reshape(shape)


def _require_same_users(base: pa.Array, adapted: pa.Array) -> None:
    if base.equals(adapted):
        return
    missing = base.filter(pc.invert(pc.is_in(base, value_set=adapted)))
    added = adapted.filter(pc.invert(pc.is_in(adapted, value_set=base)))
    parts = [(missing, "base alone"), (added, "adapted alone")]
    told = [f"{len(users)} in {where} (first: {users[0].as_py()!r})" for users, where in parts if len(users)]
    raise DataError(f"not the same users: {', '.join(told)}", mend="evaluate both cells on the same split")


def _require_same_test(users: pa.Array, base_U: np.ndarray, adapted_U: np.ndarray) -> None:
    changed = np.flatnonzero(base_U != adapted_U)
    if len(changed):
        first = changed[0]
        raise DataError(
            f"not the same test: {len(changed)} users have other numbers of test items (first: "
            f"{users[int(first)].as_py()!r}, {base_U[first]} in base and {adapted_U[first]} in adapted)",
            mend="evaluate both cells on the same split",
        )


def _intervals(
    base_U: np.ndarray, adapted_U: np.ndarray, rng: np.random.Generator, resamples: int
) -> tuple[Interval | None, Interval | None]:
    """Of the difference and of the gain."""
    if len(base_U) < 2:
        return None, None

    def means(base: np.ndarray, adapted: np.ndarray, axis: int) -> np.ndarray:
        return np.stack([(adapted - base).mean(axis), base.mean(axis)])

    # Not scipy's default method, BCa: its jackknife takes users x users values.
    differences, bases = stats.bootstrap(
        (base_U, adapted_U),
        means,
        paired=True,
        n_resamples=resamples,
        method="percentile",
        batch=max(1, 2**21 // len(base_U)),  # some 100 MB at once
        rng=rng,
    ).bootstrap_distribution
    return _percentiles(differences), _percentiles(differences / bases) if bases.all() else None


def _percentiles(drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _tests(difference_n: Float[np.ndarray, " n"]) -> PValues:
    """Of paired differences."""
    rounded = difference_n.round(DIGITS)
    if len(rounded) < 2:
        return PValues(None, None)
    if (rounded == rounded[0]).all():
        # No spread: t is infinite, or, where nothing differs, 0 / 0, which scipy answers with NaN and a warning.
        t = 1.0 if rounded[0] == 0 else 0.0
    else:
        t = float(stats.ttest_rel(rounded, np.zeros_like(rounded)).pvalue)
    # Left out here: scipy goes by all pairs, those that do not differ included, when it decides to be exact.
    different = rounded[rounded != 0]
    return PValues(t, float(stats.wilcoxon(different).pvalue) if len(different) else 1.0)
