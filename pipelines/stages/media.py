"""Stage `media@<dataset>`: where each item's picture is, fetched if it is on the web; and vectors made elsewhere."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from befa import config, feature_store, pictures, tables
from befa.datasets import DatasetConfig
from befa.errors import lookup
from befa.paths import Layout
from befa.pictures import PicturesConfig
from befa.sources import SOURCES
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, layout: Layout) -> None:
    """Writes pictures/references.parquet (item, image: a path below data/), stats.json, and a store per given modality.

    Pictures on the web are fetched into pictures/web/; run again, the stage keeps those it has and retries the others.
    """
    params = config.read_params(layout.params)
    cfg = config.load(params, f"datasets.{dataset}", DatasetConfig)
    source, into = lookup(SOURCES, cfg.kind, "kind of dataset"), layout.media(dataset)
    items = tables.read_table(layout.items(dataset), ["item", "image"])
    on_web = pc.fill_null(pc.match_substring_regex(items["image"], r"(?i)^\s*(https?:)?//"), False)
    stats = {"items": len(items), "no_reference": items["image"].null_count}
    place = layout.raw(dataset).relative_to(layout.data).as_posix() + "/"
    references = pc.binary_join_element_wise(pa.scalar(place), items["image"], "")
    if pc.any(on_web).as_py():
        web = into / "pictures/web"
        wanted = pa.table({"item": items["item"], "url": items["image"]}).filter(on_web)
        with progress(f"fetch pictures of {dataset}", unit="pictures") as report:
            fetched = pictures.fetch_pictures(
                wanted, web, config.load(params, "pictures", PicturesConfig), progress=report
            )
        log.info("pictures: %d kept, %d fetched; %s", fetched.kept, fetched.fetched, fetched.coverage)
        stats["web"] = fetched.coverage
        found = tables.read_table(web / pictures.INDEX, ["item", "image"])
        place = web.relative_to(layout.data).as_posix() + "/"
        there = found["image"].take(pc.index_in(items["item"], value_set=found["item"]))
        references = pc.if_else(on_web, pc.binary_join_element_wise(pa.scalar(place), there, ""), references)
    tables.write_table(layout.references(dataset), pa.table({"item": items["item"], "image": references}))
    given = {}
    for modality, (ids, values) in source.vectors(layout.raw(dataset)).items():
        path = layout.vectors(dataset, modality)
        given[modality] = feature_store.write_given(
            path, items["item"], ids, values, dataset=dataset, modality=modality
        )
    for path in (into / "vectors").glob("*.parquet"):
        if path.stem not in given:
            path.unlink()
    # So that the folder is there, and DVC has an output, where the dataset brings no vectors.
    tables.write_json(layout.given(dataset), given)
    tables.write_json(into / "stats.json", {**stats, "vectors": given})
