"""Prefect over the DVC graph: a flow that brings targets up to date, one task per stage, several at a time.

DVC is the one cache of record, so Prefect's own caching stays off; Prefect adds the run's record, its logs and a face.
"""

import fcntl
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Annotated
from uuid import UUID

# Before prefect is imported: no telemetry, and time enough for its ephemeral server on a busy machine (7-14 s on two
# cores; the default gives up after 20).
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

import httpx
from prefect import flow, get_run_logger, runtime
from prefect.context import SettingsContext, get_settings_context
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from prefect.states import Completed, Failed, State
from pydantic import Field

from befa.errors import BefaError
from befa.report import text_tables
from pipelines import artifacts, graph, tasks
from pipelines.children import Children

Number = Annotated[int, Field(ge=1)]
"""Of stages at a time: with none nothing would ever run."""

GPU_DRIVER = Path("/proc/driver/nvidia/version")
LEAVE_SECONDS = 5.0
REFUSALS = {401, 403, 404}
GPU_KINDS = {
    *("encode_images", "encode_texts"),
    *("train", "evaluate", "train_control", "evaluate_control"),
    *("attribute", "tune", "sensitivity"),
}


class StageError(BefaError):
    """A stage ended with an error; its own message stands in the log above."""


@dataclass(frozen=True)
class Ended:
    """How a step came out."""

    outcome: str
    """run, cached (DVC found nothing to do, or had the result), failed, or skipped (it waits for one that failed)."""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether what comes after it may run."""
        return self.outcome in ("run", "cached")


def _run_all(plan: graph.Plan, jobs: int, gpu_jobs: int, children: Children) -> dict[str, Ended]:
    """Runs each step as soon as those it waits for have ended and there is room; skips what waits for a failed one."""
    waiting = {step.name: step for step in plan.steps}
    running: dict[UUID, tuple[graph.Step, float]] = {}
    futures: dict[str, PrefectFuture[State]] = {}
    ended: dict[str, Ended] = {}
    finished: SimpleQueue[PrefectFuture[State]] = SimpleQueue()
    while waiting or running:
        for step in list(waiting.values()):
            if not all(ended[name].good for name in step.after & ended.keys()):
                ended[waiting.pop(step.name).name] = Ended("skipped")
            elif step.after <= ended.keys() and _fits(step, [s for s, _ in running.values()], jobs, gpu_jobs):
                # They have ended; named so that the UI draws the arrows.
                before = [futures[name] for name in sorted(step.after)]
                future = futures[step.name] = tasks.repro.submit(waiting.pop(step.name), children, wait_for=before)
                running[future.task_run_id] = step, time.monotonic()
                future.add_done_callback(finished.put)
        if running:
            future = finished.get()
            future.wait()  # to have its state
            step, start = running.pop(future.task_run_id)
            ended[step.name] = Ended(_outcome(future.state), time.monotonic() - start)
    return ended


def _fits(step: graph.Step, running: Sequence[graph.Step], jobs: int, gpu_jobs: int) -> bool:
    on_gpu = sum(other.kind in GPU_KINDS for other in running)
    return len(running) < jobs and (step.kind not in GPU_KINDS or on_gpu < gpu_jobs)


def _outcome(state: State) -> str:
    if not state.is_completed():
        return "failed"
    return "cached" if state.name == "Cached" else "run"


def _carry_out(plan: graph.Plan, what: str, jobs: int, gpu_jobs: int | None, push: Sequence[str] = ()) -> State:
    """Runs a plan and sums it up; then pushes the stages named by `push` to DVC's remote."""
    logger = get_run_logger()
    logger.info("%d of %d stages of %s may have to be run", len(plan.steps), plan.size, what)
    if gpu_jobs is None:
        gpu_jobs = 1 if GPU_DRIVER.exists() else jobs
    with _hurried_by_interrupt(), Children() as children:
        ended = _run_all(plan, jobs, gpu_jobs, children)
        failed = [name for name, end in ended.items() if end.outcome == "failed"]
        not_pushed = None if failed or not push else tasks.push(push, children)
    _sum_up(what, ended)
    if failed:
        return Failed(message=f"stage {', '.join(failed)} failed")
    if not_pushed is not None:
        return Failed(message=f"{what} is up to date here, but dvc push failed: {not_pushed}")
    return Completed(message=f"{what} is up to date")


@contextmanager
def _hurried_by_interrupt() -> Iterator[None]:
    """Makes Prefect's client impatient after Ctrl-C, which a terminal also sends to the flow's temporary server.

    It would ask a server that is gone again for a minute.
    """
    try:
        yield
    except KeyboardInterrupt:
        now = get_settings_context()
        # Entered and not left: for the rest of this process.
        SettingsContext(
            profile=now.profile, settings=now.settings.copy_with_update({PREFECT_CLIENT_MAX_RETRIES: 0})
        ).__enter__()
        raise


