"""Whether DVC's cache holds what its names say, which DVC itself does not look at once a file is in there.

DVC takes a read-only object of its cache for whole (treeverse/dvc#5978) and has no command that looks again
(treeverse/dvc#9561): one that a disk or a hand has changed is checked out, trained on and pushed without a word.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile import load
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from befa.errors import ConfigError, DataError
from pipelines.graph import named


@dataclass(frozen=True)
class Checked:
    """What was looked at."""

    objects: int
    bytes: int


def verify(targets: Sequence[str] = ()) -> Checked:
    """Reads every object of the cache that dvc.lock names for the outputs of `targets` (none given: of all stages).

    Those that are not in the cache are passed over. A damaged one is removed, and with it the file in the project that
    was copied from it, so that `dvc pull` or the next run brings back what is right; then raises DataError, which names
    the outputs. Raises ConfigError for an unknown target.
    """
    try:
        with Repo(_wait_for_lock=True) as repo:
            with lock_repo(repo):
                stages = {stage.addressing: stage for stage in repo.index.graph}
                chosen = [stage for target in targets for stage in named(target, stages)] or list(stages.values())
                files = {(oid, path) for stage in chosen for out in stage.outs for oid, path in _files(repo, out)}
            # Without the lock, for which a `dvc repro` beside this would not wait: DVC puts an object in its place
            # whole.
            return _read(repo, files)
    except DvcException as error:
        raise ConfigError(f"DVC cannot read the graph ({error})", where=Path.cwd(), mend="mend dvc.yaml") from None


def _files(repo: Repo, out: Output) -> Iterator[tuple[str, Path]]:
    """Name and place of each object of an output; a folder has one that lists the others."""
    if not out.use_cache or not out.hash_info:
        return
    yield out.hash_info.value, Path(out.fs_path)
    if out.hash_info.isdir:
        try:
            tree = load(repo.cache.local, out.hash_info)
        except (FileNotFoundError, ObjectFormatError):  # not here, or the list itself is damaged
            return
        assert isinstance(tree, Tree)
        for key, _, found in tree:
            yield found.value, Path(out.fs_path, *key)


def _read(repo: Repo, files: set[tuple[str, Path]]) -> Checked:
    sizes: dict[str, int] = {}
    damaged: dict[str, str] = {}
    """Name to what it should not have: the checksum of what is there."""
    for oid in sorted({oid for oid, _ in files}):
        cached = Path(repo.cache.local.oid_to_path(oid))
        if cached.is_file():
            sizes[oid], checksum = cached.stat().st_size, _md5(cached)
            if checksum != oid.removesuffix(".dir"):
                damaged[oid] = checksum
                cached.unlink()
    named = sorted((path.relative_to(repo.root_dir), damaged[oid]) for oid, path in files if oid in damaged)
    for path, checksum in named:
        if path.is_file() and _md5(path) == checksum:
            path.unlink()
    if named:
        raise DataError(
            f"damaged in DVC's cache, and removed: {', '.join(str(path) for path, _ in named)}",
            where=repo.cache.local.path,
            mend="`dvc pull` brings it back from the remote, `dvc repro` makes it again",
        )
    return Checked(len(sizes), sum(sizes.values()))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
