"""Stage `download@<dataset>`: the raw files, fetched or generated."""

from befa import config
from befa.errors import lookup
from befa.paths import Layout
from befa.sources import SOURCES
from befa.sources.base import DatasetConfig


def run(dataset: str, layout: Layout) -> None:
    """Puts the raw files of a dataset into data/raw."""
    params = config.read_params(layout.params)
    lookup(config.block(params, "datasets"), dataset, "dataset")
    kind = config.load(params, f"datasets.{dataset}", DatasetConfig).kind
    source = lookup(SOURCES, kind, "kind of dataset")
    source.fetch(config.load(params, f"datasets.{dataset}.source", source.Config), layout.raw(dataset))
