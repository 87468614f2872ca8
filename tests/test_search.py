"""Search: the exact index is a loop over all items, ties included; the file follows the features it was built from."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from befa import feature_store, search, tables
from befa.errors import ConfigError, DataError, FeatureError
from befa.neighbours import STEPS
from befa.search import Index

HASH = "0" * 64


def build(ids, vectors, **options):
    return Index.build(ids, np.asarray(vectors, np.float32), **{"features_sha256": HASH} | options)


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(ids, vectors, query, k):
    """Cosines as the index defines them, by a plain loop, ordered by cosine and then by id."""
    rows = []
    for item, vector in zip(ids, unit(vectors).astype(np.float32), strict=True):
        cosine = sum(float(a) * float(b) for a, b in zip(vector, unit([query])[0], strict=True))
        rows.append((-min(1.0, max(-1.0, round(cosine * STEPS) / STEPS)), item))
    rows.sort()
    return [-cosine for cosine, _ in rows[:k]], [item for _, item in rows[:k]]


whole_numbers = st.integers(-2, 2).map(float)


@st.composite
def catalogues(draw):
    """Few directions, so that equal cosines and duplicates abound; ids whose order is not that of the rows."""
    n, width = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    vectors = draw(
        arrays(np.float32, (n, width), elements=whole_numbers).map(lambda x: np.where(x.any(1)[:, None], x, 1))
    )
    queries = draw(
        arrays(np.float32, (3, width), elements=whole_numbers).map(lambda x: np.where(x.any(1)[:, None], x, 1))
    )
    ids = draw(st.lists(st.text("0aé紅", min_size=1, max_size=4), min_size=n, max_size=n, unique=True))
    return ids, vectors, queries


@given(catalogues(), st.integers(1, 50))
@settings(max_examples=60)
def test_an_exact_index_is_brute_force_ties_and_duplicates_included(catalogue, k):
    ids, vectors, queries = catalogue
    index = build(ids, vectors)
    scores, found = index.nearest(queries, k)
    assert scores.dtype == np.float32
    assert scores.shape == (3, min(k, len(ids)))
    for row, query in enumerate(queries):
        cosines, items = brute_force(ids, vectors, query, k)
        assert found[row] == items
        assert scores[row].tolist() == cosines


@given(catalogues(), st.integers(1, 50))
@settings(max_examples=30)
def test_an_item_is_never_its_own_neighbour(catalogue, k):
    ids, vectors, _ = catalogue
    index = build(ids, vectors)
    for item, vector in zip(ids, vectors, strict=True):
        _, found = index.neighbours(item, k)
        _, items = brute_force(ids, vectors, vector, len(ids))
        assert found == [other for other in items if other != item][:k]


def test_many_duplicates_come_in_the_order_of_their_ids_wherever_they_lie():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 24))
    placeholder = rng.permutation(3000)[:700]  # more than faiss is asked for at first
    vectors[placeholder] = vectors[placeholder[0]] * rng.choice([0.5, 1.0, 2.0], size=(700, 1))
    ids = [f"{number:04d}" for number in rng.permutation(3000)]
    same = sorted(ids[row] for row in placeholder)
    for options in ({}, {"exact_up_to": 1000}):
        index = build(ids, vectors, **options)
        scores, [found] = index.nearest(vectors[placeholder[:1]], 5)
        assert found == same[:5]
        assert scores.tolist() == [[1.0] * 5]
        assert index.neighbours(same[-1], 5)[1] == same[:5]
        assert index.neighbours(same[2], 5)[1] == [*same[:2], *same[3:6]]


def test_answers_depend_neither_on_the_batch_nor_on_the_rows_order():
    rng = np.random.default_rng(1)
    vectors, queries = rng.normal(size=(500, 48)), rng.normal(size=(40, 48))
    ids, order = [f"i{row}" for row in range(500)], rng.permutation(500)
    index, shuffled = build(ids, vectors), build([ids[row] for row in order], vectors[order] * 7)
    scores, found = index.nearest(queries, 10)
    for row in range(40):
        one, [items] = index.nearest(queries[row : row + 1], 10)
        assert items == found[row]
        assert one[0].tolist() == scores[row].tolist()
    assert shuffled.nearest(queries.astype(np.float32) * 100, 10)[1] == found


@pytest.fixture(scope="module")
def clusters():
    """5,000 x 32 in 200 clusters, and 100 queries near some of them."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(200, 32))
    vectors = centres[rng.integers(200, size=5000)] + 0.3 * rng.normal(size=(5000, 32))
    queries = vectors[rng.integers(5000, size=100)] + 0.1 * rng.normal(size=(100, 32))
    return [f"{row:04d}" for row in range(5000)], vectors, queries


