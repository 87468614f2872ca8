"""Getting one raw file from a mirror (a folder, a file or a web address), whole or not at all."""

import hashlib
import logging
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable
from urllib.parse import quote

import httpx
from pydantic import Field
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from befa.config import configuration
from befa.errors import ConfigError, DataError
from befa.needs import Need
from befa.tables import read_json, whole, write_json

log = logging.getLogger(__name__)

CHUNK = 1 << 20
PASSING = (429, 500, 502, 503, 504)
"""Answers that may be another one in a minute."""
ANOTHER = "name another mirror in params.yaml or in the environment variable BEFA_MIRROR_<DATASET>"


@runtime_checkable
class Progress(Protocol):
    """Called as bytes come in."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Bytes that are there, bytes in all (None: the mirror does not say), and the file's name."""
        ...


@configuration
class KnownFile:
    """What is known of a file before it is fetched. Nothing known: whatever the mirror has is taken."""

    bytes: Annotated[int, Field(ge=0)] | None = None
    """Size."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum, in lower-case hexadecimal."""


@configuration
class Policy:
    """How patient a download is. Times in seconds."""

    tries: Annotated[int, Field(ge=1)] = 8
    """Tries in a row that bring nothing new; any new byte starts the count again, so that a long file gets through."""
    shortest_wait: Annotated[float, Field(ge=0)] = 1.0
    """Wait after the first failure; doubled with each, and up to this much is added at random."""
    longest_wait: Annotated[float, Field(ge=0)] = 60.0
    """Bound of every wait, also of one that the server asks for (Retry-After)."""
    connect_timeout: Annotated[float, Field(gt=0)] = 20.0
    """Longest time for a connection to be made."""
    read_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Longest silence in the middle of a file."""
    reserve_bytes: Annotated[int, Field(ge=0)] = 100_000_000
    """Disk space that is left free."""


UNKNOWN, PATIENT = KnownFile(), Policy()


class AbsentError(DataError):
    """The mirror answers, and does not have the file."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there."""

    name: str
    bytes: int
    sha256: str


def mirrors(configured: str | None, dataset: str) -> str | None:
    """The mirror of `dataset`: the environment's BEFA_MIRROR_<DATASET>, else the configured one, else None.

    Raises ConfigError when the configured one holds a password or a query string. It is written to dvc.lock, which is
    shared; the environment is not.
    """
    variable = "BEFA_MIRROR_" + re.sub(r"[^A-Z0-9]", "_", dataset.upper())
    if os.environ.get(variable):
        return os.environ[variable]
    if configured is not None and shown(configured) != configured:
        raise ConfigError(
            f"the mirror of {dataset} holds a password or a query string, which dvc.lock would keep",
            where="params.yaml",
            mend=f"put the whole address into the environment variable {variable} instead",
        )
    return configured


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
    whole and checked it lies at `name.part` (and what identifies it at `name.part.json`).

    Raises ConfigError for a mirror that is none of the three, and DataError for a file that is absent, another one than
    is known, a web page, or too large for the disk, and for a mirror that refuses or keeps failing.
    """
    if name != Path(name).name or name in ("", ".."):
        raise ConfigError(f"{name!r} is not the plain name of a file", mend="leave its folder to the mirror")
    into.mkdir(parents=True, exist_ok=True)
    target, report = into / name, progress or _silent
    if target.is_file():
        there = _fetched(target, name, report)
        if _difference(there.bytes, there.sha256, known) is None:
            log.info("%s is there already", target)
            _clear(target)
            return there
        log.warning("%s is not the file that is known under this name; it is fetched again", target)
    if "://" not in mirror:
        return _copy(Path(mirror).expanduser(), target, known, report, policy)
    return _Download(_address(mirror, name), target, known, report, policy).run()


def verify(path: Path, known: KnownFile) -> None:
    """Raises DataError when the file at `path`, which came by another way, is not the one that is known."""
    if known != UNKNOWN:
        there = _fetched(path, path.name, _silent)
        difference = _difference(there.bytes, there.sha256, known)
        if difference is not None:
            raise _not_the_file(path.name, difference, path)


def need(name: str, mirror: str) -> Need:
    """Whether `mirror` has `name`, as far as can be said without asking over the network."""
    if "://" in mirror:
        return Need(f"{name} from {shown(mirror)} (not asked yet)", True)
    path = Path(mirror).expanduser()
    path = path / name if path.is_dir() else path
    return Need(f"{name} at {path}", path.is_file(), f"place it there, or {ANOTHER}")


def shown(address: str) -> str:
    """`address` as it may be printed: without user, password, query and fragment. A path stays as it is."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return re.sub(r"^[^/\s]*:[^/\s]*@", "", address)  # an address whose http:// was forgotten
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    # A password with a bare "/", "?" or "#" ends the authority too early: what then looks like a host is none.
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:@\[\]]*)(:\d*)?", host):
        return f"{scheme}://..."
    return f"{scheme}://{host}{slash}{path}"


