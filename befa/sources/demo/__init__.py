"""A generated catalogue whose truth is known, so that the whole pipeline can be tested with no download.

Users choose by what an item is (category, colour, pattern), by a hidden factor and by popularity. Picture and title
show the first; the picture's cluttered background and the title's brand and praise show nothing (drift), and no content
shows the hidden factor (omission). Files: interactions, items and truth (Parquet), images.zip, masks.zip.
Some pictures are missing and one is truncated, some titles are empty, over-long or Chinese.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from befa import archives, tables
from befa.config import configuration
from befa.datasets import EVENTS, ITEMS
from befa.needs import Need
from befa.progress import Progress
from befa.rng import numpy_stream
from befa.sources import tabular
from befa.sources.base import render
from befa.sources.demo import drawing, tastes, wording

SIZES = {"tiny": (60, 40, 12.0), "demo": (1_000, 500, 12.0), "large": (50_000, 20_000, 12.0)}
"""Users, items, mean interactions of a user."""

DEFAULT_TEXT = "{title}"


@configuration
class DemoConfig:
    """The `source` block of a demo dataset."""

    size: Literal["tiny", "demo", "large"] = "demo"
    """tiny: for tests; demo: for `make demo`; large: for load tests."""
    seed: int = 1
    """Everything follows from it: the same size and seed give the same bytes."""


Config = DemoConfig
UNIT = "pictures"


FILES = ["images.zip", "interactions.parquet", "items.parquet", "masks.zip", "truth.parquet"]


def needs(config: DemoConfig, dataset: str) -> list[Need]:
    """Nothing: it is generated."""
    return []


def fetch(config: DemoConfig, into: Path, *, dataset: str = "demo", progress: Progress | None = None) -> list[str]:
    """Draws the catalogue into the folder `into`; `progress` is called with pictures done and their number."""
    n_users, n_items, mean = SIZES[config.size]
    few = max(1, n_items // 500)
    special = numpy_stream(config.seed, "demo", "special").permutation(n_items)[: 4 * few + 1]
    no_reference, no_picture, no_title, long_title = np.split(special[: 4 * few], 4)
    truncated = special[-1]
    truth = tastes.make(n_users, n_items, seed=config.seed, special=special)

    titles: list[str] = []
    images: list[str | None] = []
    with _archive(into / "images.zip") as pictures, _archive(into / "masks.zip") as masks:
        for place, item in enumerate(truth.items):
            kind = [values[truth.attributes[name][place]] for name, values in tastes.LEVELS.items()]
            title = wording.title(*kind, rng=numpy_stream(config.seed, "demo", "title", item))
            title = f"{title}, {wording.CARE}" if place in long_title else title
            titles.append("" if place in no_title else title)
            images.append(None if place in no_reference else f"images.zip/{item}.jpg")
            picture, mask = drawing.draw(*kind, rng=numpy_stream(config.seed, "demo", "picture", item))
            if place not in no_picture and place not in no_reference:
                data = _encoded(picture, "JPEG", quality=92, subsampling=0)
                archives.add(pictures, f"{item}.jpg", data[: len(data) // 2] if place == truncated else data)
                archives.add(masks, f"{item}.png", _encoded(mask, "PNG"))
            if progress is not None:
                progress(place + 1, n_items, "")

    table = pa.table({"item": truth.items, "title": titles, "image": pa.array(images, pa.string())})
    tables.write_table(into / "items.parquet", table)
    tables.write_table(into / "truth.parquet", _item_truth(truth))
    user_E, item_E, time_E = tastes.choices(truth, mean=mean, seed=config.seed)
    raw_ids = [pa.array(truth.users).take(pa.array(user_E)), pa.array(truth.items).take(pa.array(item_E))]
    events_table = pa.table([*raw_ids, pa.array(time_E, pa.int64())], schema=EVENTS)
    tables.write_table(into / "interactions.parquet", events_table)
    return FILES


def events(raw: Path) -> Iterator[pa.RecordBatch]:
    """Interactions in the order of time; about one in thirty occurs twice."""
    path = raw / "interactions.parquet"
    if not path.exists():
        raise tabular.missing(path)
    with tabular.errors(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=EVENTS.names):
            yield pa.record_batch(batch.columns, schema=EVENTS)


def items(raw: Path, text: str | None) -> Iterator[pa.RecordBatch]:
    """Items with their text by template (columns: item, title) and their image; an empty title is a null text."""
    rows = tables.read_table(raw / "items.parquet", ["item", "title", "image"]).to_pylist()
    texts = [render(text or DEFAULT_TEXT, {"item": row["item"], "title": row["title"]}) for row in rows]
    yield pa.record_batch([[row["item"] for row in rows], texts, [row["image"] for row in rows]], schema=ITEMS)


def vectors(raw: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """None: its modalities are what an encoder makes of pictures and texts."""
    return {}


def _item_truth(truth: tastes.Truth) -> pa.Table:
    shown = {n: np.array(values)[truth.attributes[n]] for n, values in tastes.LEVELS.items()}
    hidden = pa.FixedSizeListArray.from_arrays(pa.array(truth.hidden_Ih.ravel()), tastes.HIDDEN)
    return pa.table({"item": truth.items, **shown, "hidden": hidden, "log_popularity": truth.popularity_I})


def _archive(path: Path) -> zipfile.ZipFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    return zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)


def _encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
