"""Stage `distribution@<dataset>-<encoder>-<model>-<adapter>`: how content lies, without the adapter and with it."""

import logging

import torch

from befa import config, tables
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.paths import Layout
from befa.report.distribution import DistributionConfig, as_json, distributions, draw

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout) -> None:
    """Writes the measures as JSON and the picture beside it, of the cell without adapter and of this one.

    Of a cell with several seeds, the first one's model is looked into.
    """
    cfg = config.load(config.read_params(layout.params), "distribution", DistributionConfig)
    found, seeds = {}, {}
    for cell_adapter in dict.fromkeys(("none", adapter)):
        folder = layout.run(dataset, encoder, model, cell_adapter)
        cell = Cell.read(layout.configuration(folder))
        torch.set_num_threads(cell.training.threads)
        seeds[cell_adapter] = cell.training.seeds[0]
        recommender, problem = load_trained(layout, folder, cell, seeds[cell_adapter])
        found[cell_adapter] = distributions(recommender, problem, cfg)
    measures, into = as_json(found), layout.distribution(dataset, encoder, model, adapter)
    draw(into.with_suffix(".png"), found)
    tables.write_json(into, {"seeds": seeds, "modalities": measures})
    for modality, of in measures.items():
        told = ", ".join(f"{name} {values['uniformity']:.3f}" for name, values in of.items())
        log.info("%s: uniformity of %s: %s", model, modality, told)
        if gate := of[adapter]["gate"]:
            told = f"over items {gate['over_items']:.3f}, over channels {gate['over_channels']:.3f}"
            log.info("%s: gate of %s: mean %.2f, deviation %s", model, modality, gate["mean"], told)
