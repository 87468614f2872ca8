"""Where a cell's figures come from, as DVC knows it: what is up to date, what is missing first, and every hash."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from dvc.exceptions import DvcException
from dvc.lock import LockError, LockNoop
from dvc.repo import Repo, lock_repo
from dvc.stage import Stage
from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from befa.errors import ConfigError
from befa.report.results import State

SHOWN = 3
"""Changes that a state names."""


@dataclass(frozen=True)
class Link:
    """One artifact on the way from the raw data to a figure."""

    stage: str
    path: str
    md5: str | None
    """As dvc.lock has it; None for one that has not been made."""
    size: int | None
    """Bytes."""


class Provenance:
    """The project's graph, read once."""

    def __init__(self, repo: Repo) -> None:
        self._graph = repo.index.graph
        self._stages = {stage.addressing: stage for stage in self._graph}
        self._order = list(reversed(list(nx.lexicographical_topological_sort(self._graph, key=lambda s: s.addressing))))
        self._outs = {str(out.def_path): out for stage in self._graph for out in stage.outs}
        self._changed: dict[str, list[str]] = {}

    def __contains__(self, stage: str) -> bool:
        return stage in self._stages

    def state(self, stage: str) -> State:
        """Whether the stage's outputs are there, and of the code, parameters and data that are here now."""
        if stage not in self._stages:
            return State("unlisted", f"{stage} is not in the graph")
        behind = self._behind(stage)
        if not _made(self._stages[stage]):
            # Hashes of code are made by the way: they are nobody's obstacle.
            lacking = [each.addressing for each in behind if not _made(each)]
            return State("absent", next(name for name in lacking if not name.startswith("code_")))
        changed = list(dict.fromkeys(change for each in behind for change in self._changes(each)))
        if not changed:
            return State("current")
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        return State("stale", ", ".join(changed[:SHOWN]) + more)

    def chain(self, stage: str) -> list[Link]:
        """The outputs of everything the stage needs, and its own, from the raw data on."""
        return [
            Link(each.addressing, out.def_path, out.hash_info.value if out.hash_info else None, out.meta.size)
            for each in self._behind(stage)
            for out in each.outs
        ]

    def _behind(self, stage: str) -> list[Stage]:
        """What the stage needs, in the graph's order, itself last."""
        wanted = nx.descendants(self._graph, self._stages[stage]) | {self._stages[stage]}
        return [each for each in self._order if each in wanted]

    def _changes(self, stage: Stage) -> list[str]:
        if stage.addressing not in self._changed:
            self._changed[stage.addressing] = [*self._differences(stage), *self._broken(stage)]
        return self._changed[stage.addressing]

    def _differences(self, stage: Stage) -> Iterator[str]:
        """What DVC finds changed. What a stage has made may be elsewhere, as after `dvc pull` of a result alone."""
        try:
            found = stage.status().get(stage.addressing, [])
        except LockError:  # another DVC process runs it
            found = ["is being run"]
        for change in found:
            if isinstance(change, str):
                yield change
                continue
            for path, what in (pair for paths in change.values() for pair in paths.items()):
                if not isinstance(what, str):  # of params.yaml: each parameter
                    yield from (f"{key} {how}" for key, how in what.items())
                elif what := self._difference(path, what):
                    yield f"{path} {what}"

    def _difference(self, path: str, what: str) -> str | None:
        """`what` DVC says of a file; None where it is only not here, or not in the cache."""
        if what == "not in cache":  # said before the file is looked at
            what = self._outs[path].workspace_status().get(path, "")
        # A stage may read a folder of which other stages have made the parts.
        parts = [out for made, out in self._outs.items() if made == path or made.startswith(f"{path}/")]
        return what if what and all(out.exists for out in parts) else None

    def _broken(self, stage: Stage) -> Iterator[str]:
        """What the stage was made from, where dvc.lock has it otherwise by now: the files need not be here."""
        for dep in stage.deps:
            made = self._outs.get(str(dep.def_path))
            if made and dep.hash_info and made.hash_info and dep.hash_info != made.hash_info:
                yield f"{dep.def_path} modified"


def _made(stage: Stage) -> bool:
    return all(out.exists for out in stage.outs)


@contextmanager
def read() -> Iterator[Provenance]:
    """The graph of the project in the current folder. Raises ConfigError when DVC cannot read it.

    DVC's lock is not taken: a `dvc repro` beside it waits for one three seconds, and would end.
    """
    try:
        with Repo() as repo:
            repo.lock = LockNoop()
            with lock_repo(repo):
                yield _provenance(repo)
    except DvcException as error:
        raise ConfigError(f"DVC cannot read the graph ({error})", where=Path.cwd(), mend="mend dvc.yaml") from None


HALF_WRITTEN = retry_if_exception_type((YAMLSyntaxError, YAMLValidationError))


@retry(retry=HALF_WRITTEN, wait=wait_fixed(0.3), stop=stop_after_attempt(3), reraise=True)
def _provenance(repo: Repo) -> Provenance:
    """The graph; looked at again where another process has dvc.lock half written."""
    repo._reset()
    return Provenance(repo)
