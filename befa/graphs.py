"""The graphs the recommenders propagate over: users with items, and items with their nearest items."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from befa.errors import FeatureError
from befa.neighbours import BLOCK, nearest
from befa.problem import Content, Problem
from befa.sparse import SparseMatrix, layer_mean, pair_dots

SHORTEST = 1e-12
"""Norm below which F.normalize no longer makes a row one long."""
ROUNDING = 1e-6
"""Of a row sum of cosines in float32, relative to the sum of their sizes: a few units in the last place."""


def edge_weights(
    users_E: Int[Tensor, " E"], items_E: Int[Tensor, " E"], n_users: int, n_items: int, *, epsilon: float
) -> Float[Tensor, " E"]:
    """1 / sqrt((d_u + epsilon) (d_i + epsilon)) per interaction, degrees d counted among the given interactions.

    An edge has degrees of at least 1, so with epsilon = 0 the rule "1/0 -> 0" is met by there being no edge.
    """
    degree_U = torch.bincount(users_E, minlength=n_users).double() + epsilon
    degree_I = torch.bincount(items_E, minlength=n_items).double() + epsilon
    return (degree_U[users_E] * degree_I[items_E]).rsqrt().float()


def symmetric_adjacency(
    users_E: Int[Tensor, " E"], items_E: Int[Tensor, " E"], n_users: int, n_items: int, *, epsilon: float
) -> SparseMatrix:
    """D^-1/2 A D^-1/2 [N, N], A = [[0, R], [R^T, 0]], no self loops (LightGCN, arXiv 2002.02126, eq. 6-7).

    `epsilon` is added to the degrees: 1e-7 in the code of BM3 and FREEDOM, 0 in MGCN's.
    """
    n_nodes, weights_E = n_users + n_items, edge_weights(users_E, items_E, n_users, n_items, epsilon=epsilon)
    rows, columns = torch.cat([users_E, n_users + items_E]), torch.cat([n_users + items_E, users_E])
    return SparseMatrix(rows, columns, torch.cat([weights_E, weights_E]), (n_nodes, n_nodes))


def adjacency_of(problem: Problem, *, epsilon: float) -> SparseMatrix:
    """`symmetric_adjacency` of all training interactions."""
    return symmetric_adjacency(problem.users_E, problem.items_E, problem.n_users, problem.n_items, epsilon=epsilon)


def row_adjacency(problem: Problem) -> SparseMatrix:
    """D^-1 (A + I) [N, N], D = degree + 1: the mean over a node and its neighbours, as LATTICE's code has it."""
    users_E, items_E, n_nodes = problem.users_E, problem.n_users + problem.items_E, problem.n_users + problem.n_items
    self_N = torch.arange(n_nodes, device=users_E.device)
    rows, columns = torch.cat([users_E, items_E, self_N]), torch.cat([items_E, users_E, self_N])
    return SparseMatrix(rows, columns, 1 / torch.bincount(rows, minlength=n_nodes)[rows], (n_nodes, n_nodes))


def user_item_block(problem: Problem) -> SparseMatrix:
    """The user-item block [U, I] of the symmetric adjacency with epsilon 0 (MGCN): users as sums over their items."""
    shape = problem.n_users, problem.n_items
    weights_E = edge_weights(problem.users_E, problem.items_E, *shape, epsilon=0.0)
    return SparseMatrix(problem.users_E, problem.items_E, weights_E, shape)


def propagate(
    adjacency: SparseMatrix, users_Ud: Float[Tensor, "U d"], items_Id: Float[Tensor, "I d"], layers: int
) -> tuple[Float[Tensor, "U d"], Float[Tensor, "I d"]]:
    """Users and items of the mean of z, Az, ..., A^layers z, z = [users ; items]: LightGCN's (arXiv 2002.02126, eq. 4).

    Every layer has the same weight.
    """
    sizes = [len(users_Ud), len(items_Id)]
    users_Ud, items_Id = layer_mean(adjacency, torch.cat([users_Ud, items_Id]), layers).split(sizes)
    return users_Ud, items_Id


def hops(graph: SparseMatrix, z_Id: Float[Tensor, "I d"], layers: int) -> Float[Tensor, "I d"]:
    """graph^layers z."""
    for _ in range(layers):
        z_Id = graph @ z_Id
    return z_Id


