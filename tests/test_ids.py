"""Codes for raw ids: a dictionary, batch by batch."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from befa.ids import Ids

batches = st.lists(st.lists(st.text(max_size=3)), max_size=6)


@given(batches)
def test_codes_are_those_of_a_dictionary(columns):
    ids, naive = Ids(), {}
    for column in columns:
        expected = [naive.setdefault(name, len(naive)) for name in column]
        assert ids.encode(pa.array(column, pa.string())).tolist() == expected
    assert len(ids) == len(naive)
    assert ids.names().to_pylist() == list(naive)
    rank_N, names = ids.ranks()
    assert names.to_pylist() == sorted(naive)
    assert [names[int(rank)].as_py() for rank in rank_N] == list(naive)


def test_a_hundred_thousand_ids_in_runs_and_out_of_order():
    rng = np.random.default_rng(1)
    ids, names = Ids(), np.array([f"customer {n}" for n in range(100_000)])
    seen = {}
    for _ in range(8):
        drawn = np.repeat(rng.integers(0, len(names), 20_000), rng.integers(1, 4, 20_000))
        code_E = ids.encode(pa.array(names[drawn]))
        for n, code in zip(drawn.tolist(), code_E.tolist(), strict=True):
            assert seen.setdefault(n, code) == code
    assert sorted(seen.values()) == list(range(len(ids)))
    stored = ids.names()
    assert all(stored[code].as_py() == names[n] for n, code in seen.items())


def test_ids_of_one_hash_and_different_places_are_told_apart():
    """What 64 bits alone would confuse once in a few billion ids."""
    ids, names = Ids(), [str(n) for n in range(50)]
    place_R, hash_R = np.arange(50, dtype=np.uint64), np.arange(50, dtype=np.uint64) % 3
    for _ in range(2):  # new, then known
        code_R = ids._encode(pa.array(names), place_R, hash_R)
        assert sorted(code_R.tolist()) == list(range(50))
        assert [ids.names()[int(code)].as_py() for code in code_R] == names
