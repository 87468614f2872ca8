"""The graphs against dense NumPy, and the laws that keep them out of trouble."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from befa import graphs
from befa.errors import FeatureError
from befa.problem import Content, Problem
from befa.rng import stream
from befa.sparse import SparseMatrix, layer_mean, pair_dots

SQUARE = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=10)
PAIRS = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=25)


def content(n, width, absent=(), seed=0):
    values, present = torch.randn(n, width, generator=stream(seed, "features")), torch.ones(n, dtype=torch.bool)
    present[list(absent)] = False
    return Content(torch.where(present[:, None], values, 0), present)


def naive_adjacency(pairs):
    dense = np.zeros((12, 12))
    for user, item in pairs:
        dense[user, 5 + item] = dense[5 + item, user] = 1
    return dense


def naive_neighbours(features, k):
    """Of the present items: rows of (row, neighbour, cosine)."""
    ids = features.present_I.nonzero().squeeze(1).tolist()
    x = features.values_Ic.double().numpy()
    for row in ids:
        cosines = {j: x[row] @ x[j] / np.linalg.norm(x[row]) / np.linalg.norm(x[j]) for j in ids}
        for j in sorted(ids, key=lambda j: (-round(cosines[j], 7), j))[:k]:
            yield row, j, cosines[j]


@given(PAIRS)
def test_the_user_item_graphs_are_the_formulas(pairs):
    users, items = torch.tensor(sorted(pairs)).T
    problem, dense = Problem(5, 7, users, items), naive_adjacency(pairs)
    with np.errstate(divide="ignore"):
        scale = np.where(dense.sum(1) > 0, 1 / np.sqrt(dense.sum(1)), 0)
    symmetric = scale[:, None] * dense * scale
    with_self = dense + np.eye(12)
    for found, expected in (
        (graphs.symmetric_adjacency(users, items, 5, 7, epsilon=0.0), symmetric),
        (graphs.symmetric_adjacency(users, items, 5, 7, epsilon=1e-7), symmetric),
        (graphs.user_item_block(problem), symmetric[:5, 5:]),
        (graphs.row_adjacency(problem), with_self / with_self.sum(1, keepdims=True)),
    ):
        np.testing.assert_allclose(found.dense().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_propagation_is_the_mean_of_the_layers():
    users, items = torch.tensor([[0, 0], [0, 1], [1, 1]]).T
    adjacency = graphs.symmetric_adjacency(users, items, 2, 2, epsilon=0.0)
    z, a = torch.randn(4, 3, generator=stream(0, "z")), adjacency.dense()
    expected = (z + a @ z + a @ a @ z) / 3
    for layers, mean in ((2, expected), (0, z)):
        users_Ud, items_Id = graphs.propagate(adjacency, *z.split([2, 2]), layers)
        torch.testing.assert_close(users_Ud, mean[:2])
        torch.testing.assert_close(items_Id, mean[2:])


@given(SQUARE, st.integers(0, 3))
def test_the_mean_of_the_layers_has_the_gradient_of_its_terms(pairs, layers):
    rng = stream(0, "layers")
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    matrix = SparseMatrix(rows, columns, torch.randn(len(pairs), dtype=torch.float64, generator=rng), (4, 4))
    z = torch.randn(4, 2, dtype=torch.float64, generator=rng, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: layer_mean(matrix, y, layers), z)
    torch.testing.assert_close(
        layer_mean(matrix, z, layers),
        sum(matrix.dense().matrix_power(n) @ z for n in range(layers + 1)) / (layers + 1),
    )


def test_a_symmetric_matrix_is_stored_once():
    users, items = torch.tensor([[0, 0], [0, 1], [1, 1]]).T
    adjacency = graphs.symmetric_adjacency(users, items, 2, 2, epsilon=1e-7)
    assert adjacency.transposed_columns is adjacency.columns
    one_way = SparseMatrix(users, items, torch.ones(3), (2, 2))
    assert one_way.transposed_columns is not one_way.columns


@given(st.integers(1, 9), st.integers(1, 12), st.sets(st.integers(0, 8)), st.integers(0, 1000))
def test_item_graphs_are_the_formulas(n, k, absent, seed):
    features = content(n, 4, [i for i in absent if i < n], seed)
    cosines, binary = np.zeros((n, n)), np.zeros((n, n))
    for row, column, cosine in naive_neighbours(features, k):
        cosines[row, column], binary[row, column] = cosine, 1 / min(k, int(features.present_I.sum()))
    sums = cosines.sum(1)
    scale = np.where(sums > 0, 1 / np.sqrt(np.where(sums > 0, sums, 1)), 0)
    found = graphs.cosine_graph(features, k, name="image").dense()
    np.testing.assert_allclose(found, scale[:, None] * cosines * scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(graphs.binary_graph(features, k, name="image").dense(), binary, rtol=1e-6)


def test_absent_items_have_no_row_and_no_column():
    features = content(30, 4, absent=[0, 7, 29])
    for build in (graphs.cosine_graph, graphs.binary_graph):
        dense = build(features, 5, name="image").dense()
        assert not dense[[0, 7, 29]].any()
        assert not dense[:, [0, 7, 29]].any()
        assert (dense[features.present_I] != 0).sum(1).tolist() == [5] * 27


def test_the_block_size_does_not_matter():
    features = content(50, 4, absent=[3])
    features.values_Ic[20:30] = features.values_Ic[10]  # ties
    whole = graphs.cosine_edges(features.values_Ic, features.present_I, 7)
    for block in (1, 100, 49 * 7):
        for found, expected in zip(
            graphs.cosine_edges(features.values_Ic, features.present_I, 7, block=block), whole, strict=True
        ):
            assert torch.equal(found, expected)


def test_the_lower_id_wins_a_tie_but_for_the_item_itself():
    values = torch.randn(1, 8, generator=stream(0, "x")) * torch.rand(40, 1, generator=stream(0, "scale"))
    _, columns, _ = graphs.cosine_edges(values, torch.ones(40, dtype=torch.bool), 3)
    assert columns.reshape(40, 3).tolist() == [[0, 1, 2]] * 3 + [[0, 1, item] for item in range(3, 40)]


@pytest.mark.parametrize("build", [graphs.cosine_graph, graphs.binary_graph])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        *((number, "row 3 has a norm below 1e-12") for number in (0.0, 1e-14)),
        *((number, "row 3 is not finite") for number in (np.nan, -np.inf, 1e30)),
    ],
)
def test_a_row_without_direction_is_an_error_only_when_present(build, value, says):
    features = content(6, 4)
    features.values_Ic[3] = value
    with pytest.raises(FeatureError, match=rf"{says}.* in the image features; mark the row absent"):
        build(features, 2, name="image")
    features.present_I[3] = False
    assert build(features, 2, name="image").dense().isfinite().all()


def test_very_long_and_very_short_rows_have_a_direction():
    features = content(6, 4)
    expected = graphs.cosine_graph(features, 2, name="image").dense()
    features.values_Ic[2] *= 1e-10
    features.values_Ic[4] *= 1e15
    torch.testing.assert_close(graphs.cosine_graph(features, 2, name="image").dense(), expected)


def test_no_content_makes_no_edges():
    for features in (content(4, 3, absent=range(4)), content(0, 3)):
        for build in (graphs.cosine_graph, graphs.binary_graph):
            assert not build(features, 2, name="image").dense().any()


def test_a_node_with_a_negative_sum_loses_its_edges():
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    values = graphs.laplacian_values(rows, columns, torch.tensor([1.0, -3.0, 2.0]), 2)
    torch.testing.assert_close(values, torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("n", range(3, 11))
def test_a_sum_that_is_0_but_for_rounding_is_0(n):
    """Indicators of n kinds less their mean: each row's cosines, its own of 1 and the others of -1/(n-1), sum to 0."""
    kinds = Content(torch.eye(n) - 1 / n, torch.ones(n, dtype=torch.bool))
    assert not graphs.cosine_graph(kinds, 10, name="image").dense().any()


