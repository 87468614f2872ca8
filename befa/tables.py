"""Files written whole or not at all, with the same bytes for the same content."""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from befa.errors import DataError
from befa.paths import stage_of


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it over `path` when the block ends well.

    After an error or a kill, `path` is what it was before; the half-written file is removed (after a kill, by the
    next try). Two processes of one machine that write to one `path` do not meet: the later one's file stays. Its
    rights are those of a new file, whatever the library chose that wrote it: safetensors' are for nobody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f"{escape(path.name)}.*.part"):
        if not _alive(part.suffixes[-2]):
            part.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch()  # to see what rights a new file has: the umask can only be read by setting it, for all threads
        rights = stat.S_IMODE(part.stat().st_mode)
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.chmod(rights)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Raises OSError where nothing can be written in `folder`, there or to be made: now, not after hours of work."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    TemporaryFile(dir=there).close()


def _alive(suffix: str) -> bool:
    """Whether the process whose number is in ".<number>" runs, as far as can be told."""
    try:
        os.kill(int(suffix[1:]), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def write_table(
    path: Path, table: pa.Table, metadata: Mapping[str, str] | None = None, *, plain: Sequence[str] = ()
) -> None:
    """Writes Parquet (zstd), `metadata` into the schema. No clock or path goes in: same table, same bytes.

    The columns `plain` are stored as they are, without looking for repetitions: ten times as fast, for vectors.
    """
    # Metadata that came with the input (pandas' index description, say) is replaced, so it cannot leak in.
    table = table.replace_schema_metadata(dict(sorted((metadata or {}).items())))
    with whole(path) as part:
        others = [name for name in table.column_names if name not in plain]
        pq.write_table(
            table,
            part,
            compression={name: "none" if name in plain else "zstd" for name in table.column_names},
            use_dictionary=others,
            write_statistics=others,
            store_schema=True,
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads Parquet. Raises DataError when the file is absent, broken, or lacks a column."""
    try:
        # Not pq.read_table: it loads pyarrow.dataset and pandas, a second that every stage would wait for.
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            absent = [name for name in columns or () if name not in present]
            if absent:
                raise DataError(f"no column {absent[0]!r}", where=path, mend=f"it has {', '.join(present)}")
            return file.read(columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise DataError("no such file", where=path, mend=f"run `dvc repro {stage_of(path)}`") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({error})", where=path, mend="run its stage again") from None


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with a final newline; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON. Raises DataError when the file is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=path, mend=f"run `dvc repro {stage_of(path)}`") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise DataError(f"not valid JSON ({error})", where=path, mend="run its stage again") from None