def _copy(mirror: Path, target: Path, known: KnownFile, report: Progress, policy: Policy) -> Fetched:
    """Copies rather than links, so that nothing done to the raw file reaches the original."""
    source = mirror / target.name if mirror.is_dir() else mirror
    if not source.is_file():
        what = f"no {target.name}" if mirror.is_dir() else "no such mirror"
        raise AbsentError(what, where=shown(str(mirror)), mend=ANOTHER)
    size = source.stat().st_size
    if known.bytes is not None and size != known.bytes:
        raise _not_the_file(target.name, f"has {size:,} bytes, expected {known.bytes:,}", source)
    make_room(target.parent, size, policy)
    _clear(target)
    try:
        with whole(target) as part:
            shutil.copyfile(source, part)
            copy = _fetched(part, target.name, report)
            difference = _difference(copy.bytes, copy.sha256, known)
            if difference is not None:
                raise _not_the_file(target.name, difference, source)
    except OSError as error:
        raise DataError(f"cannot be copied ({error.strerror})", where=source, mend="see to disk and rights") from None
    return copy


def _beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def _clear(target: Path) -> None:
    """Removes what a download that is no longer needed has left: the whole folder is taken for raw data later on."""
    for path in _beside(target):
        path.unlink(missing_ok=True)


class _Again(Exception):  # noqa: N818 - no error yet: the next try may bring the rest
    """This try ended before the file did."""

    def __init__(self, what: str, asked_wait: float | None = None) -> None:
        super().__init__(what)
        self.asked_wait = asked_wait
        self.progressed = False


