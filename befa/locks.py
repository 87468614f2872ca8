"""One process at a time: a lock that dies with the process that holds it."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock on the file `path`, which is made and stays, and holds it inside the block.

    A killed holder leaves no lock behind. Not to be taken again inside the block: it would wait for itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: held by another run, waiting for it", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
