"""Filling the feature store: one Parquet file per dataset, encoder and modality; only what is new is encoded.

A vector's identity is the hash of its content, the encoder, the preprocessing, the normalisation and the precision. A
re-run copies the rows whose identity is known and encodes the others, equal contents once. A vector does not depend on
its neighbours in a batch: items in any order, in any number of runs and on any engine, give the same bytes on one
machine. What is encoded is saved in parts as the work goes on, so a killed run loses at most one of them, and the
batches that were under way. The file says in its metadata what made it, and nothing of when, where, or by which host.
"""

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from befa import tables
from befa.encoding import About, Engine, Piece
from befa.errors import DataError
from befa.feature_store import (
    EXTRAS,
    SCHEMA_VERSION,
    Modality,
    check_ids,
    identity_text,
    metadata_of,
    schema,
    vector_column,
    vectors,
)
from befa.preparing import Row
from befa.progress import Progress

log = logging.getLogger(__name__)

PART = 1024
"""Contents saved at a time."""


@dataclass
class Speed:
    """How long the steps took; no part of the store."""

    items: int = 0
    encoded: int = 0
    """Contents, in this run."""
    saved: int = 0
    """Rows written, to parts and to the store."""
    seconds: float = 0.0
    """From the first item to the last."""
    read_seconds: float = 0.0
    """Reading, hashing, decoding and resizing, or tokenizing: summed over processes."""
    tower_seconds: float = 0.0
    """Transfer and inference: summed over threads and devices."""
    write_seconds: float = 0.0
    """Saving parts, and the store itself."""

    def __str__(self) -> str:
        steps = (
            ("read", self.items, self.read_seconds),
            ("encode", self.encoded, self.tower_seconds),
            ("save", self.saved, self.write_seconds),
        )
        return ", ".join(f"{name} {count / seconds:,.0f}/s" for name, count, seconds in steps if count and seconds)

    def report(self) -> dict[str, int | float]:
        """Seconds by step, and rates: of a process that reads, of a tower, of the whole."""
        rates = {
            "read_per_second": self.items / max(self.read_seconds, 1e-9),
            "encoded_per_second_of_a_tower": self.encoded / max(self.tower_seconds, 1e-9),
            "items_per_second": self.items / max(self.seconds, 1e-9),
        }
        return asdict(self) | {name: round(rate, 3) for name, rate in rates.items()}


@dataclass(frozen=True)
class Outcome:
    """What encoding did."""

    counts: dict[str, int]
    """items, ok, missing, corrupt, duplicates (items whose content another one has), for texts truncated, and encoded
    and copied (distinct contents; they depend on what was there before)."""
    speed: Speed


def encode(
    path: Path,
    items: pa.Table,
    engine: Engine,
    *,
    modality: Modality,
    dataset: str,
    encoder_name: str,
    progress: Progress | None = None,
) -> Outcome:
    """Brings the store of vectors at `path` up to date with `items` (columns item, and image or text), by `engine`.

    A text of white space alone is a missing one. Raises FeatureError when ids are repeated, null or no strings, and
    what the engine raises; the store is then what it was, and what was encoded is taken up by the next run.
    """
    check_ids(items["item"], "the item table")
    items = _cleaned(items.select(["item", modality]), modality).sort_by("item")
    metadata = _metadata(items, engine.about, modality, dataset, encoder_name)
    contents = _Contents(modality, engine.about.dimension)
    contents.add_store(path, metadata)
    before = frozenset(contents)
    parts = _Parts(path, metadata)
    parts.take_up(contents)
    start, speed, rows = time.perf_counter(), Speed(), {}
    for piece in engine.run(items, frozenset(contents)):
        rows |= {row.item: row for row in piece.rows}
        new = contents.add(piece)
        writing = time.perf_counter()
        speed.saved += parts.save(contents, new)
        speed.write_seconds += time.perf_counter() - writing
        speed.items, speed.encoded = len(rows), speed.encoded + len(new)
        speed.read_seconds += piece.prepare_seconds
        speed.tower_seconds += piece.tower_seconds
        if progress is not None:
            progress(len(rows), len(items), str(speed))
    writing = time.perf_counter()
    ordered = [rows[item] for item in items["item"].to_pylist()]
    tables.write_table(path, _table(ordered, contents), metadata, plain=("vector",))
    parts.remove()
    speed.saved += len(ordered)
    speed.write_seconds += time.perf_counter() - writing
    speed.seconds = time.perf_counter() - start
    return Outcome(_counts(ordered, contents, before), speed)


