"""The maps that heatmaps are made of: what an image tower computes at its target layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from befa.errors import EncoderError


def maps(model: nn.Module, pixels_B3HW: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B K h w"], Tensor]:
    """The target layer's channels as maps, and the pictures' vectors, of one pass through the tower.

    Target layers as BeFA's paper has them (arXiv 2406.00323, section 3.1): of a ResNet the last ReLU of the final
    bottleneck; of a vision transformer the second-to-last block, without its class token, because of the last one only
    the class token reaches the vector. Raises EncoderError for a tower that is neither, or has one block only.
    """
    found, vectors_Bc = activations(model, pixels_B3HW)
    return as_maps(model, found, len(pixels_B3HW)), vectors_Bc


def activations(model: nn.Module, pixels_B3HW: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
    """The target layer's output as the tower itself uses it, so that gradients of the vectors reach it; the vectors."""
    kept = []
    handle = _layer(model.visual).register_forward_hook(lambda module, given, found: kept.append(found))
    try:
        vectors_Bc = model.encode_image(pixels_B3HW).float()
    finally:
        handle.remove()
    return kept[0], vectors_Bc


def _layer(visual: nn.Module) -> nn.Module:
    if hasattr(visual, "layer4"):
        return visual.layer4
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not hasattr(visual, "grid_size"):
        raise EncoderError(
            f"the image tower {type(visual).__name__} is neither a ResNet nor a vision transformer of open_clip's",
            mend="choose an encoder whose tower is one (RN50, ViT-B-32, ...)",
        )
    if len(blocks) < 2:
        raise EncoderError("the image tower has one block, so none before its last", mend="give it two layers")
    return blocks[-2]


def as_maps(model: nn.Module, found: Tensor, pictures: int) -> Float[Tensor, "B K h w"]:
    """A target layer's output, or gradient, as one map a channel."""
    if found.ndim == 4:
        return found
    height, width = model.visual.grid_size
    tokens_BNK = found if found.shape[0] == pictures and found.shape[1] == height * width + 1 else found.transpose(0, 1)
    return tokens_BNK[:, 1:].transpose(1, 2).unflatten(2, (height, width))


def upsampled(maps_Khw: Float[Tensor, "K h w"], size: tuple[int, int]) -> Float[Tensor, "K H W"]:
    """Maps at a picture's size, bilinearly."""
    return torch.nn.functional.interpolate(maps_Khw[None], size=size, mode="bilinear", align_corners=False)[0]
