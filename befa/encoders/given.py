"""No encoder: for catalogues whose features were all made elsewhere (docs/your-own-catalogue.md)."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NoReturn

import torch
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image
from torch import Tensor

from befa.config import configuration
from befa.errors import EncoderError
from befa.needs import Need
from befa.progress import Progress


@configuration
class GivenConfig:
    """The `encoders` block of this kind."""

    kind: Literal["given"]
    batch_size: ClassVar[int] = 1
    """There are no batches."""


class GivenEncoder:
    """Encodes nothing: its stores say of every item that it has no picture and no text."""

    Config = GivenConfig
    modalities: Sequence[str] = ()
    preprocessing = text_preprocessing = ""
    dimension = 1
    normalise = False
    precision = "fp32"
    text_lengths: Sequence[int] = ()

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.identity = {"encoder": "given"}

    @classmethod
    def need(cls, folder: Path, config: GivenConfig) -> Need:
        """None."""
        return Need("none, the dataset brings its vectors", True)

    @classmethod
    def load(
        cls, folder: Path, config: GivenConfig, device: torch.device | str = "cpu", *, progress: Progress | None = None
    ) -> "GivenEncoder":
        """Loads nothing."""
        return cls(device)

    def pixels(self, picture: Image.Image) -> UInt8[Tensor, "3 H W"]:
        """Raises EncoderError."""
        _nothing()

    def encode_images(self, pixels_B3HW: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Raises EncoderError."""
        _nothing()

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"], Tensor]:
        """Raises EncoderError."""
        _nothing()

    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Raises EncoderError."""
        _nothing()


def _nothing() -> NoReturn:
    raise EncoderError(
        "the encoder kind given encodes nothing: it is for features that were made elsewhere",
        mend="name an encoder of pictures and texts, such as clip_small",
    )
