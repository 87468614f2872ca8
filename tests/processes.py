"""What runs where, for tests of programs that start others."""

import contextlib
import io
import logging
import os
import random
import signal
import subprocess
import sys

import psutil
import pytest

from pipelines.__main__ import main


def processes_in(folder):
    """Command lines, by process, of what still runs in a folder; read at once, since any may end the moment after."""
    asked = psutil.process_iter(["cwd", "status", "cmdline"])
    return {
        process: process.info["cmdline"] or []
        for process in asked
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
    }


def killed_until_done(start, most, longest):
    """Starts a process and kills it after up to `longest` seconds, `most` times at most; its exit code, and kills."""
    chance, kills = random.Random(0), 0
    while True:
        process = start()
        process.join(60 if kills >= most else chance.uniform(0.05, longest))
        if process.exitcode is not None:
            return process.exitcode, kills
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1


def asked(project, *words):
    """`python -m pipelines WORDS` without a process of its own, which would load torch first."""
    loggers = {logging.getLogger(name): logging.getLogger(name).handlers.copy() for name in ("befa", "pipelines")}
    out, err = io.StringIO(), io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patched.chdir(project)
            patched.setenv("COLUMNS", "150")
            patched.setattr(sys, "argv", ["pipelines", *words])
            try:
                code = main()
            except SystemExit as ended:
                code = ended.code
    finally:
        for logger, handlers in loggers.items():
            logger.handlers = handlers
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
