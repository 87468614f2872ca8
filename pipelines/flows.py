"""Prefect over the DVC graph: a flow that brings a target up to date, one task per stage.

DVC is the one cache of record, so Prefect's own caching stays off; Prefect adds the run's record, its logs and a face.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Before prefect is imported: no telemetry, and time enough for its ephemeral server on a busy machine (7-14 s on two
# cores; the default gives up after 20).
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

import networkx as nx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from befa.errors import BefaError, ConfigError, nearest


class StageError(BefaError):
    """A stage ended with an error; its own message stands in the log above."""


@dataclass(frozen=True)
class Plan:
    """The stages that a target needs, in an order that respects the graph."""

    stages: list[str]
    stale: set[str]
    """Those that are changed, or come after one that is; the others are up to date."""


def plan(target: str) -> Plan:
    """Reads the DVC graph of the project in the current folder. Raises ConfigError for an unknown target."""
    try:
        repo = Repo()
        graph = repo.index.graph
        known = {stage.addressing: stage for stage in graph}
        # "train_befa" without a dataset means all of them, as it does for `dvc repro`.
        wanted = [s for name, s in known.items() if target in (name, name.partition("@")[0])]
        if not wanted:
            raise ConfigError(f"no stage {target!r}", where="dvc.yaml", mend=nearest(target, known))
        needed = graph.subgraph(set(wanted).union(*(nx.descendants(graph, stage) for stage in wanted)))
        changed = set(repo.status(targets=[stage.addressing for stage in needed]))
    except DvcException as error:
        raise ConfigError(f"DVC cannot read the graph ({error})", where=Path.cwd(), mend="mend dvc.yaml") from None
    # Edges lead from a stage to what it depends on, so its dependants are its ancestors.
    stale = {name for name in changed for name in [name, *(s.addressing for s in nx.ancestors(needed, known[name]))]}
    # Sorted first: the order of a set must not decide the order of the run.
    order = nx.lexicographical_topological_sort(needed.reverse(), key=lambda stage: stage.addressing)
    return Plan([stage.addressing for stage in order], stale)


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def repro(stage: str) -> State:
    """Runs one DVC stage and hands its output to the task's log, line by line; a failed stage is a failed task."""
    logger = get_run_logger()
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    # Stages call `python`: it must be the one that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                logger.info(line.rstrip())
    # Returned, not raised: Prefect would bury the stage's own error under a traceback of ours.
    return Completed() if process.returncode == 0 else Failed(message=f"stage {stage} failed")


@flow(name="reproduce", flow_run_name="{target}", validate_parameters=False)
def reproduce(target: str, todo: Plan) -> State:
    """Runs the stale stages of a plan in its order. A failing stage fails the flow and ends it."""
    get_run_logger().info("%d of %d stages of %s are to be run", len(todo.stale), len(todo.stages), target)
    for stage in todo.stages:
        if stage in todo.stale and (state := repro(stage, return_state=True)).is_failed():
            return Failed(message=state.message)
    return Completed(message=f"{target} is up to date")


def run(target: str) -> None:
    """Brings `target` up to date. Raises ConfigError for an unknown target, StageError when a stage fails."""
    state = reproduce(target, plan(target), return_state=True)
    if not state.is_completed():
        raise StageError(state.message or f"the flow ended {state.name}", mend="its own error stands in the log above")
