"""Stage `encoder@<dataset>-<encoder>`: an encoder ready for use, trained on the catalogue or its weights fetched."""

import logging

import torch

from befa import config, tables
from befa.encoders.contrastive import train_clip
from befa.paths import Layout
from pipelines.encoding import configured, is_trained_here, item_table, loaded, picture, picture_table
from pipelines.progress import progress

log = logging.getLogger(__name__)


def run(dataset: str, encoder: str, layout: Layout) -> None:
    """Writes the encoder's folder; a pre-trained encoder's holds only what identifies its weights."""
    _, cfg = configured(config.read_params(layout.params), dataset, encoder)
    into = layout.weights(dataset, encoder)
    if not is_trained_here(cfg):
        tables.write_json(layout.encoder_identity(dataset, encoder), dict(loaded(layout, dataset, encoder).identity))
        return
    torch.set_num_threads(cfg.training.threads)
    items = item_table(layout, dataset)
    references, files = picture_table(layout, dataset)
    # Both tables are of the same items; rows still meet by their id.
    image_of = dict(zip(*references.to_pydict().values(), strict=True))
    pictures = (picture(files, image_of[item]) for item in items["item"].to_pylist())
    with progress(f"train {encoder} steps") as report:
        result = train_clip(pictures, items["text"].to_pylist(), cfg, into, progress=report)
    log.info(
        "%d pairs (%d left out); a picture finds its own title among all in %.1f%%",
        result["pairs"], result["left_out"], 100 * result["picture_to_title_recall_at_1"],
    )  # fmt: skip
