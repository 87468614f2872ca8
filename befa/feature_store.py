"""The feature store: one Parquet file per dataset, encoder and modality, joined by item id.

Columns: item (raw id), vector (float32 numbers, little-endian, as bytes of one width; null where there is none), status
(ok, missing, corrupt), reason, source_sha256, and for text n_tokens and truncated. As bytes, vectors are read and
written several times as fast as lists of numbers; elsewhere: `numpy.frombuffer(vector, "<f4")`. The file's metadata say
what made it. features.py writes what an encoder makes, `write_given` what came as vectors.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float32, Num

from befa import tables
from befa.errors import DataError, FeatureError

SCHEMA_VERSION = "2"

Modality = str
"""image, text, or one whose vectors were made elsewhere ("audio")."""

ENCODED = ("image", "text")
"""Modalities that encoders of this project make."""

GIVEN = "given"
"""What stands for the encoder of vectors made elsewhere."""

EXTRAS: Mapping[Modality, pa.Schema] = {
    "image": pa.schema([]),
    "text": pa.schema([("n_tokens", pa.int32()), ("truncated", pa.bool_())]),
}
"""Columns that a modality has of its own."""


def schema(modality: Modality, dimension: int) -> pa.Schema:
    """Columns of a store of vectors `dimension` wide."""
    columns = [("item", pa.string()), ("vector", pa.binary(4 * dimension)), ("status", pa.string())]
    extras = EXTRAS.get(modality, ())
    return pa.schema([*columns, ("reason", pa.string()), ("source_sha256", pa.string()), *extras])


def vector_column(x_Ic: Float32[np.ndarray, "I c"], present_I: Bool[np.ndarray, " I"]) -> pa.FixedSizeBinaryArray:
    """The column `vector` of a store: rows of `x_Ic`, null where they are not present."""
    values = np.ascontiguousarray(x_Ic, dtype="<f4")
    mask = pa.array(present_I).buffers()[1]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(4 * x_Ic.shape[1]), len(values), [mask, pa.py_buffer(values)]
    )  # fmt: skip


def vectors(column: pa.ChunkedArray) -> Float32[np.ndarray, "n c"]:
    """The rows of a store's column `vector` as a matrix; those that are null hold anything. Read-only."""
    parts = [np.zeros((0, column.type.byte_width // 4), "<f4")]
    for chunk in column.chunks:
        width = chunk.type.byte_width // 4
        data = np.frombuffer(chunk.buffers()[1], "<f4", len(chunk) * width, 4 * chunk.offset * width)
        parts.append(data.reshape(len(chunk), width))
    return parts[1] if len(parts) == 2 else np.concatenate(parts)


def stage(dataset: str, encoder: str, modality: Modality) -> str:
    """The stage that makes a store."""
    return f"encode_{modality}s@{dataset}-{encoder}" if modality in ENCODED else f"media@{dataset}"


def write_given(
    path: Path,
    items: pa.ChunkedArray,
    ids: Sequence[str],
    values: Float[np.ndarray, "n c"],
    *,
    dataset: str,
    modality: Modality,
) -> dict[str, int]:
    """Writes a store of vectors made elsewhere, one row for each of `items`; returns the coverage.

    Items without a row in `ids` are missing; rows that are not finite or of length zero are recorded as corrupt. Raises
    FeatureError when ids are repeated.
    """
    check_ids(pa.chunked_array([pa.array(ids, pa.string())]), f"the ids of {modality!r}")
    items = items.combine_chunks().sort()
    row_I = pc.index_in(items, value_set=pa.array(ids, pa.string()))
    known_I = row_I.is_valid().to_numpy(zero_copy_only=False)
    found_Ic = np.zeros((len(items), values.shape[1]), np.float32)
    found_Ic[known_I] = values[row_I.drop_null().to_numpy()]
    usable_I = known_I & has_direction(found_Ic)
    found_Ic[~usable_I] = 0
    status = np.where(usable_I, "ok", np.where(known_I, "corrupt", "missing"))
    reason = [
        None if ok else "not finite, or zero" if known else "no vector"
        for ok, known in zip(usable_I, known_I, strict=True)
    ]
    columns = {
        "item": items,
        "vector": vector_column(found_Ic, usable_I),
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
        "source_sha256": [
            sha256(x.tobytes()).hexdigest() if ok else None for x, ok in zip(found_Ic, usable_I, strict=True)
        ],
    }
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset,
        "modality": modality,
        "encoder": GIVEN,
        "dimension": str(values.shape[1]),
    }
    table = pa.table(columns, schema=schema(modality, values.shape[1]))
    tables.write_table(path, table, metadata, plain=("vector",))
    counts = {name: int((status == name).sum()) for name in ("ok", "missing", "corrupt")}
    return {"items": len(items), **counts, "dimension": values.shape[1]}


class FeatureStore:
    """The vectors of one dataset, encoder and modality, read from `path`."""

    def __init__(self, path: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.dimension = int(metadata["dimension"])
        """Width of the vectors."""
        self.identity = dict(metadata)
        """Everything that the file says of how it was made."""
        self._table = table
        self._stage = stage(metadata["dataset"], metadata["encoder"], metadata["modality"])

    @classmethod
    def open(cls, path: Path, *, dataset: str, encoder: str, modality: Modality) -> "FeatureStore":
        """Raises FeatureError when the store is absent, broken, or of another dataset, encoder or modality."""
        mend = f"run dvc repro {stage(dataset, encoder, modality)}"
        try:
            table = tables.read_table(path, ["item", "vector"])
            metadata = metadata_of(table)
        except DataError as error:
            raise FeatureError(error.what, where=path, mend=mend) from None
        wanted = {"schema_version": SCHEMA_VERSION, "dataset": dataset, "encoder": encoder, "modality": modality}
        for key, value in wanted.items():
            if metadata.get(key) != value:
                found = repr(metadata[key]) if key in metadata else "not stated"
                raise FeatureError(f"{key} is {found}, not {value!r}", where=path, mend=mend)
        check_ids(table["item"], path)
        kind = table["vector"].type
        width = kind.byte_width // 4 if pa.types.is_fixed_size_binary(kind) else None
        if str(width) != metadata.get("dimension"):
            raise FeatureError(f"vectors are {width} wide, not {metadata.get('dimension')}", where=path, mend=mend)
        return cls(path, table, metadata)

    def aligned(
        self, items: Sequence[str], *, max_missing: float
    ) -> tuple[Float[np.ndarray, "I c"], Bool[np.ndarray, " I"]]:
        """The vectors of `items` in their order, joined by id, and which of them are present.

        Rows of absent items are NaN: used without the mask, they are seen. Raises FeatureError when more than the
        share `max_missing` is absent, and when a vector is not finite or of length zero (a cosine would be NaN).
        """
        rows = pc.index_in(pa.array(items, pa.string()), value_set=self._table["item"])
        column = self._table["vector"]
        present_I = column.is_valid().take(rows).fill_null(False).to_numpy()
        x_Ic = np.full((len(items), self.dimension), np.nan, dtype=np.float32)
        x_Ic[present_I] = vectors(column)[rows.to_numpy(zero_copy_only=False)[present_I].astype(np.int64)]
        share = 1 - present_I.mean() if len(items) else 0.0
        if share > max_missing:
            raise FeatureError(
                f"{share:.1%} of items have no vector (allowed {max_missing:.1%})",
                where=self.path,
                mend=f"run dvc repro {self._stage} or raise features.{self.identity['dataset']}.max_missing; "
                f"first absent: {items[int(np.argmin(present_I))]}",
            )
        broken_I = present_I & ~has_direction(x_Ic)
        if broken_I.any():
            first = items[int(np.argmax(broken_I))]
            raise FeatureError(
                f"{broken_I.sum()} vectors are not finite or zero (first: item {first})",
                where=self.path,
                mend=f"remove the file and run dvc repro {self._stage}",
            )
        return x_Ic, present_I


def has_direction(x_nc: Num[np.ndarray, "n c"]) -> Bool[np.ndarray, " n"]:
    """Which rows are finite and not zero, so that they have a cosine with others."""
    return np.isfinite(x_nc).all(1) & (x_nc != 0).any(1)


def identity_text(identity: Mapping[str, str]) -> str:
    """An encoder's identity as a store's metadata have it."""
    return json.dumps(dict(identity), sort_keys=True)


def metadata_of(table: pa.Table) -> dict[str, str]:
    """The metadata of a table's schema as text."""
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def check_ids(ids: pa.ChunkedArray, where: object) -> None:
    """Raises FeatureError unless `ids` are strings, none null and none twice."""
    if ids.type != pa.string():
        raise FeatureError(
            f"item ids are {ids.type}: an id was read as a number or category, and leading zeros are lost",
            where=where,
            mend="read ids as strings",
        )
    if ids.null_count:
        raise FeatureError(f"{ids.null_count} items have no id", where=where, mend="drop or mend these rows")
    repeated = len(ids) - pc.count_distinct(ids).as_py()
    if repeated:
        raise FeatureError(f"{repeated} item ids occur more than once", where=where, mend="keep one row per item")
