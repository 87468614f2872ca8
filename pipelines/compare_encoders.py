"""Whether two encoders give the same vectors, on a sample of a dataset."""

from typing import Any

import pyarrow as pa
from rich.table import Table

from befa.compare import compare
from befa.errors import DataError
from befa.paths import Layout
from befa.rng import numpy_stream
from pipelines.encoding import item_table, loaded, one_thread, picture, picture_table
from pipelines.terminal import console


def run(first: str, second: str, dataset: str, *, layout: Layout, sample: int) -> dict[str, Any]:
    """Both encoders on the pictures and texts of at most `sample` items, drawn by a fixed seed.

    Raises DataError when the sample has neither a picture nor a text that can be read.
    """
    one_thread()
    encoders = [loaded(layout, dataset, name) for name in (first, second)]
    references, files = picture_table(layout, dataset)
    texts = item_table(layout, dataset)["text"].to_pylist()
    rows = numpy_stream(1, "compare").permutation(len(texts))[:sample]
    pictures = [picture(files, reference) for reference in references["image"].take(pa.array(rows)).to_pylist()]
    pictures = [each for each in pictures if each is not None]
    sentences = [texts[row] for row in rows if texts[row]]
    if not pictures and not sentences:
        raise DataError("no item of the sample has a picture or a text", where=dataset, mend="take a larger sample")
    return compare(*encoders, pictures, sentences)


def show(first: str, second: str, dataset: str, *, layout: Layout, sample: int) -> None:
    """Prints the comparison."""
    found = run(first, second, dataset, layout=layout, sample=sample)
    table = Table(title=f"{first} and {second} on {dataset}")
    names = [name for name, values in found.items() if isinstance(values, dict)]
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    keys = list(dict.fromkeys(key for name in names for key in found[name]))
    for key in keys:
        values = (found[name].get(key) for name in names)
        table.add_row(key.replace("_", " "), *(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values))
    console().print(table)
