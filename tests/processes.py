"""What runs where, for tests of programs that start others."""

import os
import random
import signal

import psutil


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
