"""Getting one raw file from a mirror (a folder, a file or a web address), whole or not at all."""

import logging
from pathlib import Path

from befa.downloads.addresses import ANOTHER, address_of, mirrors, shown, variable_of
from befa.downloads.files import (
    PATIENT,
    UNKNOWN,
    AbsentError,
    Fetched,
    KnownFile,
    Policy,
    copied_file,
    difference_of,
    fetched_file,
    make_room,
    not_the_file,
    silent,
)
from befa.downloads.part import clear
from befa.downloads.web import Download
from befa.errors import ConfigError, DataError
from befa.locks import locked
from befa.needs import Need
from befa.progress import Progress
from befa.tables import whole

__all__ = [
    "ANOTHER", "PATIENT", "AbsentError", "Fetched", "KnownFile", "Policy", "fetch", "fetched_file", "make_room",
    "mirrors", "need", "shown", "variable_of", "verify",
]  # fmt: skip

log = logging.getLogger(__name__)


def fetch(
    name: str,
    mirror: str,
    into: Path,
    known: KnownFile = UNKNOWN,
    *,
    progress: Progress | None = None,
    policy: Policy = PATIENT,
) -> Fetched:
    """The file `name` from `mirror`, at `into / name`: copied or downloaded, and checked against what is known of it.

    A mirror is a folder that holds `name`, a file to be taken under that name, or an http(s) address: of a folder, or
    of the file if its last part is `name`. What is there already and fits is not fetched again. A download that was cut
    off is resumed, also by a later process, as far as it is certain that the rest belongs to the same file; until it is
    whole and checked it lies at `name.part` (and what identifies it at `name.part.json`). Processes that ask for one
    file at a time wait for each other (`.name.lock`).

    Raises ConfigError for a mirror that is none of the three, and DataError for a file that is absent, another one than
    is known, a web page, or too large for the disk, and for a mirror that refuses or keeps failing.
    """
    if name != Path(name).name or name in ("", ".."):
        raise ConfigError(f"{name!r} is not the plain name of a file", mend="leave its folder to the mirror")
    into.mkdir(parents=True, exist_ok=True)
    target, report = into / name, progress or silent
    if (there := _there(target, known, report)) is not None:
        return there
    with locked(into / f".{name}.lock"):
        # Another process may have brought it while this one waited.
        if (there := _there(target, known, report)) is not None:
            return there
        if "://" not in mirror:
            return _copy(Path(mirror).expanduser(), target, known, report, policy)
        return Download(address_of(mirror, name), target, known, report, policy).run()


def _there(target: Path, known: KnownFile, report: Progress) -> Fetched | None:
    """The file at `target` if it is the one that is known."""
    if not target.is_file():
        return None
    there = fetched_file(target, target.name, report)
    if difference_of(there.bytes, there.sha256, known) is not None:
        log.warning("%s is not the file that is known under this name; it is fetched again", target)
        return None
    log.info("%s is there already", target)
    clear(target)
    return there


def verify(path: Path, known: KnownFile, report: Progress = silent) -> None:
    """Raises DataError when the file at `path`, which came by another way, is not the one that is known."""
    if known != UNKNOWN:
        there = fetched_file(path, path.name, report)
        difference = difference_of(there.bytes, there.sha256, known)
        if difference is not None:
            raise not_the_file(path.name, difference, path)


def need(name: str, mirror: str) -> Need:
    """Whether `mirror` has `name`, as far as can be said without asking over the network."""
    if "://" in mirror:
        return Need(f"{name} from {shown(mirror)} (not asked yet)", True, later=True)
    path = Path(mirror).expanduser()
    path = path / name if path.is_dir() else path
    return Need(f"{name} at {shown(str(path))}", path.is_file(), f"place it there, or {ANOTHER}")


def _copy(mirror: Path, target: Path, known: KnownFile, report: Progress, policy: Policy) -> Fetched:
    """Copies rather than links, so that nothing done to the raw file reaches the original."""
    source = mirror / target.name if mirror.is_dir() else mirror
    if not source.is_file():
        what = f"no {target.name}" if mirror.is_dir() else "no such mirror"
        raise AbsentError(what, where=shown(str(mirror)), mend=ANOTHER)
    size = source.stat().st_size
    if known.bytes is not None and size != known.bytes:
        raise not_the_file(target.name, f"has {size:,} bytes, expected {known.bytes:,}", source)
    make_room(target.parent, size, policy)
    clear(target)
    try:
        with whole(target) as part:
            copy = copied_file(source, part, target.name, report)
            difference = difference_of(copy.bytes, copy.sha256, known)
            if difference is not None:
                raise not_the_file(target.name, difference, source)
    except OSError as error:
        raise DataError(f"cannot be copied ({error.strerror})", where=source, mend="see to disk and rights") from None
    return copy
