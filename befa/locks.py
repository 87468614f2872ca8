"""One process at a time: a lock that dies with the process that holds it."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock on the file `path`, which is made and goes again, and holds it inside the block.

    A killed holder leaves the file and no lock. Not to be taken again inside the block: it would wait for itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _held(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else's goes
        file.close()


def _held(path: Path) -> IO[str]:
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: held by another run, waiting for it", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        # Who held it before may have removed the file: a lock on that one keeps nobody away from a new one.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
