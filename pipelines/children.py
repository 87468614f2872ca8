"""The DVC processes that a flow starts, and their end: none outlives the flow, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

GRACE = 10.0
"""Seconds that stages have to end in after an interrupt."""
GUARDED = """exec 3<&0; (cat <&3; kill -INT 0; sleep 5; kill -KILL 0) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null"""
"""A command that ends with us, even if we are killed: standard input ends then, and `cat` with it."""


class Children:
    """DVC processes of one flow, each with what it starts in a group of its own; none outlives the flow."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._groups: set[subprocess.Popen[str]] = set()

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        """Interrupts what still runs, as Ctrl-C would, and kills what does not end."""
        self.stopping.set()
        try:
            self._signal(signal.SIGINT)
            deadline = time.monotonic() + GRACE
            while self._groups and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            self._signal(signal.SIGKILL)

    def dvc(self, words: Sequence[str], say: Callable[[str], None]) -> int:
        """Runs `dvc` with `words`, hands its output on line by line, and returns its exit code."""
        # Stages call `python`: it must be the one that runs this. Wide, as a log has no line length.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "300", "DVC_NO_ANALYTICS": "1"}
        # Whatever the terminal of this process wishes: a log has no colours, and our errors are told by how they begin.
        environment |= {"NO_COLOR": "1", "TTY_COMPATIBLE": "0"}
        environment.pop("FORCE_COLOR", None)
        command = ["/bin/sh", "-c", GUARDED, "sh", sys.executable, "-m", "dvc", "--wait-for-lock", *words]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment, start_new_session=True,
        )  # fmt: skip
        self._groups.add(process)
        # What DVC leaves behind when it is killed would go on writing what the next run writes.
        threading.Thread(target=self._reap, args=[process], daemon=True).start()
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    say(line.rstrip())
            return process.wait()  # in here: out of it standard input is closed, which the guard takes for our end

    def _reap(self, process: subprocess.Popen[str]) -> None:
        process.wait()
        _signal_group(process, signal.SIGKILL)
        self._groups.discard(process)

    def _signal(self, number: signal.Signals) -> None:
        for process in list(self._groups):
            _signal_group(process, number)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