def cosine_edges(
    values_Ic: Float[Tensor, "I c"], present_I: Bool[Tensor, " I"], k: int, *, block: int = BLOCK
) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"], Float[Tensor, " E"]]:
    """Each present item's `k` nearest present items by cosine: rows, columns, cosines in [-1, 1].

    An item is its own neighbour, also where many have its vector (a shop's placeholder picture, say). The choice has no
    gradient, the cosines have one to `values_Ic`. Absent items take no part; `k` is capped at the number of present
    ones, so E = P min(k, P). Cosines are compared in steps of 2^-24 (6e-8), and of equal ones the lower id is nearer:
    duplicates thus give the same graph whatever the order of summation. No more than `block` similarities, or one row
    of them, are held at once. A row of norm 0 has cosine 0 with all.
    """
    items_P = present_I.nonzero().squeeze(1)
    values_Pc = values_Ic.detach() if present_I.all() else values_Ic.detach()[items_P]  # no copy without need
    nearest_Pk = nearest(values_Pc, k, block=block)
    rows_E, columns_E = items_P.repeat_interleave(nearest_Pk.shape[1]), items_P[nearest_Pk.flatten()]
    unit_Ic = F.normalize(values_Ic)
    return rows_E, columns_E, pair_dots(unit_Ic, unit_Ic, rows_E, columns_E)


def laplacian_values(
    rows_E: Int[Tensor, " E"], columns_E: Int[Tensor, " E"], values_E: Float[Tensor, " E"], n: int
) -> Float[Tensor, " E"]:
    """values_ij / sqrt(r_i r_j), r the row sums of the [n, n] matrix; an entry with r_i or r_j <= 0 becomes 0.

    The reference code gives NaN for a negative sum, which negative cosines can make, and values of 1e7 for a sum that
    would be 0 but for rounding: what is below 1e-6 of the sum of the sizes is 0 here.
    """
    sums_I = values_E.new_zeros(n).index_add(0, rows_E, values_E)
    sizes_I = values_E.new_zeros(n).index_add(0, rows_E, values_E.detach().abs())
    scale_I = torch.where(sums_I > ROUNDING * sizes_I, sums_I, torch.inf).rsqrt()
    return values_E * scale_I[rows_E] * scale_I[columns_E]


def cosine_graph(content: Content, k: int, *, name: str) -> SparseMatrix:
    """The item graph [I, I] of LATTICE and MGCN: k nearest items, cosine weights, D^-1/2 S D^-1/2 (D: row sums).

    Directed, self included (LATTICE, arXiv 2104.09036). No gradient. Rows and columns of absent items are
    empty. Raises FeatureError for a present row that is not finite or has no direction; `name` says whose features.
    """
    _require_directions(content, name)
    n_items = len(content.present_I)
    rows_E, columns_E, cosines_E = cosine_edges(content.values_Ic.detach(), content.present_I, k)
    return SparseMatrix(rows_E, columns_E, laplacian_values(rows_E, columns_E, cosines_E, n_items), (n_items, n_items))


def cosine_graphs(problem: Problem, k: int) -> nn.ModuleDict:
    """A `cosine_graph` per modality of the problem, in its order."""
    return nn.ModuleDict({name: cosine_graph(content, k, name=name) for name, content in problem.contents.items()})


def binary_graph(content: Content, k: int, *, name: str) -> SparseMatrix:
    """The item graph [I, I] of FREEDOM (arXiv 2211.06924): k nearest items by cosine, each with weight 1/k.

    Same neighbours, absences and errors as `cosine_graph`; k counts the neighbours a row really has.
    """
    _require_directions(content, name)
    n_items = len(content.present_I)
    rows_E, columns_E, _ = cosine_edges(content.values_Ic.detach(), content.present_I, k)
    weights_E = 1 / torch.bincount(rows_E, minlength=n_items)[rows_E]
    return SparseMatrix(rows_E, columns_E, weights_E, (n_items, n_items))


def _require_directions(content: Content, name: str) -> None:
    norms_I = torch.linalg.vector_norm(content.values_Ic, dim=1)
    for wrong_I, what in (
        (~norms_I.isfinite(), "is not finite, or too long for float32"),
        (norms_I < SHORTEST, f"has a norm below {SHORTEST}, hence no cosine with any other"),
    ):
        rows = (wrong_I & content.present_I).nonzero()
        if len(rows):
            raise FeatureError(
                f"row {rows[0].item()} {what} ({len(rows)} such rows)",
                where=f"the {name} features",
                mend="mark the row absent, or encode the item again",
            )
