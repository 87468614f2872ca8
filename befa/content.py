"""From an item's content to the recommender's space: feature table, projection, adapter."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from befa import errors
from befa.adapters.base import Adapter
from befa.layers import linear
from befa.problem import Content, Problem


class ContentTower(nn.Module):
    """One modality: h = adapter(F W + b, id), for the rows that are asked for and no others.

    Rows of absent items are zero, whatever projection and adapter would make of them, and have no gradient. The
    table starts from the encoder's features; `trainable` lets training change it, as the field's reference code
    does, else it is no part of the state. `xavier`: Xavier normal projection weight.
    """

    def __init__(
        self, content: Content, adapter: Adapter, width: int, *, trainable: bool, rng: Generator, xavier: bool = False
    ) -> None:
        super().__init__()
        if trainable:
            self.table = nn.Parameter(content.values_Ic.clone())
        else:
            self.register_buffer("table", content.values_Ic, persistent=False)
        self.register_buffer("present_I", content.present_I, persistent=False)
        self.project = linear(content.values_Ic.shape[1], width, rng=rng, xavier=xavier)
        self.adapter = adapter

    def forward(
        self, rows_n: Int[Tensor, " n"] | None, id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]]:
        """The adapted content of items `rows_n` (None: all), and which of them are present.

        `id_nd`: those items' rows of the id table, undetached; `rng`: for the adapter's dropout.
        """
        x_nc = self.table if rows_n is None else F.embedding(rows_n, self.table)
        present_n = self.present_I if rows_n is None else self.present_I[rows_n]
        h_nd = self.adapter(self.project(x_nc), id_nd, rng=rng)
        return torch.where(present_n[:, None], h_nd, 0), present_n


def content_towers(
    problem: Problem,
    adapters: Mapping[str, Adapter],
    width: int,
    *,
    trainable: bool,
    rng: Generator,
    xavier: bool = False,
) -> nn.ModuleDict:
    """A tower per modality of the problem, in its order. Raises ConfigError for a modality without adapter."""
    return nn.ModuleDict(
        {
            name: ContentTower(
                content,
                errors.lookup(adapters, name, "adapter's modality"),
                width,
                trainable=trainable,
                rng=rng,
                xavier=xavier,
            )
            for name, content in problem.contents.items()
        }
    )
