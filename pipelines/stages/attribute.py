"""Stage `attribute@<dataset>-<encoder>-<model>-<adapter>`: where pictures speak for behaviour, before and after."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from befa import config, tables
from befa.attribution import overlays
from befa.attribution.explaining import AttributionConfig, Explained, heatmaps
from befa.attribution.heatmap import METHODS, Heatmap
from befa.attribution.measures import differences, measured
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.devices import deterministic
from befa.errors import DataError
from befa.images import ImageFiles
from befa.paths import Layout
from befa.rng import numpy_stream
from pipelines.encoding import item_table, loaded, picture, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)

ADAPTERS = {"none": "without adapter", "befa": "with BeFA", "lora": "with LoRA", "soft_prompt": "with SoftPrompt"}
"""What stands below a method's name in the picture; others go by their own name."""


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Writes heatmaps.parquet, heatmaps.png and scores.json; measures against objects where the source knows them.

    scores.json has, of the cell without adapter (`none`) and of this one, `behaviour` (angles) and each of METHODS'
    measures, and `difference`, of this one less the other. Of several seeds, the first one's model is looked into.
    """
    params = config.read_params(layout.params)
    cfg = config.load(params, "attribution", AttributionConfig)
    into = layout.attribution(dataset, encoder, model, adapter)
    deterministic(1)  # Grad-CAM goes back through the tower's attention
    network = loaded(layout, dataset, encoder, device)
    items, pixels, pictures, objects = _sample(layout, dataset, cfg, network)
    known = [None if one is None else torch.from_numpy(one) for one in objects]
    ids = item_table(layout, dataset).to_pylist()
    scores: dict[str, object] = {"items": len(items), "with_object": sum(one is not None for one in known)}
    explained = {}
    for cell_adapter in dict.fromkeys(("none", adapter)):
        folder = layout.run(dataset, encoder, model, cell_adapter)
        cell = Cell.read(layout.configuration(folder))
        recommender, problem = load_trained(layout, folder, cell, cell.training.seeds[0], device)
        explained[cell_adapter] = Explained.of(recommender, network, cfg.ids)
        encoded_Ic = problem.contents["image"].values_Ic
        scores[cell_adapter] = {"behaviour": explained[cell_adapter].angles(encoded_Ic)}
    pictured: list[dict[str, dict[str, Heatmap]]] = []
    with progress(f"attribute {model}", "pictures") as report:
        for item, pixels_3HW in zip(items, pixels, strict=True):
            pictured.append(heatmaps(explained, pixels_3HW.to(device), item, cfg.becam))
            report(len(pictured), len(items))
    found = {(one, name): [by[one][name] for by in pictured] for one in explained for name in METHODS}
    rows: list[dict[str, object]] = []
    for (cell_adapter, name), of in found.items():
        scores[cell_adapter] |= {name: measured(of, known)}
        rows += [
            {"item": ids[item]["item"], "adapter": cell_adapter, "method": name, "floor": one.floor,
             "heat": one.heat_hw.flatten().tolist()}
            for item, one in zip(items, of, strict=True)
        ]  # fmt: skip
    if adapter != "none":
        scores["difference"] = {
            name: differences(
                found["none", name], found[adapter, name], known, rng=numpy_stream(cfg.seed, "bootstrap", name)
            )
            for name in METHODS
        }
    height, width = next(iter(found.values()))[0].heat_hw.shape
    shape = {"height": str(height), "width": str(width)}
    shown = slice(0, cfg.shown)
    overlays.write(
        into / "heatmaps.png",
        pictures[shown],
        _columns({key: of[shown] for key, of in found.items()}),
        objects[shown],
        [_title(ids[item]) for item in items[shown]],
    )
    tables.write_table(into / "heatmaps.parquet", pa.Table.from_pylist(rows), shape)
    tables.write_json(layout.scores(dataset, encoder, model, adapter), scores)
    for cell_adapter in explained:
        log.info("%s+%s: %s", model, cell_adapter, _told({name: scores[cell_adapter][name] for name in METHODS}))


def _columns(found: Mapping[tuple[str, str], Sequence[Heatmap]]) -> dict[str, list[np.ndarray | None]]:
    """The picture's columns by title: each method's heatmaps by (adapter, method), before and then after."""
    return {
        f"{title}\n{ADAPTERS.get(adapter, f'with {adapter}')}": [
            one.heat_hw.numpy() if one.with_heat else None for one in of
        ]
        for method, title in METHODS.items()
        for (adapter, name), of in found.items()
        if name == method
    }


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
    order = tables.read_table(layout.items(dataset), ["item"])["item"].to_pylist()
    masks = ImageFiles(layout.raw(dataset)) if (layout.raw(dataset) / "masks.zip").is_file() else None
    items, pixels, pictures, objects = [], [], [], []
    for place in numpy_stream(cfg.seed, "attribution").permutation(len(order)).tolist():
        if len(items) == cfg.items:
            break
        shown = picture(files, reference_of.get(order[place]))
        if shown is None:
            continue
        seen = network.pixels(shown)
        mask = None if masks is None else picture(masks, f"masks.zip/{order[place]}.png")
        # A mask is cut as its picture is.
        known = None if mask is None else network.pixels(mask)[0].numpy() > 127
        items.append(place)
        pixels.append(network.preprocess(shown))
        pictures.append(Image.fromarray(seen.permute(1, 2, 0).numpy()))
        objects.append(known)
    if not items:
        raise DataError("no item has a picture", where=layout.media(dataset), mend="choose a dataset with images")
    return items, pixels, pictures, objects
