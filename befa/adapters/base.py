"""What every adapter offers."""

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor

FeatureUse = Literal["given", "random", "shuffled", "unused", "fixed"]
"""The features behind an adapter's content: `given` by the encoder; `random` or `shuffled`, as befa.controls makes
them of the given ones; `unused`: the given ones, but the adapter does not look at its content; `fixed`: the given
ones, which training leaves as they are."""


@runtime_checkable
class Adapter(Protocol):
    """A module between a recommender's projection of content and its use of it; one per modality.

    Constructed as `Adapter(config, width, rng=...)`, `config` an instance of its `Config`, `width` the d of the host.
    """

    Config: ClassVar[Any]
    features: ClassVar[FeatureUse]

    def __call__(
        self, x_nd: Float[Tensor, "n d"], id_nd: Float[Tensor, "n d"], *, rng: Generator
    ) -> Float[Tensor, "n d"]:
        """Adapts projected content `x_nd` of n items, given the same items' rows of the host's id table.

        The ids are not detached. Dropout, in training only, draws from `rng`.
        """
        ...
