"""Stage `filter@<dataset>`: window, unique pairs, k-core, dense ids, and the certificate of every round."""

import logging

from befa import config, tables
from befa.datasets import PLACE, DatasetConfig
from befa.errors import DataError, lookup
from befa.interactions import filter_events
from befa.paths import Layout
from befa.report.published import TABLE_1
from befa.sources import SOURCES
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, layout: Layout) -> None:
    """Writes interactions.parquet, users.parquet, items.parquet and stats.json."""
    params = config.read_params(layout.params)
    cfg = config.load(params, f"datasets.{dataset}", DatasetConfig)
    source, raw, into = lookup(SOURCES, cfg.kind, "kind of dataset"), layout.raw(dataset), layout.filtered(dataset)
    into.mkdir(parents=True, exist_ok=True)
    with progress(f"filter {dataset}", unit="rows") as report:
        try:
            filtered = filter_events(
                source.events(raw),
                lambda: source.items(raw, cfg.text),
                cfg,
                folder=into,
                progress=report,
            )
        except DataError as error:
            if error.where is not None:
                raise
            mend = f"{error.mend}, then `dvc repro --force --single-item download@{dataset}`"
            raise DataError(error.what, where=f"the data of {dataset}", mend=mend) from None
    metadata = None if filtered.place is None else {PLACE: filtered.place}
    tables.write_table(layout.interactions(dataset), filtered.interactions, metadata)
    tables.write_table(layout.users(dataset), filtered.users)
    tables.write_table(layout.items(dataset), filtered.items)
    tables.write_json(layout.certificate(dataset), {**filtered.stats, "paper": TABLE_1.get(dataset)})
    log.info("%(users)d users, %(items)d items, %(interactions)d interactions", filtered.stats)
