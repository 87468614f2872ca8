"""What is read from DVC before a flow runs: which stages may have to be run, and in which order."""

import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.dvcfile import LOCK_FILE, Lockfile
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.stage import Stage

from befa import config
from befa.errors import ConfigError, nearest

log = logging.getLogger(__name__)

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")

TRAINING = {"train", "train_control", "sensitivity"}
"""Kinds of stages that train a cell with what its tuning has chosen."""


@dataclass(frozen=True)
class Step:
    """A stage that may have to be run; DVC decides when its turn comes."""

    name: str
    after: frozenset[str]
    """The steps that it waits for."""
    outs: tuple[str, ...]
    """Its outputs' paths, from the project's folder."""
    forced: bool = False
    """Run even if nothing has changed."""

    @property
    def kind(self) -> str:
        """The stage's name in dvc.yaml, without what it is multiplied by."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Plan:
    """What a run of some targets has to look at."""

    size: int
    """Stages that the targets need, those that are up to date included."""
    steps: tuple[Step, ...]
    """Those that are changed, or come after one that is, in the graph's order."""
    results: tuple[str, ...]
    """Paths of the targets' own outputs, in the order of the targets."""


def plan(targets: Sequence[str], *, forced: Collection[str] = (), force: bool = False) -> Plan:
    """Reads the DVC graph of the project in the current folder.

    `forced` names stages to run whether or not anything has changed; `force` means all that the targets need. Waits
    while another DVC process has the project. Raises ConfigError for an unknown target and a graph that cannot be read.
    """
    try:
        with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
            _mend_lock_file(repo)
            graph = repo.index.graph
            known = {stage.addressing: stage for stage in graph}
            wanted = list(dict.fromkeys(stage for target in targets for stage in named(target, known)))
            needed = graph.subgraph(set(wanted).union(*(nx.descendants(graph, stage) for stage in wanted)))
            forced = {stage.addressing for stage in needed} if force else set(forced)
            return Plan(len(needed), _steps(needed, forced), tuple(o for stage in wanted for o in _outs(stage)))
    except DvcException as error:
        if Path("params.yaml").exists():
            config.read_params(Path("params.yaml"))  # which says where it is wrong, if it is
        mend = "mend dvc.yaml, params.yaml or pipelines/cells.yaml"
        raise ConfigError(f"DVC cannot read the graph ({error})", where=Path.cwd(), mend=mend) from None


def need_remote() -> None:
    """Raises ConfigError when the project in the current folder has no default remote to push to."""
    try:
        with Repo() as repo:
            repo.cloud.get_remote(command="push")
    except DvcException:
        mend = "dvc remote add --default NAME ADDRESS"
        raise ConfigError("no remote to push to", where=".dvc/config", mend=mend) from None


def named(target: str, known: Mapping[str, Stage]) -> list[Stage]:
    """The stages of that name, or of that name before the "@". Raises ConfigError if there is none."""
    # "train_befa" without a dataset means all of them, as it does for `dvc repro`.
    found = [stage for name, stage in known.items() if target in (name, name.partition("@")[0])]
    if not found:
        raise ConfigError(f"no stage {target!r}", where="dvc.yaml", mend=nearest(target, known))
    return found


def _steps(needed: nx.DiGraph, forced: Collection[str]) -> tuple[Step, ...]:
    """The stale stages. Edges lead from a stage to what it depends on."""
    steps: dict[str, Step] = {}
    order = nx.DiGraph(needed)
    order.add_edges_from(_after_tuning(needed))
    # Sorted by name: the order of a set must not decide the order of the run.
    for stage in nx.lexicographical_topological_sort(order.reverse(), key=lambda stage: stage.addressing):
        name = stage.addressing
        after = frozenset(other.addressing for other in order.successors(stage)) & steps.keys()
        if after or name in forced or _changed(stage):
            steps[name] = Step(name, after, _outs(stage), name in forced)
    return tuple(steps.values())


def _after_tuning(needed: nx.DiGraph) -> Iterator[tuple[Stage, Stage]]:
    """What trains a host waits for its tuning, which DVC does not know: it writes what they are to train with.

    DVC notes a stage's parameters when it ends: of a training beside a search, the new ones for the old.
    """
    hosts: dict[str, list[Stage]] = {}
    for stage in needed:
        kind, _, name = stage.addressing.partition("@")
        if kind == "tune":
            hosts.setdefault(name.rpartition("-")[0], []).append(stage)
    for stage in needed:
        kind, _, name = stage.addressing.partition("@")
        if kind in TRAINING:
            host = name if kind == "sensitivity" else name.rpartition("-")[0]
            yield from ((stage, search) for search in hosts.get(host, ()))


def _changed(stage: Stage) -> bool:
    try:
        return bool(stage.status())
    except LockError:  # another DVC process runs it, or writes what it reads
        return True


def _outs(stage: Stage) -> tuple[str, ...]:
    return tuple(str(Path(out.fs_path).relative_to(stage.repo.root_dir)) for out in stage.outs)


def _mend_lock_file(repo: Repo) -> None:
    """Puts the last whole copy of the lock file in place of one that a killed DVC has left half written.

    DVC writes it in place. Stages that the copy does not know come from DVC's cache of runs.
    """
    lock, copy = Path(repo.root_dir) / LOCK_FILE, Path(repo.tmp_dir) / f"{LOCK_FILE}.whole"
    try:
        known = Lockfile(repo, str(lock)).load()
        whole = not known or _ends_well(lock, known)
    except DvcException:
        whole = False
    if not whole:
        if not copy.exists():
            raise ConfigError("DVC cannot read the lock file", where=lock, mend=f"git checkout {LOCK_FILE}") from None
        _replace(lock, copy)
        log.warning("%s was half written; its last whole copy is taken", LOCK_FILE)
    elif lock.exists():
        _replace(copy, lock)


def _ends_well(lock: Path, known: Mapping[str, Any]) -> bool:
    """Whether the file ends as DVC ends it: half of one is as often as not YAML that a lock file may hold."""
    stages = list((known.get("stages") or {}).values())
    if not stages:
        return True
    last = stages[-1]
    hashes = [each.get("md5", "") for part in ("deps", "outs") for each in last.get(part, ())]
    # An editor may have left out the last line's end.
    return all(map(MD5.fullmatch, hashes)) and ("outs" in last or lock.read_bytes().endswith(b"\n"))


def _replace(path: Path, source: Path) -> None:
    part = path.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(path)
