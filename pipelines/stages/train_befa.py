"""Stage `train_befa@<dataset>`: the dataset's BeFA result from every +BeFA cell and its base cell."""

from rich.console import Console
from rich.table import Table

from befa import tables
from befa.paths import Layout
from befa.report.befa_table import befa_table, cells, markdown

MODELS = ("lattice", "bm3", "freedom", "mgcn")
"""The paper's hosts, in the order of its Table 2."""


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Writes befa.json and befa.md and prints base, +BeFA and gain per model."""
    base, befa = (
        {m: tables.read_json(layout.run(dataset, encoder, m, adapter) / "metrics.json")["test"] for m in MODELS}
        for adapter in ("none", "befa")
    )
    table = befa_table(dataset, encoder, base, befa)
    into = layout.report(dataset)
    tables.write_json(into / "befa.json", table)
    with tables.whole(into / "befa.md") as part:
        part.write_text(markdown(table), encoding="utf-8")
    header, body = cells(table)
    shown = Table(title=f"BeFA on {dataset}, {encoder} features, test part", caption=f"all metrics: {into / 'befa.md'}")
    for name in header:
        shown.add_column(name, justify="left" if name in ("model", "metric") else "right")
    for number, line in enumerate(body, start=1):
        shown.add_row(*line, end_section=number % (len(body) // len(MODELS)) == 0)
    Console().print(shown)
