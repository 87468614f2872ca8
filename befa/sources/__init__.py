"""Where datasets come from, by the `kind` of their configuration."""

from befa.sources import catalogue, demo, hm, microlens, tmall
from befa.sources.base import Source

SOURCES: dict[str, Source] = {"demo": demo, "hm": hm, "microlens": microlens, "tmall": tmall, "catalogue": catalogue}
