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
        self.complete = bool(content.present_I.all())
        self.project = linear(content.values_Ic.shape[1], width, rng=rng, xavier=xavier)
        self.adapter = adapter

    def forward(
        self, rows_n: Int[Tensor, " n"] | None, id_Id: Float[Tensor, "I d"], *, rng: Generator
    ) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]]:
        """The adapted content of items `rows_n` (None: all), and which of them are present.

        `id_Id`: the host's id table, undetached; `rng`: for the adapter's dropout.
        """
        if rows_n is None:
            return self.distinct(None, id_Id, rng=rng)
        # An item that stands in a batch several times is adapted once, as where the whole table is: it is less work,
        # and it gets one dropout mask a batch.
        items_m, place_n = rows_n.unique(return_inverse=True)
        h_md, present_m = self.distinct(items_m, id_Id, rng=rng)
        return F.embedding(place_n, h_md), present_m[place_n]

    def distinct(
        self, rows_m: Int[Tensor, " m"] | None, id_Id: Float[Tensor, "I d"], *, rng: Generator
    ) -> tuple[Float[Tensor, "m d"], Bool[Tensor, " m"]]:
        """The same for items `rows_m` (None: all) no two of which are equal."""
        if rows_m is None:
            return self._adapted(self.table, id_Id, self.present_I, rng), self.present_I
        table_mc, id_md, present_m = F.embedding(rows_m, self.table), F.embedding(rows_m, id_Id), self.present_I[rows_m]
        return self._adapted(table_mc, id_md, present_m, rng), present_m

    def _adapted(self, x_mc: Tensor, id_md: Tensor, present_m: Tensor, rng: Generator) -> Tensor:
        h_md = self.adapter(self.project(x_mc), id_md, rng=rng)
        return h_md if self.complete else torch.where(present_m[:, None], h_md, 0)


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