def _cleaned(items: pa.Table, modality: Modality) -> pa.Table:
    references = items[modality].cast(pa.string())
    if modality == "text":
        references = pc.if_else(pc.equal(pc.utf8_trim_whitespace(references), ""), None, references)
    return items.set_column(1, modality, references)


def _metadata(items: pa.Table, about: About, modality: Modality, dataset: str, encoder_name: str) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset,
        "modality": modality,
        "encoder": encoder_name,
        "encoder_identity": identity_text(about.identity),
        "preprocessing": about.preprocessing,
        "normalised": str(about.normalise).lower(),
        "precision": about.precision,
        "dimension": str(about.dimension),
        "items_sha256": sha256(json.dumps(items.to_pydict(), ensure_ascii=False).encode()).hexdigest(),
    }


IDENTITY = (
    "schema_version", "modality", "encoder_identity", "preprocessing", "normalised", "precision", "dimension"
)  # fmt: skip
"""Metadata that must be equal for a vector to be copied: with the content's hash, all that it depends on."""


class _Contents:
    """Vectors and columns of EXTRAS by their content's hash."""

    def __init__(self, modality: Modality, dimension: int) -> None:
        self.modality, self.dimension = modality, dimension
        self._place: dict[str, int] = {}
        self._blocks: list[Float[np.ndarray, "n d"]] = [np.zeros((0, dimension), np.float32)]
        self._extras: dict[str, list[Any]] = {name: [] for name in EXTRAS[modality].names}

    def __contains__(self, digest: str) -> bool:
        return digest in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def add(self, piece: Piece) -> list[str]:
        """Takes in what a piece encoded, and returns the hashes that were new."""
        new = [row for row, digest in enumerate(piece.digests) if digest not in self._place]
        digests = [piece.digests[row] for row in new]
        if digests:
            extras = [piece.extras[digest] for digest in digests] if self._extras else []
            self._append(digests, piece.vectors[new], {name: [e[name] for e in extras] for name in self._extras})
        return digests

    def add_store(self, path: Path, metadata: Mapping[str, str]) -> bool:
        """Takes in a store's vectors if it was made in the same way; says so if it was not, or is unreadable."""
        if not path.exists():
            return False
        try:
            table = tables.read_table(path)
            found = metadata_of(table)
            if any(found.get(key) != metadata[key] for key in IDENTITY):
                log.info("%s: made by another encoder or preprocessing, all of it is encoded again", path)
                return False
            table = table.select(["vector", "source_sha256", *self._extras]).filter(table["vector"].is_valid())
            x_nd, digests = vectors(table["vector"]), table["source_sha256"].to_pylist()
            first = list({digest: row for row, digest in reversed(list(enumerate(digests)))}.values())
            first = [row for row in first if digests[row] not in self._place]
            columns = {name: table[name].to_pylist() for name in self._extras}
            extras = {name: [column[row] for row in first] for name, column in columns.items()}
            self._append([digests[row] for row in first], x_nd[first], extras)
        except (DataError, pa.ArrowException, KeyError, ValueError, OSError) as error:
            log.warning("%s: unreadable (%s), all of it is encoded again", path, error)
            return False
        return True

    def _append(self, digests: list[str], vectors_nd: Float[np.ndarray, "n d"], extras: dict[str, list[Any]]) -> None:
        start = len(self._place)
        self._place |= {digest: start + row for row, digest in enumerate(digests)}
        self._blocks.append(vectors_nd)
        for name, values in extras.items():
            self._extras[name] += values

    def extra(self, name: str, digest: str) -> Any:
        """The column `name` of a hash that is known."""
        return self._extras[name][self._place[digest]]

    def columns(self, digests: Sequence[str | None]) -> dict[str, Any]:
        """The columns vector and EXTRAS of `digests`; null where nothing is known."""
        place_I = np.array([self._place.get(digest, -1) for digest in digests], dtype=np.int64)
        present_I = place_I >= 0
        x_Ic = np.zeros((len(digests), self.dimension), np.float32)
        # Block by block: to join them for each part would copy all that is known, thousands of times.
        starts = np.cumsum([0, *map(len, self._blocks)])
        block_I = np.searchsorted(starts, place_I, side="right") - 1
        rows_P = np.flatnonzero(present_I)
        rows_P = rows_P[np.argsort(block_I[rows_P], kind="stable")]
        for rows in np.split(rows_P, np.flatnonzero(np.diff(block_I[rows_P])) + 1) if len(rows_P) else ():
            block = block_I[rows[0]]
            x_Ic[rows] = self._blocks[block][place_I[rows] - starts[block]]
        extras = {
            name: [values[place] if place >= 0 else None for place in place_I.tolist()]
            for name, values in self._extras.items()
        }
        return {"vector": vector_column(x_Ic, present_I), **extras}


