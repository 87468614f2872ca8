"""What the feature store needs of an encoder, and how one is loaded where it is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image
from torch import Tensor

from befa.downloads import ANOTHER, variable_of
from befa.errors import BefaError, EncoderError
from befa.needs import Need
from befa.progress import Progress


@runtime_checkable
class Encoder(Protocol):
    """A frozen network with an image tower, a text tower, or both; see open_clip."""

    modalities: Sequence[str]
    """Which of image and text it encodes."""
    identity: Mapping[str, str]
    preprocessing: str
    """What is done to a picture before the tower sees it."""
    text_preprocessing: str
    dimension: int
    normalise: bool
    precision: str
    device: torch.device
    text_lengths: Sequence[int]
    """Numbers of tokens at which a text may be cut, ascending."""

    def pixels(self, picture: Image.Image) -> UInt8[Tensor, "3 H W"]:
        """A picture at the tower's size."""
        ...

    def encode_images(self, pixels_B3HW: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Image vectors, on the CPU."""
        ...

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"], Tensor]:
        """Token ids, numbers of tokens, and which texts were cut."""
        ...

    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Text vectors, on the CPU."""
        ...


@runtime_checkable
class PictureEncoder(Encoder, Protocol):
    """An encoder whose image tower attribution looks into; see open_clip."""

    model: Any
    """open_clip's model, for activations and gradients (befa/attribution/activations.py)."""

    def preprocess(self, picture: Image.Image) -> Float[Tensor, "3 H W"]:
        """A picture as the tower takes it: of its size, and normalised."""
        ...


@runtime_checkable
class EncoderKind(Protocol):
    """A class of befa.encoders.ENCODERS: how encoders of one kind are had."""

    Config: Any
    """Type of its block of `encoders`; it has `batch_size`, how many pictures or texts go through a tower at once."""
    modalities: Sequence[str]
    """Which of image and text its encoders encode."""

    def load(self, folder: Path, config: Any, device: torch.device | str, *, progress: Progress | None) -> Encoder:
        """The encoder of `config`; what is downloaded for it lies in `folder`."""
        ...

    def need(self, folder: Path, config: Any) -> Need:
        """Whether its weights are there, or where they would come from; nothing is asked over the network."""
        ...


def not_fetched(error: BefaError, name: str, also: str = "") -> EncoderError:
    """The error of weights that cannot be downloaded: as the download says, with the ways there are for weights.

    `name`: whose mirror it is; `also`: a further mend.
    """
    mend = error.mend or f"run again, it goes on where it stopped; or {ANOTHER}"
    mirror = f"name another mirror in params.yaml or in the environment variable {variable_of(name)}"
    mend = mend.replace(ANOTHER, f"{mirror}; or set weights to the path of a copy")
    return EncoderError(error.what, where=error.where, mend=mend + also)


@dataclass(frozen=True)
class Loading:
    """How an encoder is loaded, on any device and in any process: unlike a bound method, this can be pickled."""

    kind: type
    """Of befa.encoders.ENCODERS."""
    folder: Path
    config: Any
    """Of `kind`."""

    def __call__(self, device: str, progress: Progress | None = None) -> Encoder:
        """The encoder, ready for use; `progress` is told of a download of its weights.

        From here on, fp32 means it: on a GPU, convolutions else round to 10 bits, and products too where the
        environment says so (NVIDIA's containers do). And convolutions add up in one order each time.
        """
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        return self.kind.load(self.folder, self.config, device, progress=progress)
