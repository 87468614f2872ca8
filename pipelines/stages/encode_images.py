"""Stage `encode_images@<dataset>-<encoder>`: image features, encoding only what is new or changed."""

from befa.paths import Layout
from pipelines.encoding import picture_table
from pipelines.features import encode


def run(dataset: str, encoder: str, layout: Layout, device: str | None = None) -> None:
    """Brings the store of a dataset's image vectors up to date; `device`: in place of params.yaml's encode.device."""
    items, files = picture_table(layout, dataset)
    encode(dataset, encoder, "image", items, files, layout, device)
