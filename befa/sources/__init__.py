"""Where datasets come from, by the `kind` of their configuration."""

from befa.sources import demo, hm

SOURCES = {"demo": demo, "hm": hm}