class _Download:
    """One file on its way from a web address."""

    def __init__(self, address: httpx.URL, target: Path, known: KnownFile, report: Progress, policy: Policy) -> None:
        # Apart from here on, so that neither an exception of httpx nor its log can hold the password.
        self.credentials = (address.username, address.password) if address.userinfo else None
        self.address = address.copy_with(username=None, password=None)
        self.shown = shown(str(self.address))
        self.target, self.known, self.report, self.policy = target, known, report, policy
        self.part = _Part(target, self.shown, trusted=known.sha256 is not None)
        self.furthest = self.part.size

    def run(self) -> Fetched:
        """Tries until the file is whole, then checks it and gives it its name."""
        # httpx logs each address in full at INFO, httpcore each redirect's at DEBUG; either may hold a signature.
        for logger in (logging.getLogger("httpx"), logging.getLogger("httpcore")):
            logger.setLevel(max(logger.level, logging.WARNING))
        timeout = httpx.Timeout(self.policy.read_timeout, connect=self.policy.connect_timeout)
        retrying = Retrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_after_attempt(self.policy.tries),
            wait=self._wait,
            after=_count_from_last_progress,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            with httpx.Client(auth=self.credentials, timeout=timeout, follow_redirects=True) as client:
                retrying(self._try, client)
            return self._finish()
        except _Again as last:
            tries = f"{self.policy.tries} tries in a row" if self.policy.tries > 1 else "one try"
            mend = f"run again, it goes on where it stopped; or {ANOTHER}"
            raise DataError(f"{last}, after {tries}", where=self.shown, mend=mend) from None
        except OSError as error:  # of the file: those of the network are httpx's own
            raise DataError(
                f"cannot be written ({error.strerror})", where=self.target, mend="see to disk and rights"
            ) from None

    def _try(self, client: httpx.Client) -> None:
        # Whatever is compressed on the way has another length and checksum than the file.
        headers = {"Accept-Encoding": "identity", **self.part.headers()}
        try:
            with client.stream("GET", self.address, headers=headers) as response:
                self._judge(response)
                for data in response.iter_raw():
                    self.part.append(data)
                    self.report(self.part.size, self.part.total, self.target.name)
                    self._stop_when_too_long()
            if self.part.total is not None and self.part.size < self.part.total:
                raise _Again(f"the file ended at {self.part.size:,} of {self.part.total:,} bytes")
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise DataError("redirected in circles, or to no web address", where=self.shown, mend=ANOTHER) from None
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                mend = "mend the server's certificate or this machine's clock, or set SSL_CERT_FILE"
                raise DataError("the server's certificate is not valid", where=self.shown, mend=mend) from None
            raise self._again(_reason(error)) from None
        except _Again as again:
            raise self._again(str(again), again.asked_wait) from None
        finally:
            self.part.close()

    def _again(self, what: str, asked_wait: float | None = None) -> _Again:
        again = _Again(what, asked_wait)
        # Beyond the furthest yet: a server without ranges that always drops would otherwise be tried for ever.
        again.progressed = self.part.size > self.furthest
        self.furthest = max(self.furthest, self.part.size)
        return again

    def _judge(self, response: httpx.Response) -> None:
        """Whether the body is the file or its rest; makes the part ready for it."""
        status = response.status_code
        if status in PASSING:
            raise _Again(f"the server answers {status}", _asked_wait(response))
        if status == 416 or (status == 206 and not self.part.continues(response)):
            self.part.discard()
            raise _Again("the file is another one than at the last try")
        if status not in (200, 206):
            raise self._refusal(status)
        kind, encoding = (response.headers.get(key, "").lower() for key in ("Content-Type", "Content-Encoding"))
        if kind.startswith("text/html") and self.target.suffix.lower() not in (".html", ".htm"):
            mend = f"open it in a browser: there may be a login or a consent before it; or {ANOTHER}"
            raise DataError("a web page came instead of the file", where=self.shown, mend=mend)
        if encoding not in ("", "identity") and self.target.suffix.lower() not in (".gz", ".tgz", ".br", ".zst"):
            raise DataError(f"the server packs the file ({encoding}) unasked", where=self.shown, mend=ANOTHER)
        if status == 200:
            self.part.begin(response, self.known.bytes)
        if None not in (self.part.total, self.known.bytes) and self.part.total != self.known.bytes:
            total = self.part.total
            self.part.discard()
            raise _not_the_file(self.target.name, f"has {total:,} bytes, expected {self.known.bytes:,}", self.shown)
        if self.part.total is not None:
            make_room(self.target.parent, self.part.total - self.part.size, self.policy)

    def _refusal(self, status: int) -> DataError:
        if status in (404, 410):
            return AbsentError(f"not there ({status})", where=self.shown, mend=ANOTHER)
        if status in (401, 403):
            mend = "put an address with user and password, or a signed one, into BEFA_MIRROR_<DATASET>"
            refused = "the credentials are refused" if self.credentials else "credentials are needed"
            return DataError(f"{refused} ({status})", where=self.shown, mend=mend)
        return DataError(f"the server answers {status}", where=self.shown, mend=ANOTHER)

    def _stop_when_too_long(self) -> None:
        """Ends a body without a length, which would else fill the disk before its size is compared."""
        if self.known.bytes is not None and self.part.size > self.known.bytes:
            self.part.discard()
            raise _not_the_file(self.target.name, f"has more than {self.known.bytes:,} bytes", self.shown)

    def _finish(self) -> Fetched:
        size, checksum = self.part.size, self.part.hash.hexdigest()
        difference = _difference(size, checksum, self.known)
        if difference is not None:
            self.part.discard()
            raise _not_the_file(self.target.name, difference, self.shown)
        self.part.rename(self.target)
        return Fetched(self.target.name, size, checksum)

    def _wait(self, state: RetryCallState) -> float:
        shortest, longest = self.policy.shortest_wait, self.policy.longest_wait
        asked = _again_of(state).asked_wait
        backoff = wait_exponential(multiplier=shortest, max=longest) + wait_random(0, shortest)
        return min(longest, backoff(state) if asked is None else max(asked, shortest))

    def _say(self, state: RetryCallState) -> None:
        log.warning("%s: %s; next try in %.1f s", self.shown, _again_of(state), state.upcoming_sleep)


