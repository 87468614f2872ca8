"""Stage `evaluate@<dataset>-<encoder>-<model>-<adapter>`: one cell's metrics on the test part."""

import logging

from befa import tables
from befa.cells import Cell
from befa.checkpoints import load_trained
from befa.devices import deterministic
from befa.evaluation import evaluate, over_seeds
from befa.metrics import TEST
from befa.paths import Layout

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout, device: str = "cpu") -> None:
    """Writes metrics.json and per_user.parquet of a trained cell: means over its seeds, and each seed's own."""
    folder = layout.run(dataset, encoder, model, adapter)
    cell = Cell.read(layout.configuration(folder))
    deterministic(cell.training.threads)  # on CUDA a model's graphs are sums whose order is open otherwise
    found = {}
    for seed in cell.training.seeds:
        recommender, problem = load_trained(layout, folder, cell, seed, device)
        found[seed] = evaluate(recommender, problem, layout, cell)
    result = over_seeds(found)
    metadata = result.per_user.schema.metadata
    tables.write_table(layout.per_user(folder), result.per_user, {TEST: metadata[TEST.encode()].decode()})
    tables.write_json(layout.metrics(folder), result.metrics)
    test = result.metrics["test"]
    log.info("test recall@20 %.4f, ndcg@20 %.4f, seeds: %d", test["recall@20"], test["ndcg@20"], len(found))
