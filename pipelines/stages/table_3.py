"""Stage `table_3@<dataset>-<encoder>`: the adapters of the paper's four hosts beside each other."""

from rich.console import Console
from rich.table import Table

from befa import tables
from befa.paths import Layout
from befa.report.adapters_table import ADAPTERS, adapters_table, cells, markdown
from pipelines.stages.train_befa import MODELS


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Writes table_3.json and table_3.md, and prints the latter without the paper's columns: a terminal is narrow."""
    found = {
        a: {m: tables.read_json(layout.run(dataset, encoder, m, a) / "metrics.json") for m in MODELS} for a in ADAPTERS
    }
    table, into = adapters_table(dataset, encoder, found), layout.report(dataset) / encoder
    tables.write_json(into / "table_3.json", table)
    with tables.whole(into / "table_3.md") as part:
        part.write_text(markdown(table), encoding="utf-8")
    header, body = cells(table)
    shown = Table(title=f"Adapters on {dataset}, {encoder} features, test part", caption=str(into / "table_3.md"))
    ours = slice(2 + len(ADAPTERS) + 1)
    for name in header[ours]:
        shown.add_column(name, justify="left" if name in ("model", "metric") else "right")
    for line in body:
        shown.add_row(*line[ours])
    Console().print(shown)
