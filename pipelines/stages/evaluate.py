"""Stage `evaluate@<dataset>-<encoder>-<model>-<adapter>`: one cell's metrics on the test part."""

import logging

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from befa import tables
from befa.cells import Cell, build, load_problem
from befa.errors import TrainingError
from befa.evaluation import evaluate
from befa.paths import Layout

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, model: str, adapter: str, layout: Layout) -> None:
    """Writes metrics.json and per_user.parquet of a trained cell."""
    folder = layout.run(dataset, encoder, model, adapter)
    cell = Cell.read(folder / "config.json")
    torch.set_num_threads(cell.training.threads)
    problem = load_problem(layout, cell)
    recommender = build(problem, cell)
    try:
        recommender.load_state_dict(load_file(folder / "checkpoint.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        what = f"the checkpoint does not fit its configuration ({str(error).splitlines()[0]})"
        raise TrainingError(what, where=folder, mend="run its train stage again") from None
    result = evaluate(recommender.eval(), problem, layout, cell)
    tables.write_table(folder / "per_user.parquet", result.per_user)
    tables.write_json(folder / "metrics.json", result.metrics)
    log.info(
        "test recall@20 %.4f, ndcg@20 %.4f", result.metrics["test"]["recall@20"], result.metrics["test"]["ndcg@20"]
    )
