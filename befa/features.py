"""Filling the feature store: one Parquet file per dataset, encoder and modality; only what is new is encoded.

A vector's identity is the hash of its content, the encoder, the preprocessing, the normalisation and the precision. A
re-run copies the rows whose identity is known and encodes the others, equal contents once. Batches have a fixed shape
(the last is padded), so that a vector does not depend on its neighbours in a batch: items in any order, and in any
number of runs, give the same bytes on one machine. What is encoded is saved in parts as the work goes on, so a killed
run loses at most one of them. The file says in its metadata what made it, and nothing of when,
where, or by which host.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from befa import tables
from befa.errors import DataError, FeatureError
from befa.feature_store import EXTRAS, SCHEMA_VERSION, FeatureStore, Modality, check_ids, metadata_of, schema
from befa.images import CorruptImage, ImageFiles, MissingImage, decode

__all__ = ["Encoder", "FeatureStore", "encode_images", "encode_texts"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@runtime_checkable
class Encoder(Protocol):
    """What the store needs of an encoder; see encoders.open_clip."""

    modalities: Sequence[str]
    """Which of image and text it encodes."""
    identity: Mapping[str, str]
    preprocessing: str
    dimension: int
    normalise: bool
    precision: str

    def preprocess(self, picture: Image.Image) -> Float[Tensor, "3 H W"]:
        """A picture as the tower takes it."""
        ...

    def encode_images(self, pixels_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Image vectors, on the CPU."""
        ...

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
        """Token ids, numbers of tokens, and which texts were cut."""
        ...

    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Text vectors, on the CPU."""
        ...


def encode_images(
    path: Path,
    items: pa.Table,
    files: ImageFiles,
    encoder: Encoder,
    *,
    dataset: str,
    encoder_name: str,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Brings the store of image vectors at `path` up to date with `items` (columns item, image).

    `progress` is called with items done and their number. Returns the coverage: items, ok, missing, corrupt,
    duplicates (items whose content another one has), encoded and copied (distinct contents). The last two depend on
    what was there before. Raises FeatureError when ids are repeated, null or no strings.
    """

    def prepare(content: bytes) -> tuple[Tensor, dict[str, Any]]:
        return encoder.preprocess(decode(content)), {}

    mapper = _Mapper("image", files.read, prepare, encoder.encode_images, encoder.preprocessing)
    return _encode(path, items, mapper, encoder, dataset, encoder_name, batch_size, progress)


def encode_texts(
    path: Path,
    items: pa.Table,
    encoder: Encoder,
    *,
    dataset: str,
    encoder_name: str,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Brings the store of text vectors at `path` up to date with `items` (columns item, text).

    As `encode_images`; the coverage also counts truncated texts.
    """

    def prepare(content: bytes) -> tuple[Tensor, dict[str, Any]]:
        tokens_1L, n_tokens_1, truncated_1 = encoder.tokenize([content.decode()])
        return tokens_1L[0], {"n_tokens": int(n_tokens_1), "truncated": bool(truncated_1)}

    texts = items["text"].cast(pa.string())
    texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    items = items.set_column(items.column_names.index("text"), "text", texts)
    mapper = _Mapper("text", str.encode, prepare, encoder.encode_texts, "tokenizer of the encoder, full context")
    return _encode(path, items, mapper, encoder, dataset, encoder_name, batch_size, progress)


@dataclass(frozen=True)
class _Mapper:
    """What differs between modalities: reading a reference, preparing its content, and the tower."""

    modality: Modality
    read: Callable[[str], bytes]
    prepare: Callable[[bytes], tuple[Tensor, dict[str, Any]]]
    """A content as the tower takes it, and the row's columns of EXTRAS."""
    tower: Callable[[Tensor], Tensor]
    preprocessing: str


@dataclass(frozen=True)
class _Row:
    item: str
    sha256: str | None = None
    status: str = "ok"
    reason: str | None = None


@dataclass
class _Contents:
    """What is known of contents, by their hash."""

    vectors: dict[str, Float[np.ndarray, " c"]] = field(default_factory=dict)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    corrupt: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, Tensor] = field(default_factory=dict)
    """Prepared and not yet encoded."""

    def __contains__(self, digest: str) -> bool:
        return digest in self.vectors or digest in self.corrupt or digest in self.waiting


def _encode(
    path: Path,
    items: pa.Table,
    mapper: _Mapper,
    encoder: Encoder,
    dataset: str,
    encoder_name: str,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, int]:
    """Reads, maps and writes: see `encode_images`."""
    check_ids(items["item"], "the item table")
    items = items.select(["item", mapper.modality]).sort_by("item")
    metadata = _metadata(items, mapper, encoder, dataset, encoder_name)
    contents = _reusable(path, metadata)
    before = set(contents.vectors)
    parts = _Parts(path, metadata)
    parts.take_up(contents)
    rows = []
    for item, reference in zip(*items.to_pydict().values(), strict=True):
        rows.append(_read(item, reference, mapper, contents))
        if len(contents.waiting) == batch_size or len(rows) == len(items):
            parts.save(contents, _flush(contents, mapper, batch_size))
        if progress is not None:
            progress(len(rows), len(items))
    rows = [
        replace(row, status="corrupt", reason=contents.corrupt[row.sha256]) if row.sha256 in contents.corrupt else row
        for row in rows
    ]
    tables.write_table(path, _table(rows, contents, mapper.modality, encoder.dimension), metadata)
    parts.remove()
    return _coverage(rows, contents, before, mapper.modality)


