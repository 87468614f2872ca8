"""Stage `overlap@<dataset>`: how far its encoders, and image and text, agree on which items are near each other."""

import torch

from befa import config, tables
from befa.errors import lookup
from befa.feature_store import ENCODED
from befa.paths import Layout
from befa.report import overlap
from pipelines.show_overlap import show


def run(dataset: str, layout: Layout) -> None:
    """Prints and stores the table as JSON and Markdown; the encoders are those that the dataset has features of."""
    torch.set_num_threads(1)  # as encoding: stages run beside each other
    lookup(config.block(config.read_params(layout.params), "datasets"), dataset, "dataset")
    encoders = layout.encoders(dataset)
    names = [(encoder, modality) for encoder in encoders for modality in ENCODED]
    stores = {f"{encoder}/{modality}": layout.features(dataset, encoder, modality) for encoder, modality in names}
    result, path = overlap.table(dataset, stores), layout.table(dataset, "overlap")
    tables.write_json(path, result)
    tables.write_text(path.with_suffix(".md"), overlap.markdown(result))
    show(result)