class _Part:
    """What has come so far, with its checksum, and what tells whether a rest belongs to it."""

    def __init__(self, target: Path, address: str, *, trusted: bool) -> None:
        """Takes up the part of an earlier process if its rest can be asked for safely, else starts with nothing.

        `trusted`: the whole file's checksum is known, so that a wrong rest would be noticed at the end.
        """
        self.path, self.sidecar = _beside(target)
        self.address = address
        self.size, self.hash = 0, hashlib.sha256()
        self.total: int | None = None
        self.marks: dict[str, str | None] = {}
        self.file: Any = None
        kept = self._kept()
        if self.path.is_file() and (kept or trusted):
            self.total, self.marks = kept.get("total"), {key: kept.get(key) for key in ("if_range", "etag", "modified")}
            self._read(self.path.stat().st_size)
        else:
            self.discard()

    def _kept(self) -> dict[str, Any]:
        """The sidecar, if it is of the same address and holds a validator."""
        try:
            kept = read_json(self.sidecar)
        except (DataError, UnicodeDecodeError):
            return {}
        fits = isinstance(kept, dict) and kept.get("address") == self.address and kept.get("if_range")
        return kept if fits else {}

    def _read(self, size: int) -> None:
        # A part that is whole already (killed before it was renamed) gives up a byte: the server is then asked for
        # that one, and so says whether its file is still the same.
        self.size = size if self.total is None else max(0, min(size, self.total - 1))
        os.truncate(self.path, self.size)
        with self.path.open("rb") as file:
            while data := file.read(CHUNK):
                self.hash.update(data)

    def headers(self) -> dict[str, str]:
        """What asks for the rest, on condition that the file is still the same."""
        if not self.size:
            return {}
        condition = self.marks.get("if_range")
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": condition} if condition else {})

    def continues(self, response: httpx.Response) -> bool:
        """Whether a 206 goes on where the part ends, in a file of the same length and marks. Some ignore If-Range."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != self.size:
            return False
        total = None if found[3] == "*" else int(found[3])
        if None not in (total, self.total) and total != self.total:
            return False
        marks = _marks(response)
        if any(marks[key] != self.marks[key] for key in marks if marks[key] and self.marks.get(key)):
            return False
        self.total = self.total if total is None else total
        return True

    def begin(self, response: httpx.Response, known_bytes: int | None) -> None:
        """Starts anew, with the length and the marks that the response gives."""
        self.discard()
        length = response.headers.get("Content-Length", "")
        self.total = int(length) if length.isdecimal() else known_bytes
        self.marks = _marks(response)
        if self.marks["if_range"]:
            write_json(self.sidecar, {"address": self.address, "total": self.total, **self.marks})

    def append(self, data: bytes) -> None:
        if self.file is None:
            self.file = self.path.open("ab")
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def discard(self) -> None:
        """Forgets everything, so that nothing false is resumed."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)
        self.size, self.hash, self.total, self.marks = 0, hashlib.sha256(), None, {}

    def rename(self, target: Path) -> None:
        with self.path.open("ab") as written:  # "a": an empty file has no part yet
            os.fsync(written.fileno())
        self.path.replace(target)
        self.sidecar.unlink(missing_ok=True)


