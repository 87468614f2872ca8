"""Stage `encode_images@<dataset>-<encoder>`: image features, encoding only what is new or changed."""

import logging

from befa import config, features
from befa.paths import Layout
from pipelines.encoding import configured, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Brings the store of a dataset's image vectors up to date."""
    kind, cfg = configured(config.read_params(layout.params), dataset, encoder)
    items, files = picture_table(layout, dataset)
    path = layout.features(dataset, encoder, "image")
    loaded = kind.load(layout.weights(dataset, encoder), cfg)
    with progress("encode images") as report:
        coverage = features.encode_images(
            path,
            items,
            files,
            loaded,
            dataset=dataset,
            encoder_name=encoder,
            batch_size=cfg.batch_size,
            progress=report,
        )
    log.info("images: %s", ", ".join(f"{name} {count:,}" for name, count in coverage.items()))
