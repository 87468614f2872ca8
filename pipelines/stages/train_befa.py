"""Stage `train_befa@<dataset>`: the dataset's BeFA result from every +BeFA cell and its base cell."""

from befa import tables
from befa.paths import Layout
from befa.report.befa_table import befa_table, markdown
from befa.report.published import HOSTS
from pipelines.show_befa import show


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Writes befa.json and befa.md and prints base, +BeFA and gain per model."""
    base, befa = (
        {m: tables.read_json(layout.metrics(layout.run(dataset, encoder, m, adapter))) for m in HOSTS}
        for adapter in ("none", "befa")
    )
    table, path = befa_table(dataset, encoder, base, befa), layout.table(dataset, "befa")
    tables.write_json(path, table)
    tables.write_text(path.with_suffix(".md"), markdown(table))
    show(table, path.with_suffix(".md"))
