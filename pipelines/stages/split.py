"""Stage `split@<dataset>`: train, valid and test."""

from befa import config, splits, tables
from befa.datasets import DatasetConfig
from befa.paths import Layout


def run(dataset: str, layout: Layout) -> None:
    """Writes the split of a dataset's interactions."""
    params = config.read_params(layout.params)
    cfg = config.load(params, f"datasets.{dataset}", DatasetConfig).split
    filtered = layout.filtered(dataset)
    interactions = tables.read_table(filtered / "interactions.parquet")
    ids = (tables.read_table(filtered / f"{name}s.parquet", [name])[name] for name in ("user", "item"))
    splits.write(layout.split(dataset), splits.split(interactions, cfg), *ids)
