"""One file from a web address, in as many tries as it takes."""

import logging
from pathlib import Path

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from befa.downloads.addresses import ANOTHER, shown
from befa.downloads.files import (
    AbsentError,
    Fetched,
    KnownFile,
    Policy,
    difference_of,
    make_room,
    not_the_file,
)
from befa.downloads.part import Part
from befa.errors import DataError
from befa.http import keep_addresses_out_of_logs, retry_after
from befa.progress import Progress

log = logging.getLogger(__name__)

PASSING = (429, 500, 502, 503, 504)
"""Answers that may be another one in a minute."""


class _Again(Exception):  # noqa: N818 - no error yet: the next try may bring the rest
    """This try ended before the file did."""

    def __init__(self, what: str, asked_wait: float | None = None) -> None:
        super().__init__(what)
        self.asked_wait = asked_wait
        self.progressed = False


class Download:
    """One file on its way from a web address."""

    def __init__(self, address: httpx.URL, target: Path, known: KnownFile, report: Progress, policy: Policy) -> None:
        # Apart from here on, so that neither an exception of httpx nor its log can hold the password.
        self.credentials = (address.username, address.password) if address.userinfo else None
        self.address = address.copy_with(username=None, password=None)
        self.shown = shown(str(self.address))
        self.target, self.known, self.report, self.policy = target, known, report, policy
        self.part = Part(target, self.shown, trusted=known.sha256 is not None)
        self.furthest = self.part.size

    def run(self) -> Fetched:
        """Tries until the file is whole, then checks it and gives it its name."""
        keep_addresses_out_of_logs()
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
            raise _Again(f"the server answers {status}", retry_after(response.headers.get("Retry-After")))
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
            raise not_the_file(self.target.name, f"has {total:,} bytes, expected {self.known.bytes:,}", self.shown)
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
            raise not_the_file(self.target.name, f"has more than {self.known.bytes:,} bytes", self.shown)

    def _finish(self) -> Fetched:
        size, checksum = self.part.size, self.part.hash.hexdigest()
        difference = difference_of(size, checksum, self.known)
        if difference is not None:
            self.part.discard()
            raise not_the_file(self.target.name, difference, self.shown)
        self.part.rename(self.target)
        return Fetched(self.target.name, size, checksum)

    def _wait(self, state: RetryCallState) -> float:
        shortest, longest = self.policy.shortest_wait, self.policy.longest_wait
        asked = _again_of(state).asked_wait
        backoff = wait_exponential(multiplier=shortest, max=longest) + wait_random(0, shortest)
        return min(longest, backoff(state) if asked is None else max(asked, shortest))

    def _say(self, state: RetryCallState) -> None:
        log.warning("%s: %s; next try in %.1f s", self.shown, _again_of(state), state.upcoming_sleep)


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