def _sum_up(what: str, ended: Mapping[str, Ended]) -> None:
    if not ended:
        return
    rows = [(name, end.outcome, f"{end.seconds:.1f}") for name, end in ended.items()]
    table = "\n".join(text_tables.markdown(("stage", "outcome", "seconds"), rows, left=2))
    counts = ", ".join(
        f"{count} {outcome}" for outcome, count in Counter(end.outcome for end in ended.values()).items()
    )
    get_run_logger().info(f"{what}: {counts}\n\n{table}")
    artifacts.show("summary", table, f"{counts}: {what}")


def _flow_run_name() -> str:
    return " ".join(runtime.flow_run.parameters["targets"])


@flow(name="reproduce", flow_run_name=_flow_run_name)
def reproduce(targets: list[str], jobs: Number = 2, gpu_jobs: Number | None = None, force: bool = False) -> State:
    """Brings DVC targets up to date, `jobs` stages at a time, `gpu_jobs` of them of those that encode and train (none
    given: one where there is an NVIDIA driver, else as many as `jobs`).

    A failed stage fails itself, what depends on it, and the flow. `force` runs all that the targets need.
    """
    return _carry_out(graph.plan(targets, force=force), " ".join(targets), jobs, gpu_jobs)


@flow(name="reencode", flow_run_name="{dataset}-{encoder}")
def reencode(dataset: str, encoder: str, jobs: Number = 2, gpu_jobs: Number | None = None, push: bool = False) -> State:
    """Looks for new pictures of a dataset and encodes what is new or changed; may push the features to DVC's remote."""
    stores = [f"encode_images@{dataset}-{encoder}", f"encode_texts@{dataset}-{encoder}"]
    with _alone(f"reencode-{dataset}-{encoder}") as alone:
        if not alone:
            return Completed(name="Skipped", message="the run before this one is still at it")
        plan = graph.plan(stores, forced=[f"media@{dataset}", *stores])
        return _carry_out(plan, " ".join(stores), jobs, gpu_jobs, push=stores if push else ())


@contextmanager
def _alone(name: str) -> Iterator[bool]:
    """Whether no other process is in here. The kernel's lock: Prefect's own limits outlive a run that is killed."""
    with Path(".dvc/tmp", f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run(targets: Sequence[str], *, jobs: int, gpu_jobs: int | None, force: bool) -> None:
    """Runs the flow `reproduce` here.

    Raises StageError when a stage fails, when the Prefect server is not there, goes away or refuses, and at an
    interrupt (all is ended then).
    """
    try:
        with _silenced_by_interrupt():
            state = reproduce(list(targets), jobs, gpu_jobs, force, return_state=True)
    except (KeyboardInterrupt, httpx.HTTPError, RuntimeError) as error:
        causes, mend = list(_chain(error)), "the same command goes on where it was"
        refused = next((each for each in causes if isinstance(each, httpx.HTTPStatusError)), None)
        silent = any(isinstance(each, httpx.TransportError) for each in causes)
        interrupted = any(isinstance(each, KeyboardInterrupt) for each in causes)
        if silent:
            _leave_soon()
        if interrupted:
            raise StageError("interrupted", mend=mend) from None
        if silent:
            raise StageError(f"the Prefect server does not answer ({error})", mend=f"start it; {mend}") from None
        if refused is not None:
            status = refused.response.status_code
            hint = (
                "PREFECT_API_URL and PREFECT_API_AUTH_STRING" if status in REFUSALS else "the server's log and version"
            )
            what = f"the Prefect server answers with {status} to {refused.request.url}"
            raise StageError(what, mend=f"see to {hint}; {mend}") from None
        raise
    if not state.is_completed():
        raise StageError(state.message or f"the flow ended {state.name}", mend="its own error stands in the log above")


@contextmanager
def _silenced_by_interrupt() -> Iterator[None]:
    """After Ctrl-C all that is left to say is the one error.

    Stages fail as they were told to, and Prefect would tell at length what it cannot send to a server that has ended.
    """

    def end(number: int, frame: FrameType | None) -> None:
        logging.disable()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave_soon() -> None:
    """Ends this process with exit code 1 after a while, should it still be there.

    At its end Prefect tries to send its records, 7 s each, to a server that is gone. No stage runs any more by then.
    """
    timer = threading.Timer(LEAVE_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those in whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__context__