def _marks(response: httpx.Response) -> dict[str, str | None]:
    """What tells one state of the file from another; `if_range` is the one that proves it to the byte, if any does.

    A weak ETag proves nothing, nor does a Last-Modified of the very second in which it is read (RFC 9110, 8.8.2.2).
    """
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    strong = etag if etag and etag.startswith('"') else None
    if etag is None and modified is not None:
        with suppress(ValueError, TypeError):
            age = parsedate_to_datetime(response.headers.get("Date", "")) - parsedate_to_datetime(modified)
            strong = modified if age.total_seconds() >= 1 else None
    return {"if_range": strong, "etag": etag, "modified": modified}


def _asked_wait(response: httpx.Response) -> float | None:
    """Retry-After in seconds from now; it comes as a number or as a date."""
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    return None


def _again_of(state: RetryCallState) -> _Again:
    assert state.outcome is not None
    again = state.outcome.exception()
    assert isinstance(again, _Again)
    return again


def _count_from_last_progress(state: RetryCallState) -> None:
    if _again_of(state).progressed:
        state.attempt_number = 0  # one is added before the next


def _reason(error: httpx.TransportError) -> str:
    """Why, in words of our own or of the system: httpx's may hold the address."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "the server fell silent"
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "strerror", None):
        cause = cause.__cause__ or cause.__context__
    detail = f" ({cause.strerror})" if isinstance(cause, OSError) else ""
    return ("no connection" if isinstance(error, httpx.ConnectError) else "the connection was lost") + detail


def _address(mirror: str, name: str) -> httpx.URL:
    """Where `name` lies below `mirror`, or `mirror` itself if it is that file's address; a query string is kept."""
    try:
        base = httpx.URL(mirror).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise ConfigError("not a valid address", where=shown(mirror), mend=ANOTHER) from None
    if base.scheme not in ("http", "https") or not base.host:
        mend = "a mirror is a folder, a file, or an address that begins with http:// or https://"
        raise ConfigError("no way to fetch from there", where=shown(mirror), mend=mend)
    if base.path.rpartition("/")[2] == name:
        return base
    path, mark, query = base.raw_path.partition(b"?")
    return base.copy_with(raw_path=path.rstrip(b"/") + b"/" + quote(name, safe="").encode() + mark + query)


def make_room(into: Path, needed: int, policy: Policy) -> None:
    """Raises DataError when the disk of the folder `into` has not `needed` bytes, and the reserve, free."""
    free = shutil.disk_usage(into).free
    if needed + policy.reserve_bytes > free:
        raise DataError(
            f"too little disk space: {needed:,} bytes are needed (and {policy.reserve_bytes:,} left free), "
            f"{free:,} are free",
            where=into,
            mend="make room, or put the folder on a larger disk",
        )


def _fetched(path: Path, name: str, report: Progress) -> Fetched:
    size, done, checksum = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            checksum.update(data)
            done += len(data)
            report(done, size, f"checking {name}")
    return Fetched(name, size, checksum.hexdigest())


def _difference(size: int, checksum: str, known: KnownFile) -> str | None:
    if known.bytes is not None and size != known.bytes:
        return f"has {size:,} bytes, expected {known.bytes:,}"
    if known.sha256 is not None and checksum != known.sha256:
        return f"has the sha256 {checksum}, expected {known.sha256}"
    return None


def _not_the_file(name: str, difference: str, where: object) -> DataError:
    return DataError(f"{name} {difference}", where=where, mend=f"it is damaged or another file: {ANOTHER}")


def _silent(done: int, total: int | None, note: str = "") -> None:
    """Takes the place of a report that nobody asked for."""