def test_an_inexact_index_finds_nearly_all(clusters):
    ids, vectors, queries = clusters
    exact, divided = build(ids, vectors), build(ids, vectors, exact_up_to=1000)
    assert (exact.lists, divided.lists) == (0, 280)
    wanted, found = exact.nearest(queries, 10), divided.nearest(queries, 10)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(wanted[1], found[1], strict=True)]
    assert np.mean(shared) >= 0.95
    known = [dict(zip(items, row, strict=True)) for row, items in zip(wanted[0].tolist(), wanted[1], strict=True)]
    for row, items in enumerate(found[1]):  # what is found has the cosine that the exact index gives it
        for cosine, item in zip(found[0][row].tolist(), items, strict=True):
            assert known[row].get(item, cosine) == cosine


def test_an_inexact_index_gives_k_items_even_if_the_lists_it_looks_into_hold_fewer(clusters):
    ids, vectors, queries = clusters
    _, found = build(ids, vectors, exact_up_to=1000).nearest(queries[:2], 4999)
    assert [len(set(items)) for items in found] == [4999, 4999]


@pytest.mark.parametrize("exact_up_to", [10_000, 1000])
def test_a_saved_index_answers_as_before_and_has_the_same_bytes(tmp_path, clusters, exact_up_to):
    ids, vectors, queries = clusters
    index = build(ids, vectors, exact_up_to=exact_up_to)
    index.save(tmp_path / "new/a.index")
    build(ids[::-1], vectors[::-1], exact_up_to=exact_up_to).save(tmp_path / "b.index")
    read = Index.open(tmp_path / "new/a.index", features_sha256=HASH)
    scores, found = index.nearest(queries, 7)
    scores_read, found_read = read.nearest(queries, 7)
    assert found_read == found
    assert np.array_equal(scores_read, scores)
    assert read.features_sha256 == HASH
    assert (tmp_path / "new/a.index").read_bytes() == (tmp_path / "b.index").read_bytes()
    read.save(tmp_path / "c.index")  # searched in between
    assert (tmp_path / "c.index").read_bytes() == (tmp_path / "b.index").read_bytes()


