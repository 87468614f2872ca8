"""Stage `table_1@<dataset>`: a dataset's sizes beside the paper's, and what every step of the filter left."""

from befa import config, tables
from befa.errors import lookup
from befa.paths import Layout
from befa.report import table_1
from pipelines.show_table_1 import show


def run(dataset: str, layout: Layout) -> None:
    """Prints and stores the table as JSON and Markdown."""
    lookup(config.block(config.read_params(layout.params), "datasets"), dataset, "dataset")
    result = table_1.table(dataset, tables.read_json(layout.certificate(dataset)))
    path = layout.table(dataset, "table_1")
    tables.write_json(path, result)
    tables.write_text(path.with_suffix(".md"), table_1.markdown(result))
    show(result)
