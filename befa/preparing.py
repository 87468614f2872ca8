"""Reading what is to be encoded: references in, hashes and tensors out, in worker processes beside the tower."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from befa.encoders.base import Encoder
from befa.errors import BefaError, FeatureError, first_line
from befa.feature_store import Modality
from befa.images import CorruptImage, ImageFiles, MissingImage, decode

MOST_WORKERS = 16
"""Decoding processes that are started unasked."""

FEW = 4
"""Chunks that are not worth starting processes for."""


@dataclass(frozen=True)
class Row:
    """What became of an item."""

    item: str
    sha256: str | None = None
    """Of its content: the picture's bytes as they lie there, or the text in UTF-8."""
    status: str = "ok"
    reason: str | None = None


@dataclass
class Chunk:
    """Some items, read: a row for each, and those of their contents that are not known yet, prepared."""

    rows: list[Row] = field(default_factory=list)
    lines: dict[tuple[int, ...], tuple[list[str], Tensor]] = field(default_factory=dict)
    """By the shape of what the tower takes: hashes, and as many tensors, stacked."""
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The columns of feature_store.EXTRAS, by hash."""
    seconds: float = 0.0
    """Of work that it took."""


class Reader:
    """Reads and prepares chunks of (item, reference) pairs; a reference is a picture's (see ImageFiles) or a text."""

    def __init__(self, modality: Modality, encoder: Encoder, files: ImageFiles | None, known: frozenset[str]) -> None:
        self._modality, self._encoder, self._files, self._known = modality, encoder, files, known

    def read(self, pairs: Sequence[tuple[str, str | None]]) -> Chunk:
        """A row for each pair; contents whose hash is known are not decoded, and equal ones once."""
        start, chunk, tensors = time.perf_counter(), Chunk(), {}
        for item, reference in pairs:
            chunk.rows.append(self._row(item, reference, tensors, chunk.extras))
        for shape in sorted({tuple(tensor.shape) for tensor in tensors.values()}):
            digests = [digest for digest, tensor in tensors.items() if tuple(tensor.shape) == shape]
            chunk.lines[shape] = (digests, torch.stack([tensors[digest] for digest in digests]))
        chunk.seconds = time.perf_counter() - start
        return chunk

    def _row(
        self, item: str, reference: str | None, tensors: dict[str, Tensor], extras: dict[str, dict[str, Any]]
    ) -> Row:
        if reference is None:
            return Row(item, status="missing", reason=f"no {self._modality}")
        try:
            content = reference.encode() if self._files is None else self._files.read(reference)
        except MissingImage as error:
            return Row(item, status="missing", reason=error.what)
        except CorruptImage as error:
            return Row(item, status="corrupt", reason=error.what)
        digest = sha256(content).hexdigest()
        if digest not in self._known and digest not in tensors:
            try:
                tensors[digest] = self._prepared(content, digest, extras)
            except CorruptImage as error:
                return Row(item, digest, status="corrupt", reason=error.what)
        return Row(item, digest)

    def _prepared(self, content: bytes, digest: str, extras: dict[str, dict[str, Any]]) -> Tensor:
        if self._files is not None:
            return self._encoder.pixels(decode(content))
        tokens_1L, n_tokens_1, truncated_1 = self._encoder.tokenize([content.decode()])
        n_tokens = int(n_tokens_1)
        extras[digest] = {"n_tokens": n_tokens, "truncated": bool(truncated_1)}
        return tokens_1L[0, : next(length for length in self._encoder.text_lengths if length >= n_tokens)]


def chunks(reader: Reader, pairs: Sequence[tuple[str, str | None]], size: int, workers: int | None) -> Iterator[Chunk]:
    """The chunks of `size` pairs, in their order, read by `workers` processes ahead of their use.

    `workers`: 0 reads in this process; None takes one for each CPU but one, and none for little work. Raises
    FeatureError when a process dies, and whatever BefaError one of them meets.
    """
    parts = _Parts(reader, pairs, size)
    if workers is None:
        workers = 0 if len(parts) < FEW else min(len(os.sched_getaffinity(0)) - 1, MOST_WORKERS)
    loader = DataLoader(
        parts,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # its own: else the loader draws from torch's global one
        # Python 3.14 would start processes anew and send each the encoder, on a GPU with memory of its own there.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    try:
        for chunk in loader:
            if isinstance(chunk, BefaError):
                raise chunk
            yield chunk
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise FeatureError(
            f"a process that reads {reader._modality}s died ({first_line(error)})",
            mend="it may have had too little memory or room in /dev/shm: run again (what is encoded is kept), with "
            "encode.workers: 0 in params.yaml",
        ) from None


class _Parts(Dataset):
    """The pairs as a loader takes them: by chunk."""

    def __init__(self, reader: Reader, pairs: Sequence[tuple[str, str | None]], size: int) -> None:
        self._reader, self._pairs, self._size = reader, pairs, size

    def __len__(self) -> int:
        return -(-len(self._pairs) // self._size)

    def __getitem__(self, number: int) -> Chunk | BefaError:
        try:
            return self._reader.read(self._pairs[number * self._size : (number + 1) * self._size])
        except BefaError as error:
            return error  # raised in a worker, it would come back as another one's text


def _as_it_is(chunk: Chunk | BefaError) -> Chunk | BefaError:
    return chunk
