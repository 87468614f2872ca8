"""What runs where, for tests of programs that start others."""

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
