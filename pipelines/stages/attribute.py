"""Stage `attribute@<dataset>-<encoder>-<model>-<adapter>`: where pictures speak for behaviour, before and after."""

import logging
from typing import Any

import pyarrow as pa

from befa import config, tables
from befa.attribution import overlays, study
from befa.attribution.explaining import AttributionConfig, Explained
from befa.attribution.heatmap import METHODS
from befa.attribution.study import Pictured
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.devices import deterministic
from befa.encoders.base import PictureEncoder
from befa.errors import DataError
from befa.images import ImageFiles
from befa.paths import Layout
from pipelines.encoding import item_table, loaded, picture, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Writes heatmaps.parquet, heatmaps.png and scores.json; measures against objects where the source knows them.

    scores.json has, of the cell without adapter (`none`) and of this one, `behaviour` (angles) and each of METHODS'
    measures, and `difference`, of this one less the other. Of several seeds, the first one's model is looked into.
    """
    cfg = config.load(config.read_params(layout.params), "attribution", AttributionConfig)
    into = layout.attribution(dataset, encoder, model, adapter)
    deterministic(1)  # Grad-CAM goes back through the tower's attention
    network = loaded(layout, dataset, encoder, device)
    sampled = _sample(layout, dataset, cfg, network)
    cells, behaviour = {}, {}
    for name in dict.fromkeys(("none", adapter)):
        folder = layout.run(dataset, encoder, model, name)
        cell = Cell.read(layout.configuration(folder))
        recommender, problem = load_trained(layout, folder, cell, cell.training.seeds[0], device)
        cells[name] = Explained.of(recommender, network, cfg.ids)
        behaviour[name] = cells[name].angles(problem.contents["image"].values_Ic)
    with progress(f"attribute {model}", "pictures") as report:
        found = study.heatmaps_of(cells, sampled, cfg, report)
    scores = study.scores(found, sampled, behaviour, cfg.seed)
    items = item_table(layout, dataset).to_pylist()
    overlays.write_sample(into / "heatmaps.png", found, sampled[: cfg.shown], items)
    height, width = next(iter(found.values()))[0].heat_hw.shape
    rows = pa.Table.from_pylist(study.rows(found, sampled, [item["item"] for item in items]))
    tables.write_table(into / "heatmaps.parquet", rows, {"height": str(height), "width": str(width)})
    tables.write_json(layout.scores(dataset, encoder, model, adapter), scores)
    for name in cells:
        log.info("%s+%s: %s", model, name, _told({method: scores[name][method] for method in METHODS}))


def _told(measures: dict[str, dict[str, Any]]) -> str:
    """Each method's share of heat on the object, and how many heatmaps have no heat."""
    parts = []
    for name, of in measures.items():
        energy = "" if of["energy"] is None else f"energy {of['energy']:.3f}, "
        parts.append(f"{name} {energy}{of['without_heat']} of {of['items']} without heat")
    return "; ".join(parts)


def _sample(layout: Layout, dataset: str, cfg: AttributionConfig, network: PictureEncoder) -> list[Pictured]:
    """Objects are known where the raw folder has masks.zip with `<item>.png`, white on the object: the demo's does."""
    references, files = picture_table(layout, dataset)
    reference_of = dict(zip(*references.to_pydict().values(), strict=True))
    ids = tables.read_table(layout.items(dataset), ["item"])["item"].to_pylist()
    masks = ImageFiles(layout.raw(dataset)) if (layout.raw(dataset) / "masks.zip").is_file() else None
    sampled = study.sample(
        len(ids),
        lambda item: picture(files, reference_of.get(ids[item])),
        lambda item: None if masks is None else picture(masks, f"masks.zip/{ids[item]}.png"),
        network,
        cfg,
    )
    if not sampled:
        raise DataError("no item has a picture", where=layout.media(dataset), mend="choose a dataset with images")
    return sampled
