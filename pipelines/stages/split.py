"""Stage `split@<dataset>`: train, valid and test."""

from befa import config, splits, tables
from befa.datasets import DatasetConfig
from befa.paths import Layout


def run(dataset: str, layout: Layout) -> None:
    """Writes the split of a dataset's interactions."""
    params = config.read_params(layout.params)
    cfg = config.load(params, f"datasets.{dataset}", DatasetConfig).split
    interactions = tables.read_table(layout.interactions(dataset))
    users = tables.read_table(layout.users(dataset), ["user"])["user"]
    items = tables.read_table(layout.items(dataset), ["item"])["item"]
    splits.write(layout.split(dataset), splits.split(interactions, cfg), users, items)
