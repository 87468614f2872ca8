"""What an encoder takes for alike: the items nearest to an item, or to a text, on the terminal."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from befa import config, search, tables
from befa.errors import ConfigError, DataError, EncoderError, FeatureError, nearest, nearest_id
from befa.feature_store import ENCODED, Modality, metadata_of, stage
from befa.paths import Layout
from befa.search import Index
from pipelines.encoding import configured, item_table, loaded, picture_table

log = logging.getLogger(__name__)

TITLE_CELLS = 48
"""Of the terminal that a title may take; a Chinese character takes two."""


@dataclass(frozen=True)
class Similar:
    """One line of the answer."""

    rank: int
    cosine: float
    item: str
    title: str
    """The item's text, whole; empty where it has none."""
    picture: str
    """Its picture's reference, a path below data/; empty where it has none."""


def run(
    dataset: str,
    encoder: str,
    *,
    layout: Layout,
    item: str | None = None,
    text: str | None = None,
    by: Modality = "image",
    k: int = 10,
) -> list[Similar]:
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
        raise EncoderError(f"encoder {encoder} has no {by} tower", mend=f"search by its {' or '.join(towers)}s")
    if text is not None and "text" not in towers:
        raise EncoderError(f"encoder {encoder} has no text tower", mend="search with an item, or take another encoder")
    path = layout.features(dataset, encoder, by)
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
    titles = _column(item_table(layout, dataset), "text", items)
    pictures = _column(picture_table(layout, dataset)[0], "image", items)
    rows = zip(cosines.tolist(), items, titles, pictures, strict=True)
    return [Similar(rank, *row) for rank, row in enumerate(rows, start=1)]


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
        [words] = _column(item_table(layout, dataset), "text", [item])
        sought = f"item {item} {_shortened(words)}".rstrip()
    else:
        sought = f'"{text}"'
    # Text, not str: square brackets in a title are no markup.
    shown = Table(title=Text(f"Nearest to {sought}, {by}s of {dataset} by {encoder}"))
    shown.add_column("rank", justify="right", no_wrap=True)
    shown.add_column("cosine", justify="right", no_wrap=True)
    shown.add_column("item", no_wrap=True)
    shown.add_column("title", overflow="fold")
    shown.add_column("picture", overflow="fold")
    for row in found:
        shown.add_row(
            str(row.rank), f"{row.cosine:.4f}", Text(row.item), _shortened(row.title) or "-", Text(row.picture or "-")
        )
    Console().print(shown)


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
    if metadata["encoder_identity"] != json.dumps(dict(encoder.identity), sort_keys=True):
        raise FeatureError(
            "the vectors are by other weights than the encoder has now",
            where=path,
            mend=f"run dvc repro {stage(metadata['dataset'], metadata['encoder'], metadata['modality'])}",
        )


def _column(table: pa.Table, name: str, items: Sequence[str]) -> list[str]:
    """The column `name` of `items`, joined by id; empty where there is none."""
    rows = pc.index_in(pa.array(items, pa.string()), value_set=table["item"].cast(pa.string()))
    return [value or "" for value in table[name].cast(pa.string()).take(rows).to_pylist()]


def _shortened(title: str) -> Text:
    """A title on one line of TITLE_CELLS, with an ellipsis where it is cut."""
    text = Text(" ".join(title.split()))
    text.truncate(TITLE_CELLS, overflow="ellipsis")
    return text
