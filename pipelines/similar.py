"""What an encoder takes for alike: the items nearest to an item, or to a text, on the terminal."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from befa import config, search, tables
from befa.errors import ConfigError, DataError, EncoderError, FeatureError, nearest, nearest_id
from befa.feature_store import ENCODED, Modality, identity_text, metadata_of, stage
from befa.paths import Layout, stage_of
from befa.search import Index
from pipelines import item_lists
from pipelines.encoding import configured, loaded
from pipelines.item_lists import Ranked, describer

log = logging.getLogger(__name__)


def run(
    dataset: str,
    encoder: str,
    *,
    layout: Layout,
    item: str | None = None,
    text: str | None = None,
    by: Modality = "image",
    k: int = 10,
) -> list[Ranked]:
    """The `k` items whose `by` vectors (image, text) are nearest to that of `item`, or to that of the words `text`.

    The item itself is left out. The index is kept below data/indexes/ and follows the feature store. Raises ConfigError
    unless there is one of item and text, DataError for an item that is unknown or has no such vector, EncoderError for
    what the encoder has no tower for, FeatureError when the store is absent or another encoder's.
    """
    if (item is None) == (text is None):
        raise ConfigError(
            "both an item and a text are given" if item is not None else "neither an item nor a text is given",
            mend="give one of the two",
        )
    if by not in ENCODED:
        raise ConfigError(f"unknown modality {by!r}", mend=f"{nearest(by, ENCODED)}: an encoder's vectors are searched")
    kind, _ = configured(config.read_params(layout.params), dataset, encoder)
    towers = kind.modalities
    if by not in towers:
        mend = f"search by its {' or '.join(towers)}s" if towers else "search by another encoder's vectors"
        raise EncoderError(f"encoder {encoder} has no {by} tower", mend=mend)
    if text is not None and "text" not in towers:
        raise EncoderError(f"encoder {encoder} has no text tower", mend="search with an item, or take another encoder")
    path = layout.features(dataset, encoder, by)
    if not path.exists():
        _require_listed(layout, dataset, encoder, path)
    index = search.open_or_build(
        path, layout.index(dataset, encoder, by), dataset=dataset, encoder=encoder, modality=by
    )
    if item is not None:
        _require_vector(item, index, path, by)
        cosines, items = index.neighbours(item, k)
    else:
        if not text.strip():
            raise ConfigError("the text is empty", mend="give it words")
        query_1d = _encoded(text, loaded(layout, dataset, encoder), path)
        scores, [items] = index.nearest(query_1d, k)
        cosines = scores[0]
    described = describer(layout, dataset)(pa.table({"item": pa.array(items, pa.string())})).to_pylist()
    return [
        Ranked(rank, score, **row) for rank, (score, row) in enumerate(zip(cosines.tolist(), described, strict=True), 1)
    ]


def show(
    dataset: str,
    encoder: str,
    *,
    layout: Layout,
    item: str | None = None,
    text: str | None = None,
    by: Modality = "image",
    k: int = 10,
) -> None:
    """Prints what `run` finds, as a table."""
    found = run(dataset, encoder, layout=layout, item=item, text=text, by=by, k=k)
    if item is not None:
        [row] = describer(layout, dataset)(pa.table({"item": [item]})).to_pylist()
        sought = f"item {item} {item_lists.shortened(row['title'])}".rstrip()
    else:
        sought = f'"{text}"'
    item_lists.show(f"Nearest to {sought}, {by}s of {dataset} by {encoder}", "cosine", found)


def _require_listed(layout: Layout, dataset: str, encoder: str, path: Path) -> None:
    """Raises FeatureError where the graph has no stage that would make the features."""
    listed = config.block(config.read_params(layout.cells), "encodings", where=str(layout.cells))
    if f"{dataset}-{encoder}" not in listed:
        mend = f"python -m pipelines add-cells {dataset} {encoder}, then dvc repro {stage_of(path)}"
        raise FeatureError("no features", where=path, mend=mend)


def _require_vector(item: str, index: Index, path: Path, by: Modality) -> None:
    """Raises DataError that says why `item` is not in the index."""
    if item in index:
        return
    table = tables.read_table(path, ["item", "status", "reason"])
    row = pc.index(table["item"], pa.scalar(item)).as_py()
    if row < 0:
        raise DataError(f"unknown item {item!r}", where=path, mend=nearest_id(item, table["item"].to_pylist()))
    status, reason = table["status"][row].as_py(), table["reason"][row].as_py()
    other = next(name for name in ENCODED if name != by)
    raise DataError(
        f"item {item} has no {by} vector: {status} ({reason})", where=path, mend=f"search by its {other}, or mend it"
    )


def _encoded(text: str, network: Any, path: Path) -> np.ndarray:
    """The vector of `text`, as one row."""
    _require_same_space(network, path)
    tokens_1L, _, [truncated] = network.tokenize([text])
    if truncated:
        log.warning("the text is longer than the encoder reads, its end is not looked at")
    return network.encode_texts(tokens_1L).numpy()


def _require_same_space(encoder: Any, path: Path) -> None:
    """Raises FeatureError when the store's vectors are by other weights: their cosines with a text mean nothing."""
    metadata = metadata_of(tables.read_table(path, ["item"]))
    if metadata["encoder_identity"] != identity_text(encoder.identity):
        raise FeatureError(
            "the vectors are by other weights than the encoder has now",
            where=path,
            mend=f"run dvc repro {stage(metadata['dataset'], metadata['encoder'], metadata['modality'])}",
        )
