"""Encoders of pictures and texts, by the `kind` of their configuration."""

from befa.encoders.open_clip import OpenClipEncoder

ENCODERS = {"open_clip": OpenClipEncoder}
