"""A trained run at work: recommendations on the terminal or in a file, and its vectors for other systems."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from befa import config, tables
from befa.cell_names import cell_stage
from befa.cells import Cell
from befa.errors import ConfigError, DataError, nearest
from befa.paths import Layout
from befa.recommendation import SCHEMA, TrainedRun
from pipelines import item_lists
from pipelines.item_lists import Ranked, describer
from pipelines.progress import progress

log = logging.getLogger(__name__)

Write = Callable[[pa.Table], None]


def folder_of(layout: Layout, run: Path | None, names: Mapping[str, str | None]) -> Path:
    """The folder of a run, itself given or named by dataset, encoder, model and adapter.

    Raises ConfigError unless there is exactly one of the two, or for an unknown name, DataError for a run that is not
    there.
    """
    given = [name for name in names.values() if name is not None]
    if bool(given) == (run is not None) or (given and len(given) < len(names)):
        options = ", ".join(f"--{name}" for name in names)
        raise ConfigError("no one run is named", mend=f"give either --run, or all of {options}")
    folder = layout.run(*given) if run is None else run
    if not layout.configuration(folder).is_file():
        parts = folder.parts[-len(names) :]
        if len(parts) < len(names) or folder.resolve() != layout.run(*parts).resolve():
            mend = f"name a folder such as {layout.run('<dataset>', '<encoder>', '<model>', '<adapter>')}"
            raise DataError("no trained run", where=folder, mend=mend)
        Cell.from_params(config.read_params(layout.params), *parts)  # a misspelt name is told first
        raise DataError("no trained run", where=folder, mend=f"run dvc repro {cell_stage('train', *parts)}")
    return folder


def users_in(path: Path) -> list[str]:
    """Raw user ids from a file, one a line. Raises ConfigError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"users cannot be read ({error.strerror})", where=path, mend="name a text file") from None
    except UnicodeDecodeError:
        raise ConfigError("not a text in UTF-8", where=path, mend="write one raw user id a line") from None
    users = [line.strip() for line in lines if line.strip()]
    if not users:
        raise ConfigError("no user is named", where=path, mend="write one raw user id a line")
    return users


def show(
    layout: Layout, folder: Path, users: Sequence[str], *, k: int, seed: int | None = None, include_known: bool = False
) -> None:
    """Prints the `k` best items of each user as a table. Raises what `TrainedRun` raises."""
    if not users:
        raise ConfigError("no user is named", mend="give --user or --users, or --output for the lists of all users")
    run, users = _opened(layout, folder, seed), list(dict.fromkeys(users))
    cell, described = run.cell, describer(layout, run.cell.dataset)
    chunks = run.recommend(run.rows(users), k, include_known=include_known)
    found = [row for chunk in chunks for row in described(chunk).to_pylist()]
    by = f"{cell.model}+{cell.adapter}, {cell.dataset}, {cell.encoder} features, seed {run.seed}"
    for user in users:
        rows = (Ranked(*(row[name] for name in Ranked._fields)) for row in found if row["user"] == user)
        item_lists.show(f"For user {user}, by {by}", "score", rows)


def write(
    layout: Layout,
    folder: Path,
    output: Path,
    users: Sequence[str] = (),
    *,
    k: int,
    seed: int | None = None,
    include_known: bool = False,
) -> int:
    """Writes the lists of `users`, or of all that training has seen, to `output`; returns how many users they are of.

    Columns: those of recommendation.SCHEMA, title and picture. Users are taken some at a time, so memory does not grow
    with them. Raises ConfigError for an unknown suffix, and what `TrainedRun` raises.
    """
    if output.suffix not in WRITERS:
        raise ConfigError(
            f"unknown kind of file {output.suffix!r}", where=output, mend=nearest(output.suffix, WRITERS)
        )  # fmt: skip
    run = _opened(layout, folder, seed)
    rows = run.rows(list(dict.fromkeys(users))) if users else run.known_users
    chunks, done = run.recommend(rows, k, include_known=include_known), 0
    described = describer(layout, run.cell.dataset)
    schema = pa.schema([*SCHEMA, ("title", pa.string()), ("picture", pa.string())], metadata=run.about)
    with (
        tables.whole(output) as part,
        WRITERS[output.suffix](part, schema) as write_rows,
        progress("recommend", "users") as report,
    ):
        for chunk in chunks:
            write_rows(described(chunk).cast(schema))
            done += len(pc.unique(chunk["user"]))
            report(done, len(rows))
    return len(rows)


def export(layout: Layout, folder: Path, output: Path, *, seed: int | None = None) -> tuple[int, int]:
    """Writes users.parquet and items.parquet into `output`, both or none; returns how many of each.

    Their metadata say what made them. Raises TrainingError for a model without vectors; see `TrainedRun.vectors`.
    """
    users_path, items_path = output / "users.parquet", output / "items.parquet"
    if output.exists() and not output.is_dir():
        raise ConfigError("the output is a file", where=output, mend="name a folder")
    for path in (users_path, items_path):
        if path.is_dir():
            raise ConfigError("a folder is where a file is to be", where=path, mend="remove it, or name another output")
    run = _opened(layout, folder, seed)
    users, items = run.vectors()
    about = run.about | {"score": "dot product of a user's and an item's vector"}
    with tables.whole(users_path) as users_part, tables.whole(items_path) as items_part:
        tables.write_table(users_part, users, about)
        tables.write_table(items_part, items, about)
    return len(users), len(items)


def _opened(layout: Layout, folder: Path, seed: int | None) -> TrainedRun:
    run = TrainedRun.open(layout, folder, seed)
    torch.set_num_threads(run.cell.training.threads)  # as evaluation: the same sums
    return run


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path, schema: pa.Schema) -> Iterator[Write]:
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _json(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """One array of objects, a line each."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"

        def write_rows(table: pa.Table) -> None:
            nonlocal before
            for row in table.to_pylist():
                file.write(before + json.dumps(row, ensure_ascii=False))
                before = ",\n"

        yield write_rows
        file.write("\n]\n" if before == ",\n" else "[]\n")


WRITERS: Mapping[str, Callable[[Path, pa.Schema], AbstractContextManager[Write]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
}
