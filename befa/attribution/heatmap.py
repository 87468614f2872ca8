"""A heatmap, what makes one, and whether there is more in it than rounding."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

METHODS = {
    "becam": "BeCAM",
    "becam_baseline": "BeCAM less baseline",
    "score_cam": "Score-CAM",
    "grad_cam": "Grad-CAM",
}
"""The heatmaps that are compared, and their names for a reader.

Equation 2 has no baseline, and Score-CAM, its model, has one. What is found may turn on it: BeCAM is there without and
with."""

RESOLUTION = 1e-6
"""Of a score, which is a cosine: no smaller change of one says anything. In float32 a score is off by up to 2e-7 (from
float64, 64 pictures of the demo in each of 8 cells); this is five times as much, and 8 times float32's epsilon."""


@dataclass(frozen=True)
class Heatmap:
    """What one method finds in one picture, on the CPU."""

    heat_hw: Float[Tensor, "h w"]
    """Weighed sum of the channels' maps; not normalised."""
    weights_K: Float[Tensor, " K"]
    """What weighs each channel."""
    floor: float
    """The most heat that a change of `RESOLUTION` in the scores could make: below it, heat is no finding."""

    @property
    def with_heat(self) -> bool:
        """Whether the hottest place is above `floor`."""
        return self.heat_hw.max().item() > self.floor

    @property
    def weights_spread(self) -> float:
        """Standard deviation of the weights over the mean of their sizes: 0 where all channels weigh alike.

        Then the heatmap is the plain sum of the maps: it shows where the tower is active, and nothing of the score.
        """
        size = self.weights_K.double().abs().mean().item()
        return self.weights_K.double().std(correction=0).item() / size if size else 0.0

    @property
    def negative_weights(self) -> float:
        """Share of the channels whose weight is negative, in [0, 1].

        Where most are, the sum of equation 2 is turned round: heat lies where channels are low.
        """
        return (self.weights_K < 0).double().mean().item()
