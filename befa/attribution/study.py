"""A sample of pictures seen by several cells: every heatmap, and what all of them say as numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from befa.attribution.explaining import AttributionConfig, Explained, heatmaps
from befa.attribution.heatmap import METHODS, Heatmap
from befa.attribution.measures import differences, measured
from befa.encoders.base import PictureEncoder
from befa.progress import Progress
from befa.rng import numpy_stream

Heatmaps = Mapping[tuple[str, str], Sequence[Heatmap]]
"""By (adapter, method), those of the sample's pictures in its order."""


@dataclass(frozen=True)
class Pictured:
    """An item of the sample."""

    item: int
    """Dense id."""
    pixels_3HW: Float[Tensor, "3 H W"]
    """Its picture, prepared for the tower."""
    seen: Image.Image
    """As the tower sees it."""
    object_HW: Bool[np.ndarray, "H W"] | None
    """Where the object is, cut as the picture is; None where that is not known."""


def sample(
    n_items: int,
    picture_of: Callable[[int], Image.Image | None],
    mask_of: Callable[[int], Image.Image | None],
    encoder: PictureEncoder,
    config: AttributionConfig,
) -> list[Pictured]:
    """`config.items` items at random (all, where there are fewer) of those for which `picture_of` has a picture.

    `mask_of` gives an item's mask, white on the object and of its picture's form, where it is known.
    """
    found: list[Pictured] = []
    for item in numpy_stream(config.seed, "attribution").permutation(n_items).tolist():
        if len(found) == config.items:
            break
        picture = picture_of(item)
        if picture is None:
            continue
        mask = mask_of(item)
        known = None if mask is None else encoder.pixels(mask)[0].numpy() > 127
        seen = Image.fromarray(encoder.pixels(picture).permute(1, 2, 0).numpy())
        found.append(Pictured(item, encoder.preprocess(picture), seen, known))
    return found


def heatmaps_of(
    cells: Mapping[str, Explained], sampled: Sequence[Pictured], config: AttributionConfig, report: Progress
) -> Heatmaps:
    """All heatmaps of the cells, which are named by their adapters and share an encoder."""
    pictured: list[dict[str, dict[str, Heatmap]]] = []
    for one in sampled:
        pixels_3HW = one.pixels_3HW.to(next(iter(cells.values())).ids_Id.device)
        pictured.append(heatmaps(cells, pixels_3HW, one.item, config.becam))
        report(len(pictured), len(sampled))
    return {(cell, method): [by[cell][method] for by in pictured] for cell in cells for method in METHODS}


def scores(
    found: Heatmaps, sampled: Sequence[Pictured], behaviour: Mapping[str, Mapping[str, float | None]], seed: int
) -> dict[str, Any]:
    """Of each cell `behaviour` (its angles) and each method's `measured`; and `difference`, of the last less the first.

    `seed`: of the bootstrap. With a single cell there is no difference.
    """
    objects = [None if one.object_HW is None else torch.from_numpy(one.object_HW) for one in sampled]
    result: dict[str, Any] = {"items": len(sampled), "with_object": sum(one is not None for one in objects)}
    for cell, angles in behaviour.items():
        result[cell] = {"behaviour": angles, **{name: measured(found[cell, name], objects) for name in METHODS}}
    cells = list(behaviour)
    if len(cells) > 1:
        result["difference"] = {}
        for name in METHODS:
            rng = numpy_stream(seed, "bootstrap", name)
            change = differences(found[cells[0], name], found[cells[-1], name], objects, rng=rng)
            result["difference"][name] = change
    return result


def rows(found: Heatmaps, sampled: Sequence[Pictured], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Every heatmap as a row: raw id (`ids` by dense id), adapter, method, floor, heat row by row."""
    return [
        {
            "item": ids[one.item],
            "adapter": cell,
            "method": method,
            "floor": heatmap.floor,
            "heat": heatmap.heat_hw.flatten().tolist(),
        }
        for (cell, method), of in found.items()
        for one, heatmap in zip(sampled, of, strict=True)
    ]
