"""How well a heatmap meets the object that it should meet: information drift and omission as numbers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from befa.attribution.activations import upsampled
from befa.errors import DataError


@dataclass(frozen=True)
class Agreement:
    """Of one heatmap with one object; the paper judges both by eye (arXiv 2406.00323, section 3.1)."""

    pointing: float
    """1 when the hottest place lies on the object, else 0 (the pointing game, arXiv 1608.00507)."""
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

    A heatmap without any heat points nowhere (0) and is taken for even. Places of equal heat share alike in coverage.
    Raises DataError for a mask without an object or with nothing else.
    """
    if object_HW.all() or not object_HW.any():
        raise DataError("the mask has no object, or nothing beside it", mend="leave the item out")
    heat_HW = upsampled(heat_hw[None].double(), tuple(object_HW.shape))[0].clamp(min=0)
    chance = object_HW.double().mean().item()
    if not heat_HW.any():
        return Agreement(0.0, chance, chance, chance)
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


def mean(found: list[Agreement]) -> dict[str, int | float]:
    """The means over items, by the measures' names; and `items`."""
    names = ("pointing", "energy", "coverage", "chance", "drift", "omission")
    values = {name: torch.tensor([getattr(one, name) for one in found], dtype=torch.float64) for name in names}
    return {"items": len(found)} | {name: value.mean().item() for name, value in values.items()}