class _Parts:
    """Vectors of a run that is not at its end, in files beside the store: a killed run's are taken up by the next."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._folder = path.with_name(f"{path.stem}.parts")
        self._metadata = {key: metadata[key] for key in IDENTITY}
        self._unsaved: list[str] = []
        self._number = 0

    def take_up(self, contents: _Contents) -> None:
        """Adds what an earlier run saved, if it was made in the same way; what was not is removed."""
        for path in sorted(self._folder.glob("*.parquet")):
            if not contents.add_store(path, self._metadata):
                path.unlink()
                continue
            self._number = int(path.stem) + 1
        if self._number:
            log.info("taking up %s", self._folder)

    def save(self, contents: _Contents, digests: list[str]) -> int:
        """Notes what was encoded, and writes a part when there is enough of it; returns how much it wrote."""
        self._unsaved += digests
        if len(self._unsaved) < PART:
            return 0
        rows = [Row(digest, sha256=digest) for digest in self._unsaved]
        path = self._folder / f"{self._number:06d}.parquet"
        tables.write_table(path, _table(rows, contents), self._metadata, plain=("vector",))
        self._unsaved, self._number = [], self._number + 1
        return len(rows)

    def remove(self) -> None:
        """Forgets the parts: the store holds it all."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _table(rows: Sequence[Row], contents: _Contents) -> pa.Table:
    columns = {
        "item": [row.item for row in rows],
        "status": [row.status for row in rows],
        "reason": [row.reason for row in rows],
        "source_sha256": [row.sha256 for row in rows],
        **contents.columns([row.sha256 if row.status == "ok" else None for row in rows]),
    }
    return pa.table(columns, schema=schema(contents.modality, contents.dimension))


def _counts(rows: Sequence[Row], contents: _Contents, before: frozenset[str]) -> dict[str, int]:
    status = Counter(row.status for row in rows)
    used = {row.sha256 for row in rows if row.status == "ok"}
    counts = {"items": len(rows), "ok": status["ok"], "missing": status["missing"], "corrupt": status["corrupt"]}
    if contents.modality == "text":
        counts["truncated"] = sum(contents.extra("truncated", row.sha256) for row in rows if row.status == "ok")
    counts["duplicates"] = status["ok"] - len(used)
    return {**counts, "encoded": len(used - before), "copied": len(used & before)}
