"""Heatmaps of what in a picture speaks for a score: BeCAM (arXiv 2406.00323, section 3.1), Score-CAM and Grad-CAM."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from befa.attribution.activations import activations, as_maps, maps, upsampled
from befa.attribution.heatmap import RESOLUTION, Heatmap
from befa.config import configuration

Score = Callable[[Float[Tensor, "B c"]], Float[Tensor, " B"]]
"""From image vectors to the score that is to be explained: for BeCAM, the cosine of the adapted content with the
item's behavioural vector (`behaviour`)."""


@configuration
class BeCAMConfig:
    """What equation 2 leaves open; defaults: Score-CAM's choices where it needs one, the equation's elsewhere."""

    masks: Literal["unit", "raw"] = "unit"
    """unit: a channel's map is scaled to [0, 1] before it masks the picture (Score-CAM). raw: as equation 2 has it."""
    weights: Literal["cosine", "relu", "softmax"] = "cosine"
    """What weighs a channel: its score, negative ones too (equation 2), the positive part, or the softmax over all."""
    rectify: bool = True
    """Negative places of the sum count as 0."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Masked pictures of one pass. A picture needs as many passes as the layer has channels: 768 in ViT-B/32."""


SCORE_CAM = BeCAMConfig(masks="unit", weights="softmax", rectify=True)
"""Score-CAM (arXiv 1910.01279) of the same score. It subtracts a baseline as well, which the softmax cancels."""


def behaviour(to_content: Callable[[Float[Tensor, "B c"]], Float[Tensor, "B d"]], id_d: Float[Tensor, " d"]) -> Score:
    """The score of BeCAM: similarity (equation 1) of the content that `to_content` makes of vectors with `id_d`.

    The paper leaves open how the vector of a masked picture comes into the space of the id. Chosen here: `to_content`
    is the host's projection, and behind it the adapter with the item's own id, as the paper says of its figures ("we
    processed the content features with our adapter"); without it they show the host before BeFA. Mind that BeFA's
    content is the id times a gate in (0, 1): its cosine with the id is high whatever the picture shows, so that behind
    BeFA all channels weigh nearly alike, and the heatmap is the plain sum of the maps (`Heatmap.weights_spread` tells).
    `grad_cam` looks at differences alone, and `becam` with `baseline` takes them.
    """
    return lambda vectors_Bc: nn.functional.cosine_similarity(to_content(vectors_Bc), id_d[None])


@dataclass(frozen=True)
class Masked:
    """A picture through each channel's map alone, as the tower sees it: all that BeCAM needs, whatever the score."""

    maps_Khw: Float[Tensor, "K h w"]
    """Of the whole picture (`activations.maps`)."""
    vectors_Kc: Float[Tensor, "K c"]
    """Of the picture times each map."""
    empty_1c: Float[Tensor, "1 c"]
    """Of the picture without content: every pixel at the encoder's mean."""


@torch.no_grad()
def masked(
    model: nn.Module, pixels_3HW: Float[Tensor, "3 H W"], masks: Literal["unit", "raw"], batch_size: int
) -> Masked:
    """The passes through the tower, one a channel, `batch_size` at a time; `masks`: see BeCAMConfig.

    `model` is an open_clip model, on the device of the pixels.
    """
    maps_Khw = maps(model, pixels_3HW[None])[0][0].float()
    vectors_Kc = through_maps(model, pixels_3HW, maps_Khw, masks, batch_size)
    return Masked(maps_Khw, vectors_Kc, model.encode_image(torch.zeros_like(pixels_3HW[None])).float())


@torch.no_grad()
def through_maps(
    model: nn.Module,
    pixels_3HW: Float[Tensor, "3 H W"],
    maps_Khw: Float[Tensor, "K h w"],
    masks: Literal["unit", "raw"],
    batch_size: int,
) -> Float[Tensor, "K c"]:
    """The vectors of a picture times each of the maps; arguments: see `masked`."""
    vectors = []
    for part_khw in maps_Khw.split(batch_size):
        masks_kHW = upsampled(_unit(part_khw) if masks == "unit" else part_khw, pixels_3HW.shape[1:])
        vectors.append(model.encode_image(pixels_3HW * masks_kHW[:, None]).float())
    return torch.cat(vectors)


@torch.no_grad()
def becam(seen: Masked, score: Score, config: BeCAMConfig, *, baseline: bool = False) -> Heatmap:
    """M = sum_k w_k A_k, w_k the score of the picture seen through the k-th map alone (equation 2); not normalised.

    `seen` are the passes that `config` asks for. `baseline`: less the score of the picture without content, which
    Score-CAM has and equation 2 has not. The heatmap has the maps' resolution: 7 x 7 in ViT-B/32 and RN50. Its floor is
    the heat of weights that are each off by the scores' `RESOLUTION`, all in the direction of their maps: sum_k |A_k|
    times it, the maps weighed under `softmax`. Departs from the equation where `config` says so. The paper also
    speaks of the "cosine similarity of each pixel to the behavioral features", which is something else: the equation is
    followed.
    """
    maps_Khw, weights_K = seen.maps_Khw, score(seen.vectors_Kc)
    if baseline:
        weights_K = weights_K - score(seen.empty_1c)
    if config.weights == "relu":
        weights_K = weights_K.relu()
    elif config.weights == "softmax":
        weights_K = weights_K.softmax(0)
    heat_hw = (weights_K[:, None, None] * maps_Khw).sum(0)
    # How much a weight changes with its score: under softmax, about as much as the weight itself is.
    slope_K = weights_K if config.weights == "softmax" else torch.ones_like(weights_K)
    floor = RESOLUTION * (slope_K[:, None, None] * maps_Khw.abs()).sum(0).max().item()
    return Heatmap((heat_hw.relu() if config.rectify else heat_hw).cpu(), weights_K.cpu(), floor)


def grad_cam(model: nn.Module, pixels_3HW: Float[Tensor, "3 H W"], score: Score) -> Heatmap:
    """Grad-CAM (arXiv 1610.02391, eq. 1-2): ReLU of the maps weighed by their mean gradients of the score.

    Heat is a change of the score, to first order, so its floor is the score's `RESOLUTION`. Gradients have no such
    resolution of their own: behind a gate that is all but closed they are tiny, and may still be exact.
    """
    with torch.enable_grad():
        # The tower's parameters are frozen: without it, nothing would remember how the maps came about.
        found, vectors_Bc = activations(model, pixels_3HW[None].clone().requires_grad_())
        [gradient] = torch.autograd.grad(score(vectors_Bc).sum(), found)
    maps_Khw, gradient_Khw = (as_maps(model, x.detach(), 1)[0] for x in (found, gradient))
    weights_K = gradient_Khw.mean((1, 2))
    return Heatmap((weights_K[:, None, None] * maps_Khw).sum(0).relu().cpu(), weights_K.cpu(), RESOLUTION)


def _unit(maps_Khw: Float[Tensor, "K h w"]) -> Float[Tensor, "K h w"]:
    """Each map to [0, 1]; one that is the same everywhere lets nothing through."""
    low_K11, high_K11 = maps_Khw.amin((1, 2), keepdim=True), maps_Khw.amax((1, 2), keepdim=True)
    return (maps_Khw - low_K11) / (high_K11 - low_K11).clamp(min=torch.finfo(maps_Khw.dtype).tiny)
