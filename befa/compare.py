"""How far two encoders agree on a sample: vector by vector and, since they may be mere rotations, by likeness."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from befa.encoders.base import Encoder
from befa.errors import EncoderError
from befa.feature_store import has_direction
from befa.neighbours import nearest_others, shared

NEIGHBOURS = 10
BATCH = 16


def compare(
    first: Encoder, second: Encoder, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """What the two encoders make of the same pictures and texts: "image" and "text", each None if one cannot do it.

    - `sample`: how many were compared.
    - `dimensions` (of the first and the second) and `same_dimension`.
    - `largest_difference`: largest absolute difference of two numbers; `mean_cosine` and `least_cosine` of an item's
      two vectors, in [-1, 1]. None where the dimensions differ.
    - `similarity_correlation`: Pearson's, over all pairs of items, between their cosines in the first and in the
      second, in [-1, 1]; a rotation leaves it at 1. None with fewer than three items or where all cosines are equal.
    - `neighbour_overlap_at_10`: mean share of an item's ten nearest others that both agree on, in [0, 1]. None with
      fewer than twelve items, where ten others are all of them.

    Plain numbers for JSON, the same at every call. Memory grows with the square of the sample. Raises EncoderError
    when an encoder gives a vector that is zero or not finite.
    """

    def both(modality: str, sample: Sequence[Any], vectors: Callable[..., Tensor]) -> dict[str, Any] | None:
        if not sample or any(modality not in encoder.modalities for encoder in (first, second)):
            return None
        x_Ic = _checked(_batched(first, sample, vectors), f"the first encoder's {modality} tower")
        y_Ie = _checked(_batched(second, sample, vectors), f"the second encoder's {modality} tower")
        return _agreement(x_Ic, y_Ie)

    return {"image": both("image", pictures, _image_vectors), "text": both("text", texts, _text_vectors)}


def _image_vectors(encoder: Encoder, pictures: Sequence[Image.Image]) -> Float[Tensor, "B c"]:
    return encoder.encode_images(torch.stack([encoder.pixels(picture) for picture in pictures]))


def _text_vectors(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "B c"]:
    return encoder.encode_texts(encoder.tokenize(texts)[0])


def _batched(encoder: Encoder, sample: Sequence[Any], vectors: Callable[..., Tensor]) -> Float[np.ndarray, "I c"]:
    """In double precision, so that what is measured is the encoders and not the measure."""
    batches = [vectors(encoder, sample[start : start + BATCH]) for start in range(0, len(sample), BATCH)]
    return torch.cat(batches).double().numpy()


def _checked(x_Ic: Float[np.ndarray, "I c"], where: str) -> Float[np.ndarray, "I c"]:
    broken_I = ~has_direction(x_Ic)
    if broken_I.any():
        raise EncoderError(
            f"{broken_I.sum()} of {len(x_Ic)} vectors of the sample are zero or not finite",
            where=where,
            mend="train the encoder again, or name other weights",
        )
    return x_Ic


def _agreement(x_Ic: Float[np.ndarray, "I c"], y_Ie: Float[np.ndarray, "I e"]) -> dict[str, Any]:
    unit_x_Ic, unit_y_Ie = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x_Ic, y_Ie))
    same = x_Ic.shape[1] == y_Ie.shape[1]
    cosine_I = (unit_x_Ic * unit_y_Ie).sum(1).clip(-1, 1) if same else None
    sims_x_II, sims_y_II = unit_x_Ic @ unit_x_Ic.T, unit_y_Ie @ unit_y_Ie.T
    return {
        "sample": len(x_Ic),
        "dimensions": [x_Ic.shape[1], y_Ie.shape[1]],
        "same_dimension": same,
        "largest_difference": float(np.abs(x_Ic - y_Ie).max()) if same else None,
        "mean_cosine": None if cosine_I is None else float(cosine_I.mean()),
        "least_cosine": None if cosine_I is None else float(cosine_I.min()),
        "similarity_correlation": _correlation(sims_x_II, sims_y_II),
        "neighbour_overlap_at_10": _overlap(x_Ic, y_Ie),
    }


def _correlation(sims_x_II: Float[np.ndarray, "I I"], sims_y_II: Float[np.ndarray, "I I"]) -> float | None:
    """Over each pair once; an item's likeness with itself is always 1 and would flatter the result."""
    pairs = np.triu_indices(len(sims_x_II), 1)
    a, b = (sims[pairs] - sims[pairs].mean() for sims in (sims_x_II, sims_y_II)) if len(pairs[0]) > 1 else (None, None)
    # What is left of equal cosines after rounding is no variation.
    if a is None or b is None or min(np.abs(a).max(), np.abs(b).max()) < 1e-12:
        return None
    return float((a @ b / np.sqrt((a @ a) * (b @ b))).clip(-1, 1))


def _overlap(x_Ic: Float[np.ndarray, "I c"], y_Ie: Float[np.ndarray, "I e"]) -> float | None:
    if len(x_Ic) < NEIGHBOURS + 2:
        return None
    return shared(*(nearest_others(torch.from_numpy(v), NEIGHBOURS) for v in (x_Ic, y_Ie)))
