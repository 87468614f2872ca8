"""Encoders of pictures and texts, by the `kind` of their configuration."""

from befa.encoders.base import EncoderKind
from befa.encoders.given import GivenEncoder
from befa.encoders.imagebind import ImageBindEncoder
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoders.sbert import SbertEncoder

ENCODERS: dict[str, EncoderKind] = {
    "open_clip": OpenClipEncoder,
    "imagebind": ImageBindEncoder,
    "sbert": SbertEncoder,
    "given": GivenEncoder,
}
