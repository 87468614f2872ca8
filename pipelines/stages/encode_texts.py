"""Stage `encode_texts@<dataset>-<encoder>`: text features, encoding only what is new or changed."""

from befa.paths import Layout
from pipelines.encoding import item_table
from pipelines.features import encode


def run(dataset: str, encoder: str, layout: Layout, device: str | None = None) -> None:
    """Brings the store of a dataset's text vectors up to date; `device`: in place of params.yaml's encode.device."""
    encode(dataset, encoder, "text", item_table(layout, dataset), None, layout, device)