def test_cosines_have_the_gradient_of_their_formula():
    x = torch.randn(8, 3, generator=stream(0, "x"), dtype=torch.float64, requires_grad=True)
    present = torch.arange(8) != 5
    assert torch.autograd.gradcheck(lambda y: graphs.cosine_edges(y, present, 3)[2], x)


SPARSE = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=15)


@given(SPARSE)
def test_the_sparse_product_and_its_gradients(pairs):
    rng = stream(0, "sparse")
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    values = torch.randn(len(pairs), dtype=torch.float64, generator=rng, requires_grad=True)
    x = torch.randn(5, 2, dtype=torch.float64, generator=rng, requires_grad=True)
    dense = torch.zeros(4, 5, dtype=torch.float64).index_put((rows, columns), values, accumulate=True)
    matrix = SparseMatrix(rows, columns, values, (4, 5))
    torch.testing.assert_close(matrix.dense(), dense)
    torch.testing.assert_close(matrix @ x, dense @ x)
    weights = torch.randn(4, 2, dtype=torch.float64, generator=rng)
    for found, expected in zip(
        torch.autograd.grad((weights * (matrix @ x)).sum(), (values, x)),
        torch.autograd.grad((weights * (dense @ x)).sum(), (values, x)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_pair_dots_are_chunked_without_a_seam(monkeypatch):
    rng = stream(0, "pairs")
    a, b = torch.randn(6, 3, generator=rng), torch.randn(9, 3, generator=rng)
    rows, columns = torch.randint(6, (50,), generator=rng), torch.randint(9, (50,), generator=rng)
    monkeypatch.setattr("befa.sparse.CHUNK", 7)
    torch.testing.assert_close(pair_dots(a, b, rows, columns), (a @ b.T)[rows, columns])


def test_a_constant_graph_keeps_the_gradient_of_earlier_products():
    values = torch.tensor([2.0], requires_grad=True)
    matrix = SparseMatrix(torch.tensor([0]), torch.tensor([0]), values, (1, 1))
    before = matrix @ torch.ones(1, 1)
    matrix.cut_gradient()
    before.sum().backward()
    assert values.grad.tolist() == [1]
    assert not (matrix @ torch.ones(1, 1)).requires_grad


def test_the_graphs_are_no_part_of_a_state():
    assert not graphs.cosine_graph(content(4, 3), 2, name="image").state_dict()


def test_epsilon_is_added_to_the_degrees():
    weights = graphs.edge_weights(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, 2, epsilon=0.5)
    torch.testing.assert_close(weights, torch.tensor([2.5 * 1.5, 2.5 * 2.5, 1.5 * 2.5]).rsqrt())
