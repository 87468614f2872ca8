"""Stage `encode_texts@<dataset>-<encoder>`: text features, encoding only what is new or changed."""

import logging

from befa import coverage, features, tables
from befa.paths import Layout
from pipelines.encoding import item_table, loaded, one_thread
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Brings the store of a dataset's text vectors up to date."""
    items, path = item_table(layout, dataset, "text"), layout.features(dataset, encoder, "text")
    one_thread()
    network, cfg = loaded(layout, dataset, encoder)
    with progress("encode texts") as report:
        counts = features.encode_texts(
            path, items, network, dataset=dataset, encoder_name=encoder, batch_size=cfg.batch_size, progress=report
        )
    tables.write_json(layout.coverage(dataset, encoder, "text"), coverage.report(path))
    log.info("texts: %s", ", ".join(f"{name} {count:,}" for name, count in counts.items()))
