"""Where datasets come from, by the `kind` of their configuration."""

from befa.sources import catalogue, demo, hm, microlens, tmall

SOURCES = {"demo": demo, "hm": hm, "microlens": microlens, "tmall": tmall, "catalogue": catalogue}
