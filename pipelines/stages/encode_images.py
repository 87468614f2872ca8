"""Stage `encode_images@<dataset>-<encoder>`: image features, encoding only what is new or changed."""

import logging

import pyarrow as pa

from befa import coverage, features, tables
from befa.paths import Layout
from pipelines.encoding import loaded, one_thread, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Brings the store of a dataset's image vectors up to date."""
    items, files = picture_table(layout, dataset)
    path = layout.features(dataset, encoder, "image")
    one_thread()
    network, cfg = loaded(layout, dataset, encoder)
    if "image" not in network.modalities:
        log.info("%s encodes no pictures: its store says of every item that it has none", encoder)
        items = items.set_column(1, "image", pa.nulls(len(items), pa.string()))
    with progress("encode images") as report:
        counts = features.encode_images(
            path,
            items,
            files,
            network,
            dataset=dataset,
            encoder_name=encoder,
            batch_size=cfg.batch_size,
            progress=report,
        )
    tables.write_json(layout.coverage(dataset, encoder, "image"), coverage.report(path))
    log.info("images: %s", ", ".join(f"{name} {count:,}" for name, count in counts.items()))
