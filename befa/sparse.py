"""Sparse times dense, with gradient to both, in memory proportional to the stored entries."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import Function

from befa.blocks import at_once

CHUNK = 2**19
"""Numbers that `pair_dots` gathers at once from each side (2 MB in float32), so that they stay in a core's cache; see
`at_once`."""


class SparseMatrix(nn.Module):
    """A matrix [r, c] in compressed rows, its transpose beside it; `matrix @ x_cd` has gradient to values and x.

    The product is an embedding bag over the row pointers: 3.5 times as fast on a CPU as torch's CSR product, and
    as deterministic, forward and backward. Values of a pair that is given more than once are added. The buffers
    move with the module that owns the matrix and are never part of its state.
    """

    def __init__(
        self,
        rows_E: Int[Tensor, " E"],
        columns_E: Int[Tensor, " E"],
        values_E: Float[Tensor, " E"],
        shape: tuple[int, int],
    ) -> None:
        super().__init__()
        self.shape = shape
        n_rows, n_columns = shape
        pairs_E, entry_E = torch.unique(rows_E * n_columns + columns_E, return_inverse=True)
        rows_E, columns_E = pairs_E // max(n_columns, 1), pairs_E % max(n_columns, 1)
        by_column_E = columns_E.argsort(stable=True)
        values_E = values_E.new_zeros(len(pairs_E)).index_add(0, entry_E, values_E)
        # Half as wide where they fit: the product reads an index per entry.
        index = torch.int32 if max(len(pairs_E), *shape) < 2**31 else torch.int64
        stored = columns_E.to(index), _pointers(rows_E, n_rows).to(index), values_E
        transposed = (
            rows_E[by_column_E].to(index),
            _pointers(columns_E[by_column_E], n_columns).to(index),
            values_E.detach()[by_column_E],
        )
        # A symmetric matrix is its own transpose.
        if all(torch.equal(own, other) for own, other in zip(stored, transposed, strict=True)):
            transposed = *stored[:2], values_E.detach()
        for name, value in zip(("columns", "pointers", "values"), stored, strict=True):
            self.register_buffer(name, value, persistent=False)
        for name, value in zip(("columns", "pointers", "values"), transposed, strict=True):
            self.register_buffer(f"transposed_{name}", value, persistent=False)

    @property
    def rows(self) -> Int[Tensor, " E"]:
        """The row of every stored entry, ascending."""
        return torch.repeat_interleave(self.pointers.diff())

    def __matmul__(self, x_cd: Float[Tensor, "c d"]) -> Float[Tensor, "r d"]:
        return _Product.apply(self.values, x_cd, self)

    def transposed_times(self, x_rd: Float[Tensor, "r d"]) -> Float[Tensor, "c d"]:
        """The transpose's product with x, without gradient."""
        return _bags(self.transposed_pointers, self.transposed_columns, self.transposed_values, x_rd)

    def cut_gradient(self) -> None:
        """Makes the values constants; products made before keep their gradient."""
        self.values = self.values.detach()

    def dense(self) -> Float[Tensor, "r c"]:
        """All entries, for tests and small examples."""
        return torch.zeros(self.shape, dtype=self.values.dtype).index_put((self.rows, self.columns), self.values)


def layer_mean(matrix: SparseMatrix, z_Nd: Float[Tensor, "N d"], layers: int) -> Float[Tensor, "N d"]:
    """The mean of z, Mz, ..., M^layers z, with gradient to z; the matrix is a constant here.

    By Horner's rule, z + M (z + M (...)): a product and an addition in place a layer, forward and backward, and
    nothing is kept for the backward pass.
    """
    return _LayerMean.apply(z_Nd, matrix, layers) if layers else z_Nd


def pair_dots(
    a_rd: Float[Tensor, "r d"], b_cd: Float[Tensor, "c d"], rows_E: Int[Tensor, " E"], columns_E: Int[Tensor, " E"]
) -> Float[Tensor, " E"]:
    """The dot products a[row] . b[column] of the given pairs, with gradient to both; never all r x c of them."""
    return _PairDots.apply(a_rd, b_cd, rows_E, columns_E)


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, values_E: Tensor, x_cd: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(*([x_cd] if ctx.needs_input_grad[0] else []))
        return _bags(matrix.pointers, matrix.columns, values_E, x_cd)

    @staticmethod
    def backward(ctx: Any, grad_rd: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        matrix, grad_values_E, grad_x_cd = ctx.matrix, None, None
        if ctx.needs_input_grad[0]:
            grad_values_E = pair_dots(grad_rd, ctx.saved_tensors[0], matrix.rows, matrix.columns)
        if ctx.needs_input_grad[1]:
            grad_x_cd = matrix.transposed_times(grad_rd)
        return grad_values_E, grad_x_cd, None


class _LayerMean(Function):
    @staticmethod
    def forward(ctx: Any, z_Nd: Tensor, matrix: SparseMatrix, layers: int) -> Tensor:
        ctx.matrix, ctx.layers = matrix, layers
        return _horner(matrix.pointers, matrix.columns, matrix.values.detach(), z_Nd, layers)

    @staticmethod
    def backward(ctx: Any, grad_Nd: Tensor) -> tuple[Tensor, None, None]:
        matrix = ctx.matrix
        transpose = matrix.transposed_pointers, matrix.transposed_columns, matrix.transposed_values
        return _horner(*transpose, grad_Nd, ctx.layers), None, None


class _PairDots(Function):
    @staticmethod
    def forward(ctx: Any, a_rd: Tensor, b_cd: Tensor, rows_E: Tensor, columns_E: Tensor) -> Tensor:
        ctx.save_for_backward(a_rd, b_cd, rows_E, columns_E)
        size = max(1, at_once(CHUNK, a_rd.device) // max(1, a_rd.shape[1]))
        chunks = zip(rows_E.split(size), columns_E.split(size), strict=True)
        return torch.cat([(F.embedding(rows, a_rd) * F.embedding(columns, b_cd)).sum(1) for rows, columns in chunks])

    @staticmethod
    def backward(ctx: Any, grad_E: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        a_rd, b_cd, rows_E, columns_E = ctx.saved_tensors
        matrix = SparseMatrix(rows_E, columns_E, grad_E, (len(a_rd), len(b_cd)))
        return matrix @ b_cd, matrix.transposed_times(a_rd), None, None


def _bags(pointers: Tensor, columns: Tensor, values: Tensor, x_cd: Tensor) -> Tensor:
    return F.embedding_bag(
        columns, x_cd.contiguous(), pointers, per_sample_weights=values, mode="sum", include_last_offset=True
    )


def _horner(pointers: Tensor, columns: Tensor, values: Tensor, z_Nd: Tensor, layers: int) -> Tensor:
    sum_Nd = z_Nd
    for _ in range(layers):
        sum_Nd = _bags(pointers, columns, values, sum_Nd).add_(z_Nd)
    return sum_Nd.div_(layers + 1)


def _pointers(sorted_E: Int[Tensor, " E"], n: int) -> Int[Tensor, " n_plus_1"]:
    """Where each of the `n` rows begins among the sorted row numbers, and where the last one ends."""
    return torch.searchsorted(sorted_E, torch.arange(n + 1, device=sorted_E.device))
