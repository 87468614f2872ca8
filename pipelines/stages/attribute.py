"""Stage `attribute@<dataset>-<encoder>-<model>-<adapter>`: where pictures speak for behaviour, before and after."""

import logging

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from befa import config, tables
from befa.attribution import overlays
from befa.attribution.explaining import METHODS, AttributionConfig, Explained, heatmaps
from befa.attribution.heatmap import Heatmap
from befa.attribution.measures import measured
from befa.cells import Cell
from befa.checkpoints import trained
from befa.errors import DataError
from befa.images import ImageError, ImageFiles, decode
from befa.paths import Layout
from befa.rng import numpy_stream
from pipelines.encoding import loaded, one_thread, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Writes heatmaps.parquet, heatmaps.png and scores.json; measures against objects where the source knows them.

    Of a cell with several seeds, the first one's model is looked into.
    """
    params = config.read_params(layout.params)
    cfg = config.load(params, "attribution", AttributionConfig)
    into = layout.attribution(dataset, encoder, model, adapter)
    one_thread()
    network, _ = loaded(layout, dataset, encoder, device)
    items, pixels, pictures, objects = _sample(layout, dataset, cfg, network)
    known = [None if one is None else torch.from_numpy(one) for one in objects]
    ids = tables.read_table(layout.filtered(dataset) / "items.parquet", ["item", "text"]).to_pylist()
    scores: dict[str, object] = {"items": len(items), "with_object": sum(one is not None for one in known)}
    explained = {}
    for cell_adapter in dict.fromkeys(("none", adapter)):
        folder = layout.run(dataset, encoder, model, cell_adapter)
        cell = Cell.read(folder / "config.json")
        recommender, _ = trained(layout, folder, cell, cell.training.seeds[0], device)
        explained[cell_adapter] = Explained.of(recommender, network, cfg.ids)
        scores[cell_adapter] = {"behaviour": explained[cell_adapter].angles()}
    pictured: list[dict[str, dict[str, Heatmap]]] = []
    with progress(f"attribute {model}", "pictures") as report:
        for item, pixels_3HW in zip(items, pixels, strict=True):
            pictured.append(heatmaps(explained, pixels_3HW.to(device), item, cfg.becam))
            report(len(pictured), len(items))
    rows: list[dict[str, object]] = []
    columns: dict[str, list[np.ndarray | None]] = {}
    for cell_adapter in explained:
        for name in METHODS:
            found = [one[cell_adapter][name] for one in pictured]
            scores[cell_adapter] |= {name: measured(found, known)}
            rows += [
                {"item": ids[item]["item"], "adapter": cell_adapter, "method": name, "floor": one.floor,
                 "heat": one.heat_hw.flatten().tolist()}
                for item, one in zip(items, found, strict=True)
            ]  # fmt: skip
            columns[f"{name}, {cell_adapter}"] = [one.heat_hw.numpy() if one.with_heat else None for one in found]
    height, width = found[0].heat_hw.shape
    shape = {"height": str(height), "width": str(width)}
    shown = slice(0, cfg.shown)
    overlays.write(
        into / "heatmaps.png",
        pictures[shown],
        {name: columns[name][shown] for name in sorted(columns) if not name.startswith("score_cam")},
        objects[shown],
        [_title(ids[item]) for item in items[shown]],
    )
    tables.write_table(into / "heatmaps.parquet", pa.Table.from_pylist(rows), shape)
    tables.write_json(into / "scores.json", scores)
    for cell_adapter in explained:
        log.info("%s+%s: %s", model, cell_adapter, _told({name: scores[cell_adapter][name] for name in METHODS}))


def _title(item: dict[str, str | None]) -> str:
    """An item's text, or its id where the font cannot show that."""
    text = item["text"] or ""
    return text[:60] if text and overlays.drawable(text) else str(item["item"])


def _told(measures: dict[str, dict[str, int | float | None]]) -> str:
    """Each method's share of heat on the object, and how many heatmaps have no heat."""
    parts = []
    for name, of in measures.items():
        energy = "" if of["energy"] is None else f"energy {of['energy']:.3f}, "
        parts.append(f"{name} {energy}{of['without_heat']} of {of['items']} without heat")
    return "; ".join(parts)


def _sample(layout: Layout, dataset: str, cfg: AttributionConfig, network: object) -> tuple:
    """Dense ids, prepared pictures, pictures as the tower sees them, and objects (None: not known).

    Objects are known where the raw folder has masks.zip with `<item>.png`, white on the object, as the demo's has.
    """
    references, files = picture_table(layout, dataset)
    reference_of = dict(zip(*references.to_pydict().values(), strict=True))
    order = tables.read_table(layout.filtered(dataset) / "items.parquet", ["item"])["item"].to_pylist()
    masks = ImageFiles(layout.raw(dataset)) if (layout.raw(dataset) / "masks.zip").is_file() else None
    items, pixels, pictures, objects = [], [], [], []
    for place in numpy_stream(cfg.seed, "attribution").permutation(len(order)).tolist():
        if len(items) == cfg.items:
            break
        picture = _picture(files, reference_of.get(order[place]))
        if picture is None:
            continue
        seen = network.pixels(picture)
        mask = None if masks is None else _picture(masks, f"masks.zip/{order[place]}.png")
        # A mask is cut as its picture is.
        known = None if mask is None else network.pixels(mask)[0].numpy() > 127
        items.append(place)
        pixels.append(network.preprocess(picture))
        pictures.append(Image.fromarray(seen.permute(1, 2, 0).numpy()))
        objects.append(known)
    if not items:
        raise DataError("no item has a picture", where=layout.media(dataset), mend="choose a dataset with images")
    return items, pixels, pictures, objects


def _picture(files: ImageFiles, reference: str | None) -> Image.Image | None:
    try:
        return None if reference is None else decode(files.read(reference))
    except ImageError:
        return None