def _metadata(items: pa.Table, mapper: _Mapper, encoder: Encoder, dataset: str, encoder_name: str) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset,
        "modality": mapper.modality,
        "encoder": encoder_name,
        "encoder_identity": json.dumps(dict(encoder.identity), sort_keys=True),
        "preprocessing": mapper.preprocessing,
        "normalised": str(encoder.normalise).lower(),
        "precision": encoder.precision,
        "dimension": str(encoder.dimension),
        "items_sha256": sha256(json.dumps(items.to_pydict(), ensure_ascii=False).encode()).hexdigest(),
    }


IDENTITY = (
    "schema_version", "modality", "encoder_identity", "preprocessing", "normalised", "precision", "dimension"
)  # fmt: skip
"""Metadata that must be equal for a vector to be copied: with the content's hash, all that it depends on."""


def _reusable(path: Path, metadata: Mapping[str, str]) -> _Contents:
    """Vectors of the store at `path`, if it was made in the same way; nothing, with a warning, if it is unreadable."""
    contents = _Contents()
    if not path.exists():
        return contents
    try:
        table = tables.read_table(path)
        found = metadata_of(table)
        if any(found.get(key) != metadata[key] for key in IDENTITY):
            log.info("%s: made by another encoder or preprocessing, all of it is encoded again", path)
            return contents
        columns = [*EXTRAS[metadata["modality"]].names]
        table = table.select(["vector", "source_sha256", *columns]).filter(table["vector"].is_valid())
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for row, digest in enumerate(table["source_sha256"].to_pylist()):
            contents.vectors[digest] = vectors[row]
            contents.extras[digest] = {name: table[name][row].as_py() for name in columns}
    except (DataError, pa.ArrowException, KeyError, ValueError, OSError) as error:
        log.warning("%s: unreadable (%s), all of it is encoded again", path, error)
        return _Contents()
    return contents


def _read(item: str, reference: str | None, mapper: _Mapper, contents: _Contents) -> _Row:
    """One item's row; a content that is not known yet is prepared and put in line."""
    if reference is None:
        return _Row(item, status="missing", reason=f"no {mapper.modality}")
    try:
        content = mapper.read(reference)
    except MissingImage as error:
        return _Row(item, status="missing", reason=error.what)
    except CorruptImage as error:
        return _Row(item, status="corrupt", reason=error.what)
    digest = sha256(content).hexdigest()
    if digest not in contents:
        try:
            contents.waiting[digest], contents.extras[digest] = mapper.prepare(content)
        except CorruptImage as error:
            contents.corrupt[digest] = error.what
    return _Row(item, sha256=digest)


PART = 1024
"""Contents saved at a time."""


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
            found = _reusable(path, self._metadata)
            if not found.vectors:
                path.unlink()
                continue
            contents.vectors |= found.vectors
            contents.extras |= found.extras
            self._number = int(path.stem) + 1
        if self._number:
            log.info("taking up %s", self._folder)

    def save(self, contents: _Contents, digests: list[str]) -> None:
        """Notes what was encoded, and writes a part when there is enough of it."""
        self._unsaved += digests
        if len(self._unsaved) < PART:
            return
        rows = [_Row(digest, sha256=digest) for digest in self._unsaved]
        modality, dimension = self._metadata["modality"], int(self._metadata["dimension"])
        path = self._folder / f"{self._number:06d}.parquet"
        tables.write_table(path, _table(rows, contents, modality, dimension), self._metadata)
        self._unsaved, self._number = [], self._number + 1

    def remove(self) -> None:
        """Forgets the parts: the store holds it all."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _flush(contents: _Contents, mapper: _Mapper, batch_size: int) -> list[str]:
    """Encodes what is in line as one batch of `batch_size` rows, padded by its first row; returns what that was."""
    if not contents.waiting:
        return []
    digests, tensors = list(contents.waiting), list(contents.waiting.values())
    batch = torch.stack(tensors + tensors[:1] * (batch_size - len(tensors)))
    vectors = mapper.tower(batch)[: len(tensors)].numpy()
    broken = ~(np.isfinite(vectors).all(1) & (vectors != 0).any(1))
    if broken.any():
        raise FeatureError(
            f"the encoder gives {broken.sum()} of {len(vectors)} {mapper.modality} vectors that are not finite or zero",
            mend="train the encoder again, or name other weights",
        )
    contents.vectors.update(zip(digests, vectors, strict=True))
    contents.waiting.clear()
    return digests


def _table(rows: Sequence[_Row], contents: _Contents, modality: Modality, dimension: int) -> pa.Table:
    absent_I = np.array([row.sha256 not in contents.vectors for row in rows], dtype=bool)
    flat = np.zeros((len(rows), dimension), dtype=np.float32)
    for place in np.flatnonzero(~absent_I):
        flat[place] = contents.vectors[rows[place].sha256]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), dimension, mask=pa.array(absent_I))
    extras = {name: [contents.extras.get(row.sha256, {}).get(name) for row in rows] for name in EXTRAS[modality].names}
    columns = {
        "item": [row.item for row in rows],
        "vector": vectors,
        "status": [row.status for row in rows],
        "reason": [row.reason for row in rows],
        "source_sha256": [row.sha256 for row in rows],
        **extras,
    }
    return pa.table(columns, schema=schema(modality, dimension))


def _coverage(rows: Sequence[_Row], contents: _Contents, before: set[str], modality: Modality) -> dict[str, int]:
    status = Counter(row.status for row in rows)
    used = {row.sha256 for row in rows if row.status == "ok"}
    counts = {"items": len(rows), "ok": status["ok"], "missing": status["missing"], "corrupt": status["corrupt"]}
    if modality == "text":
        counts["truncated"] = sum(row.status == "ok" and contents.extras[row.sha256]["truncated"] for row in rows)
    counts["duplicates"] = status["ok"] - len(used)
    return {**counts, "encoded": len(used - before), "copied": len(used & before)}
