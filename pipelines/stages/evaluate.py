"""Stage `evaluate@<dataset>-<encoder>-<model>-<adapter>`: one cell's metrics on the test part."""

import logging

from befa import tables
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.devices import deterministic
from befa.evaluation import Evaluation, evaluate, over_seeds
from befa.metrics import TEST
from befa.paths import Layout

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Writes metrics.json and per_user.parquet of a trained cell: means over its seeds, and each seed's own."""
    folder = layout.run(dataset, encoder, model, adapter)
    cell = Cell.read(layout.configuration(folder))
    deterministic(cell.training.threads)  # on CUDA a model's graphs are sums whose order is open otherwise
    result = over_seeds({seed: _evaluated(layout, cell, seed, device) for seed in cell.training.seeds})
    metadata = result.per_user.schema.metadata
    tables.write_table(layout.per_user(folder), result.per_user, {TEST: metadata[TEST.encode()].decode()})
    tables.write_json(layout.metrics(folder), result.metrics)
    test, seeds = result.metrics["test"], len(cell.training.seeds)
    log.info("test recall@20 %.4f, ndcg@20 %.4f, seeds: %d", test["recall@20"], test["ndcg@20"], seeds)


def _evaluated(layout: Layout, cell: Cell, seed: int, device: str) -> Evaluation:
    folder = layout.run(cell.dataset, cell.encoder, cell.model, cell.adapter)
    recommender, problem = load_trained(layout, folder, cell, seed, device)
    return evaluate(recommender, problem, layout, cell)
