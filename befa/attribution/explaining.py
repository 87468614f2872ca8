"""What a trained cell sees in its items' pictures: heatmaps by method, and how content and behaviour agree.

Pictures alone are explained: equation 2 of BeFA's paper (arXiv 2406.00323) masks pictures, and says nothing of texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from befa.attribution.becam import SCORE_CAM, BeCAMConfig, Score, becam, behaviour, grad_cam, masked
from befa.attribution.heatmap import Heatmap
from befa.config import configuration
from befa.encoders.base import PictureEncoder
from befa.errors import ConfigError


@configuration
class AttributionConfig:
    """Block `attribution` of params.yaml."""

    items: Annotated[int, Field(ge=1)] = 64
    """Items whose pictures are explained, a sample of those with one.

    64 of them take one CPU core a quarter of a minute with the demo's small tower, and two hours with ViT-B/32
    (benchmarks/bench_attribute.py)."""
    shown: Annotated[int, Field(ge=1)] = 8
    """Of them, those in the picture of heatmaps."""
    seed: int = 1
    """Of the sample."""
    ids: Literal["table", "propagated"] = "table"
    """The behavioural vector ID_i of equation 2: the item's row of the id table, or its vector behind the graph."""
    becam: BeCAMConfig = BeCAMConfig()


@dataclass(frozen=True)
class Explained:
    """A trained recommender with an image tower, as far as attribution looks into it; all of it on one device."""

    recommender: nn.Module
    encoder: PictureEncoder
    ids_Id: Float[Tensor, "I d"]
    """Behavioural vectors."""

    @classmethod
    def of(cls, recommender: nn.Module, encoder: PictureEncoder, ids: Literal["table", "propagated"]) -> "Explained":
        """Raises ConfigError for a model without pictures, or whose vectors are no ids of the content's width."""
        if "image" not in getattr(recommender, "towers", {}):
            raise ConfigError(
                "the model uses no pictures", mend="choose a model with content, and a dataset with images"
            )
        table_Id = recommender.items.detach()
        ids_Id = table_Id if ids == "table" else recommender.user_item_vectors()[1]
        if ids_Id.shape != table_Id.shape:
            raise ConfigError("the model's item vectors are wider than its content", mend="set attribution.ids: table")
        return cls(recommender.eval(), encoder, ids_Id)

    def content(self, vectors_nc: Float[Tensor, "n c"], items_n: Tensor) -> Float[Tensor, "n d"]:
        """Image vectors of `items_n` behind projection and adapter, with the items' own rows of the id table: h_m."""
        tower = self.recommender.towers["image"]
        id_nd = self.recommender.items.detach()[items_n]
        return tower.adapter(tower.project(vectors_nc), id_nd, rng=Generator())

    def score(self, item: int) -> Score:
        """Equation 2's similarity for one item.

        The encoder's vector of a masked picture, as its feature store would have it, takes the place of the item's row
        of the feature table. What training made of that row is left out: it belongs to the item, whatever is masked.
        """

        def to_content(vectors_Bc: Tensor) -> Tensor:
            unit = nn.functional.normalize(vectors_Bc, dim=-1) if self.encoder.normalise else vectors_Bc
            return self.content(unit, torch.full((len(unit),), item, device=unit.device))

        return behaviour(to_content, self.ids_Id[item])

    @torch.no_grad()
    def angles(self, encoded_Ic: Float[Tensor, "I c"]) -> dict[str, float | None]:
        """How far content is from behaviour, over all items with a picture (section 3.3 of arXiv 2406.00323).

        `angle`: the mean of theta in degrees (equation 4); `lambda`: the mean of |1 - cos theta| (equations 6 and 7);
        both of the content of `encoded_Ic`, the encoder's vectors, which are what the heatmaps explain. `angle_trained`
        and `lambda_trained`: of the feature table as training left it; None where training leaves it alone. The ideal
        vector e_i of these equations cannot be observed: the item's behavioural vector stands in for it.
        """
        table_Ic = self.recommender.towers["image"].table
        angle, distance = self._angle(encoded_Ic)
        trained = self._angle(table_Ic.detach()) if isinstance(table_Ic, nn.Parameter) else (None, None)
        return {"angle": angle, "lambda": distance, "angle_trained": trained[0], "lambda_trained": trained[1]}

    def _angle(self, vectors_Ic: Float[Tensor, "I c"]) -> tuple[float, float]:
        """Means of theta in degrees and of |1 - cos theta|."""
        present = self.recommender.towers["image"].present_I.nonzero().squeeze(1)
        content_nd = self.content(vectors_Ic[present], present).double()
        cosine_n = nn.functional.cosine_similarity(content_nd, self.ids_Id[present].double()).clamp(-1, 1)
        return torch.rad2deg(cosine_n.acos()).mean().item(), (1 - cosine_n).abs().mean().item()


def heatmaps(
    cells: Mapping[str, Explained], pixels_3HW: Float[Tensor, "3 H W"], item: int, config: BeCAMConfig
) -> dict[str, dict[str, Heatmap]]:
    """A picture's heatmap by cell and by each of `heatmap.METHODS`; the cells share an encoder.

    The masked pictures go through its tower once, whatever number of cells looks at them: 768 passes in ViT-B/32, twice
    that where `config.masks` is not Score-CAM's.
    """
    model = next(iter(cells.values())).encoder.model
    seen = {
        masks: masked(model, pixels_3HW, masks, config.batch_size)
        for masks in dict.fromkeys((config.masks, SCORE_CAM.masks))
    }
    found = {}
    for cell, explained in cells.items():
        score = explained.score(item)
        found[cell] = {
            "becam": becam(seen[config.masks], score, config),
            "becam_baseline": becam(seen[config.masks], score, config, baseline=True),
            "score_cam": becam(seen[SCORE_CAM.masks], score, SCORE_CAM),
            "grad_cam": grad_cam(model, pixels_3HW, score),
        }
    return found
