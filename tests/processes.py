"""What runs where, for tests of programs that start others."""

import os
import random
import signal
from pathlib import Path

import psutil


def processes_in(folder):
    """What still runs in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


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
