"""Stage `table_3@<dataset>-<encoder>`: the adapters of the paper's four hosts beside each other."""

from befa import tables
from befa.paths import Layout
from befa.report.adapters_table import ADAPTERS, adapters_table, cells, markdown
from befa.report.published import HOSTS
from pipelines import terminal


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Writes table_3.json and table_3.md, and prints the latter without the paper's columns: a terminal is narrow."""
    found = {
        a: {m: tables.read_json(layout.metrics(layout.run(dataset, encoder, m, a))) for m in HOSTS} for a in ADAPTERS
    }
    table, into = adapters_table(dataset, encoder, found), layout.report(dataset) / encoder
    tables.write_json(into / "table_3.json", table)
    tables.write_text(into / "table_3.md", markdown(table))
    header, body = cells(table)
    title, ours = f"Adapters on {dataset}, {encoder} features, test part", slice(2 + len(ADAPTERS) + 1)
    rows = [line[ours] for line in body]
    terminal.show(title, header[ours], rows, left=2, caption=str(into / "table_3.md"), sections=True)
