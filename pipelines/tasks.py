"""What a flow has DVC do: one stage brought up to date, as a Prefect task; and a push of what came of it."""

import re
from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from pipelines import artifacts, graph
from pipelines.children import Children

DOWNLOAD_KINDS = {"download", "media"}
PAUSES = (10.0, 60.0)
"""Seconds before a download is tried again."""
PASSING = "run again"
"""Part of an error's mend where time may mend it (befa.downloads, befa.sources.kaggle_client). Missing credentials, a
full disk or another file than the known one stay what they are."""
ERROR = re.compile(r"(error|ERROR): ")
"""How one of our own errors begins, and one of DVC's."""
RUNS, BUSY = "Running stage '", "is busy, it is being blocked by"
"""What DVC says when it runs a stage, and when another DVC process has it in hand."""
BUSY_PAUSE = 2.0
"""Seconds before such a stage is asked for again."""


@task(task_run_name="{step.name}", cache_policy=NO_CACHE)
def repro(step: graph.Step, children: Children) -> State:
    """Has DVC bring one stage up to date, its output in the task's log; a failed stage is a failed task."""
    logger, pauses = get_run_logger(), iter(PAUSES if step.kind in DOWNLOAD_KINDS else ())
    progress, waited = artifacts.Progress(step.name), False
    while not children.stopping.is_set():
        seen: set[str] = set()

        def say(line: str, seen: set[str] = seen, waited: bool = waited) -> None:
            seen.update(sign for sign in (RUNS, BUSY) if sign in line)
            if PASSING in line and ERROR.match(line):
                seen.add(PASSING)
            if not (waited and BUSY in seen):  # said once
                logger.info(line)
            progress(line)

        words = ["repro", "--single-item", *(["--force"] if step.forced else []), step.name]
        if children.dvc(words, say) == 0:
            progress.end()
            artifacts.publish(step.outs)
            # Returned, as a state of its own: Prefect's record then says which stages did something.
            return Completed() if RUNS in seen else Completed(name="Cached")
        if BUSY in seen:
            waited = True
            children.stopping.wait(BUSY_PAUSE)
        elif PASSING in seen and (pause := next(pauses, None)) is not None:
            logger.warning("%s failed; it is tried again in %g s", step.name, pause)
            children.stopping.wait(pause)
        else:
            break
    # Returned, not raised: Prefect would bury the stage's own error under a traceback of ours.
    return Failed(message=f"stage {step.name} failed")


def push(stages: Sequence[str], children: Children) -> str | None:
    """Pushes the stages' outputs to DVC's default remote; returns DVC's error if it fails."""
    logger, said = get_run_logger(), ["it says nothing"]

    def say(line: str) -> None:
        logger.info(line)
        if ERROR.match(line):
            said.append(line)

    return None if children.dvc(["push", *stages], say) == 0 else said[-1]
