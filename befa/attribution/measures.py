"""How well a heatmap meets the object that it should meet: information drift and omission as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from befa.attribution.activations import upsampled
from befa.attribution.heatmap import Heatmap
from befa.errors import DataError

MEASURES = ("pointing", "energy", "coverage", "chance", "drift", "omission")
"""Of `Agreement`, as scores.json has them."""
COMPARED = ("pointing", "energy", "coverage")
"""Of them, those whose differences are told; those of drift and omission are the same with the other sign."""
RESAMPLES = 2000
"""Of the bootstrap."""
CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Agreement:
    """Of one heatmap with one object; the paper judges both by eye (arXiv 2406.00323, section 3.1)."""

    pointing: float
    """1 when the hottest place lies on the object, else 0 (the pointing game, arXiv 1608.00507); of several places that
    are equally hot, the share that does."""
    energy: float
    """Share of the heat that lies on the object, in [0, 1]; what lies beside it is drift."""
    coverage: float
    """Share of the object among the hottest places, as many of them as the object has, in [0, 1]; what is not among
    them is omission."""
    chance: float
    """The object's share of the picture: what energy and coverage of an even or random heatmap are."""

    @property
    def drift(self) -> float:
        """Share of the heat beside the object."""
        return 1 - self.energy

    @property
    def omission(self) -> float:
        """Share of the object that is not among the hottest places."""
        return 1 - self.coverage


def agreement(heat_hw: Float[Tensor, "h w"], object_HW: Bool[Tensor, "H W"]) -> Agreement:
    """`heat_hw`, which is nowhere negative, is brought to the mask's size bilinearly.

    Places of equal heat share alike in coverage. Raises DataError for a heatmap that is 0 everywhere, and for a mask
    that is not `telling`.
    """
    if not telling(object_HW):
        raise DataError("the mask has no object, or nothing beside it", mend="leave the item out")
    heat_HW = upsampled(heat_hw[None].double(), tuple(object_HW.shape))[0].clamp(min=0)
    chance = object_HW.double().mean().item()
    if not heat_HW.any():
        raise DataError("the heatmap is 0 everywhere, it agrees with nothing", mend="leave the item out")
    hottest = heat_HW == heat_HW.max()
    n = int(object_HW.sum())
    least = heat_HW.flatten().topk(n).values[-1]
    surely, maybe = heat_HW > least, heat_HW == least
    share = (n - int(surely.sum())) / int(maybe.sum())
    covered = (surely & object_HW).sum() + share * (maybe & object_HW).sum()
    return Agreement(
        pointing=(hottest & object_HW).sum().item() / hottest.sum().item(),
        energy=((heat_HW * object_HW).sum() / heat_HW.sum()).item(),
        coverage=covered.item() / n,
        chance=chance,
    )


def telling(object_HW: Bool[Tensor, "H W"]) -> bool:
    """Whether a mask has an object and something beside it. Cropping may take either away."""
    return bool(object_HW.any() and not object_HW.all())


def measured(found: Sequence[Heatmap], objects: Sequence[Bool[Tensor, "H W"] | None]) -> dict[str, int | float | None]:
    """One method's numbers over the pictures of one cell, whose objects are known or not (None).

    `items`: pictures; `without_heat`: those whose heatmap is within rounding (`Heatmap.floor`); `peak`: median of the
    hottest places of all; `weights_spread`: mean of `Heatmap.weights_spread` over those with heat; `negative_weights`:
    mean of `Heatmap.negative_weights` over all, as negative weights may be why there is no heat; `measured`: pictures
    with heat and a known object, in a mask that is `telling`, over which `Agreement`'s measures are means. None is the
    mean of nothing.
    """
    with_heat = [heatmap for heatmap in found if heatmap.with_heat]
    met = [one for one in _agreements(found, objects) if one is not None]
    return {
        "items": len(found),
        "without_heat": len(found) - len(with_heat),
        "peak": median(heatmap.heat_hw.max().item() for heatmap in found),
        "weights_spread": _mean([heatmap.weights_spread for heatmap in with_heat]),
        "negative_weights": _mean([heatmap.negative_weights for heatmap in found]),
        "measured": len(met),
        **{name: _mean([getattr(one, name) for one in met]) for name in MEASURES},
    }


def differences(
    before: Sequence[Heatmap],
    after: Sequence[Heatmap],
    objects: Sequence[Bool[Tensor, "H W"] | None],
    *,
    rng: np.random.Generator,
) -> dict[str, int | dict[str, float | None]]:
    """How one method's measures change from `before` to `after`, over the same pictures on both sides.

    `pictures`: those with heat on both sides and a known object, in a mask that is `telling`. Of each of `COMPARED`,
    `mean`: of after less before; `low` and `high`: the ends of its 95 % interval, by a percentile bootstrap over the
    pictures. None is the mean of nothing, and the interval of fewer than two pictures.
    """
    pairs = zip(_agreements(before, objects), _agreements(after, objects), strict=True)
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    change_mn = np.array([[getattr(b, name) - getattr(a, name) for a, b in both] for name in COMPARED])
    low_m = high_m = [None] * len(COMPARED)
    if len(both) > 1:
        drawn = stats.bootstrap(
            (change_mn,),
            np.mean,
            axis=1,
            n_resamples=RESAMPLES,
            method="percentile",
            confidence_level=CONFIDENCE,
            rng=rng,
        ).confidence_interval
        low_m, high_m = drawn.low.tolist(), drawn.high.tolist()
    ends = zip(COMPARED, change_mn, low_m, high_m, strict=True)
    return {
        "pictures": len(both),
        **{name: {"mean": _mean(of_n.tolist()), "low": low, "high": high} for name, of_n, low, high in ends},
    }


def _agreements(found: Sequence[Heatmap], objects: Sequence[Bool[Tensor, "H W"] | None]) -> list[Agreement | None]:
    """Of each picture; None where there is no heat, or no known object in a mask that is `telling`."""
    return [
        agreement(heatmap.heat_hw, known) if heatmap.with_heat and known is not None and telling(known) else None
        for heatmap, known in zip(found, objects, strict=True)
    ]


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