def test_an_index_of_other_features_absent_or_broken_is_none(tmp_path, caplog):
    path = tmp_path / "a.index"
    assert Index.open(path, features_sha256=HASH) is None
    build(["a", "b"], [[1, 0], [0, 1]]).save(path)
    assert Index.open(path, features_sha256="1" * 64) is None
    assert caplog.text == ""
    whole = path.read_bytes()
    for broken in (b"", b"PK", whole[: len(whole) // 2], whole.replace(b"IxFI", b"IxXX")):
        path.write_bytes(broken)
        caplog.clear()
        assert Index.open(path, features_sha256=HASH) is None
        assert "unreadable" in caplog.text


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.index"
    build(["a"], [[1, 0]]).save(path)
    before = path.read_bytes()

    def killed(*_, **__):
        raise KeyboardInterrupt

    other = build(["b"], [[0, 1]], features_sha256="1" * 64)
    monkeypatch.setattr(search.zipfile.ZipFile, "open", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_without_direction_is_an_error(value):
    with pytest.raises(FeatureError, match=r"1 vectors are zero or not finite \(first: item b\).*leave absent"):
        build(["a", "b"], [[1, 0], [value, 0]])
    with pytest.raises(FeatureError, match="query 1 is zero or not finite"):
        build(["a"], [[1, 0]]).nearest(np.array([[1, 0], [value, 0]], np.float32), 1)


def test_very_small_and_very_large_vectors_have_directions():
    index = build(["a", "b"], [[1e-30, 0], [0, 1e30]])
    scores, found = index.nearest(np.array([[3e38, 1e38], [1e-40, 2e-40]], np.float32), 2)
    assert found == [["a", "b"], ["b", "a"]]
    assert scores[:, 0] == pytest.approx([0.9487, 0.8944], abs=1e-4)


def test_bad_arguments_are_errors():
    index = build(["a"], [[1, 0]])
    with pytest.raises(ConfigError, match="0 nearest items are asked for"):
        index.nearest(np.ones((1, 2), np.float32), 0)
    with pytest.raises(ConfigError, match="0 nearest items are asked for"):
        index.neighbours("a", 0)
    with pytest.raises(FeatureError, match="queries are 3 wide, the index is 2"):
        index.nearest(np.ones((1, 3), np.float32), 1)
    with pytest.raises(FeatureError, match="1 item ids occur more than once"):
        build(["a", "a"], [[1, 0], [0, 1]])
    with pytest.raises(FeatureError, match="2 ids for 1 vectors"):
        build(["a", "b"], [[1, 0]])
    with pytest.raises(DataError, match="no vector of item 'b'"):
        index.neighbours("b", 1)


def test_no_items_no_queries_and_one_item():
    none, one = build([], np.zeros((0, 2))), build(["a"], [[1, 0]])
    assert none.nearest(np.ones((2, 2), np.float32), 3)[1] == [[], []]
    assert one.nearest(np.zeros((0, 2), np.float32), 3)[1] == []
    assert one.neighbours("a", 3)[1] == []


def write_store(path, vectors):
    """A store of items i0, i1, ...; those of NaN are absent."""
    ids = [f"i{row}" for row in range(len(vectors))]
    present = [row for row, vector in enumerate(vectors) if np.isfinite(vector).all()]
    feature_store.write_given(
        path,
        pa.chunked_array([ids], pa.string()),
        [ids[row] for row in present],
        np.asarray(vectors, np.float32)[present],
        dataset="demo",
        modality="audio",
    )


def opened(tmp_path, **options):
    given = {"dataset": "demo", "encoder": "given", "modality": "audio"}
    return search.open_or_build(tmp_path / "audio.parquet", tmp_path / "x/audio.index", **given | options)


def test_an_index_is_built_again_when_its_store_changes_and_only_then(tmp_path, monkeypatch):
    built, build_index = [], Index.build
    monkeypatch.setattr(Index, "build", lambda *values, **named: built.append(1) or build_index(*values, **named))
    vectors = np.random.default_rng(3).normal(size=(60, 8))
    write_store(tmp_path / "audio.parquet", vectors)
    first = opened(tmp_path)
    assert first.features_sha256 == tables.sha256_of(tmp_path / "audio.parquet")
    assert opened(tmp_path).neighbours("i0", 5)[1] == first.neighbours("i0", 5)[1]
    write_store(tmp_path / "audio.parquet", vectors)  # the same bytes again
    opened(tmp_path)
    assert len(built) == 1
    vectors[7] = vectors[0]
    write_store(tmp_path / "audio.parquet", vectors)
    assert opened(tmp_path).neighbours("i0", 5)[1][0] == "i7"
    assert len(built) == 2
    assert opened(tmp_path, exact_up_to=30).lists == 28
    assert opened(tmp_path, exact_up_to=30).lists == 28
    assert len(built) == 3
    (tmp_path / "x/audio.index").write_bytes(b"broken")
    opened(tmp_path, exact_up_to=30)
    assert len(built) == 4


def test_absent_items_are_never_found(tmp_path):
    vectors = np.random.default_rng(4).normal(size=(30, 8))
    vectors[[3, 11]] = np.nan
    write_store(tmp_path / "audio.parquet", vectors)
    index = opened(tmp_path)
    _, [found] = index.nearest(np.ones((1, 8), np.float32), 30)
    assert sorted(found) == sorted({f"i{row}" for row in range(30)} - {"i3", "i11"})
    assert "i3" not in index


def test_a_store_that_is_absent_or_another_is_refused(tmp_path):
    with pytest.raises(FeatureError, match=r"no such file.*run dvc repro media@demo"):
        opened(tmp_path)
    write_store(tmp_path / "audio.parquet", np.eye(4))
    with pytest.raises(FeatureError, match="dataset is 'demo', not 'hm'"):
        opened(tmp_path, dataset="hm")
    tables.write_table(tmp_path / "audio.parquet", pa.table({"item": ["a"]}))
    with pytest.raises(FeatureError, match="no column 'vector'"):
        opened(tmp_path)
    assert not (tmp_path / "x").exists()


def test_the_number_of_threads_is_as_before():
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before + 2)
    build(["a"], [[1, 0]]).nearest(np.ones((1, 2), np.float32), 1)
    assert faiss.omp_get_max_threads() == before + 2
    faiss.omp_set_num_threads(before)


def test_where_no_index_can_be_kept_one_is_built_for_the_search(tmp_path, caplog):
    write_store(tmp_path / "audio.parquet", np.random.default_rng(3).normal(size=(60, 8)))
    (tmp_path / "x").write_text("a file where the index's folder is to be")
    assert opened(tmp_path).neighbours("i0", 5)[1][0] != "i0"
    assert "the index cannot be kept" in caplog.text
