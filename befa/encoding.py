"""Encoding on one device: chunks of prepared contents become batches of one shape, and these become vectors.

Reading, the tower and whoever writes the results work at the same time: processes read ahead, a thread holds the tower,
and the caller has the results of one batch while the next is computed.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from befa.config import configuration
from befa.encoders.base import Encoder
from befa.errors import FeatureError
from befa.feature_store import Modality, has_direction
from befa.images import ImageFiles
from befa.parallel import ordered
from befa.preparing import Chunk, Reader, Row, chunks


@configuration
class EncodeConfig:
    """Block `encode` of params.yaml: where encoding is done. No vector depends on it, but for a device's rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read and decode beside each tower; null: one for each CPU that is left."""
    engine: Literal["local", "ray"] = "local"
    """local: one device. ray: a cluster, or all GPUs of this machine (needs the extra `ray`)."""
    address: str | None = None
    """Of the Ray cluster ("ray://host:10001", "host:6379"); null: the environment's RAY_ADDRESS, or this machine."""
    partitions: Annotated[int, Field(ge=1)] | None = None
    """At most so many on the Ray cluster; null: one for each GPU, or without any for each CPU."""


@dataclass(frozen=True)
class About:
    """What the vectors of an encoder depend on beside their contents."""

    identity: Mapping[str, str]
    preprocessing: str
    dimension: int
    normalise: bool
    precision: str

    @classmethod
    def of(cls, encoder: Encoder, modality: Modality) -> "About":
        """What `encoder` says of itself."""
        preprocessing = encoder.preprocessing if modality == "image" else encoder.text_preprocessing
        return cls(
            dict(encoder.identity), preprocessing, encoder.dimension, encoder.normalise, encoder.precision
        )  # fmt: skip


@dataclass
class Piece:
    """A step of the work: items that were read since the last one, and contents that were encoded."""

    rows: list[Row] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    vectors: Float[np.ndarray, "n d"] | None = None
    """Row by row those of `digests`; None without any."""
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    prepare_seconds: float = 0.0
    tower_seconds: float = 0.0


@runtime_checkable
class Engine(Protocol):
    """Where encoding is done: here (LocalEngine), or on a cluster (ray_engine.RayEngine)."""

    about: About

    def run(self, items: pa.Table, known: frozenset[str]) -> Iterator[Piece]:
        """Reads `items` (item, reference) and encodes their contents, but not those whose hash is `known`."""
        ...


@dataclass
class _Batch:
    piece: Piece
    tensor: Tensor | None = None


@dataclass
class _Line:
    """Contents of one shape that wait for a batch."""

    digests: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)

    def batch(self, size: int, piece: Piece) -> _Batch:
        """The first `size` in line, who leave it; padded by the first of them where they are too few."""
        rows = torch.cat(self.tensors)
        piece.digests, self.digests = self.digests[:size], self.digests[size:]
        piece.extras = {digest: self.extras.pop(digest) for digest in piece.digests if digest in self.extras}
        batch, self.tensors = rows[:size], [rows[size:]]
        padding = size - len(batch)
        return _Batch(piece, torch.cat([batch, batch[:1].expand(padding, *batch.shape[1:])]) if padding else batch)


class LocalEngine:
    """Encodes on the encoder's device.

    Batches have `batch_size` rows, the last ones padded, and texts of one length: a vector thus depends neither on
    its neighbours in a batch nor on the order of items. `workers` processes read and decode (see preparing.chunks).
    """

    def __init__(
        self,
        encoder: Encoder,
        modality: Modality,
        files: ImageFiles | None = None,
        *,
        batch_size: int,
        workers: int | None = 0,
    ) -> None:
        self.about = About.of(encoder, modality)
        self._encoder, self._modality, self._files = encoder, modality, files if modality == "image" else None
        self._batch_size, self._workers = batch_size, workers

    def run(self, items: pa.Table, known: frozenset[str]) -> Iterator[Piece]:
        """See Engine. Raises FeatureError for vectors that are zero or not finite, and when a reading process dies."""
        pairs = list(zip(*items.to_pydict().values(), strict=True))
        reader = Reader(self._modality, self._encoder, self._files, known)
        batches = self._batches(chunks(reader, pairs, self._batch_size, self._workers))
        # On a GPU two threads: one queues its batch while the other waits for its results.
        return ordered(self._encoded, batches, threads=1 if self._encoder.device.type == "cpu" else 2)

    def _batches(self, read: Iterable[Chunk]) -> Iterator[_Batch]:
        """Lines contents up by shape; every chunk's rows are handed on at once, with a batch or without."""
        lines: dict[tuple[int, ...], _Line] = {}
        seen: set[str] = set()
        for chunk in read:
            piece = Piece(chunk.rows, prepare_seconds=chunk.seconds)
            for shape, (digests, tensor) in chunk.lines.items():
                new = [row for row, digest in enumerate(digests) if digest not in seen]
                seen.update(digests)
                line = lines.setdefault(shape, _Line())
                line.digests += [digests[row] for row in new]
                line.tensors.append(tensor if len(new) == len(digests) else tensor[new])
                line.extras |= {digest: chunk.extras[digest] for digest in digests if digest in chunk.extras}
                while len(line.digests) >= self._batch_size:
                    yield line.batch(self._batch_size, piece)
                    piece = Piece()
            yield _Batch(piece)
        for line in lines.values():
            while line.digests:
                yield line.batch(self._batch_size, Piece())

    def _encoded(self, batch: _Batch) -> Piece:
        piece = batch.piece
        if batch.tensor is None:
            return piece
        start = time.perf_counter()
        tower = self._encoder.encode_images if self._modality == "image" else self._encoder.encode_texts
        tensor = batch.tensor.pin_memory() if self._encoder.device.type == "cuda" else batch.tensor
        piece.vectors = tower(tensor)[: len(piece.digests)].numpy()
        piece.tower_seconds = time.perf_counter() - start
        broken = ~has_direction(piece.vectors)
        if broken.any():
            raise FeatureError(
                f"the encoder gives {broken.sum()} of {len(broken)} {self._modality} vectors that are not finite "
                "or zero",
                mend="train the encoder again, or name other weights",
            )
        return piece
