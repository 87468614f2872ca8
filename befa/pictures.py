"""Fetching a catalogue's pictures from their links: politely, a few at a time, and never twice.

A run leaves two files, `pictures.zip` and `pictures.parquet`, which say the same for the same pictures: no clock, host
or path is in them. A later run in the same folder keeps what is there and asks again only for what failed. What arrives
goes at once to a journal beside the folder (`<folder>.partial`), so that a run that was killed is taken up.

Links come from outside. Whatever is no http or https address is refused; where an address leads to is not looked at,
loopback and private networks included. Do not run this where such an answer would be a secret.
"""

import asyncio
import contextlib
import email.utils
import io
import logging
import os
import random
import shutil
import socket
import ssl
import time
import zipfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import pyarrow as pa
from PIL import Image
from pydantic import Field

from befa.config import configuration
from befa.errors import DataError
from befa.images import FORMATS, CorruptImage, ImageFiles, decode
from befa.tables import read_table, whole, write_table

ARCHIVE, INDEX = "pictures.zip", "pictures.parquet"

COVERAGE = pa.schema(
    [
        *(("item", pa.string()), ("url", pa.string()), ("status", pa.string()), ("error", pa.string())),
        *(("image", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())),
    ]
)
"""One item a row, in sorted order. `status` is ok, failed (`error` has the reason) or no_link; `image` is a reference
for images.ImageFiles; `bytes` and `sha256` are of the picture as it came."""

MAX_REDIRECTS = 5

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
"""Where it differs from the format's name in lower case."""

NO_ADDRESS, GIVEN_UP = "not an http address", "host given up"

Progress = Callable[[int, int, str], None]
"""Called with items done, their number, and a note such as "12 failed"."""

log = logging.getLogger(__name__)


@configuration
class PicturesConfig:
    """How pictures are asked for. Defaults are meant for shops that owe us nothing."""

    concurrency: Annotated[int, Field(ge=1)] = 16
    """Requests at a time, over all hosts."""
    per_host: Annotated[int, Field(ge=1)] = 4
    """Requests at a time to one host (a name and port)."""
    pause: Annotated[float, Field(ge=0)] = 0.05
    """Seconds between the starts of two requests to one host."""
    tries: Annotated[int, Field(ge=1)] = 3
    """Requests for one link in one run, where the failure may pass (time-out, dropped connection, 429, 5xx)."""
    shortest_wait: Annotated[float, Field(ge=0)] = 1.0
    """Seconds before the second try; doubled for each further one, and shortened by up to half at random."""
    longest_wait: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that no wait is longer than, whatever a Retry-After says."""
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for one request, from connecting to the last byte."""
    max_bytes: Annotated[int, Field(ge=1)] = 20_000_000
    """Largest picture. Of a larger one no more is read than shows it."""
    give_up_after: Annotated[int, Field(ge=1)] = 20
    """Refusals of one host in a row after which it is not asked again in this run. A refusal is no answer (name not
    resolved, connection refused or dropped, time-out), status 429, or a 5xx with Retry-After. The host's remaining
    items fail with "host given up", and so do those that it refused before, so that dead hosts read the same in every
    run."""
    user_agent: str = "befa-pipelines (research; picture fetcher)"
    """What the hosts are told about us."""


@dataclass(frozen=True)
class Fetched:
    """What a run came to. Only `coverage` is the same for the same pictures; the counts are of this run."""

    coverage: dict[str, Any]
    """items, ok, failed, no_link, bytes, and errors: the count of each reason, the most frequent first."""
    kept: int
    """Items whose picture an earlier run had fetched."""
    fetched: int
    """Items whose picture this run fetched."""


@dataclass(frozen=True)
class _Picture:
    sha256: str
    size: int
    suffix: str
    source: Path | str
    """A file of the journal, or a reference into the earlier run's archive."""


def fetch_pictures(items: pa.Table, into: Path, config: PicturesConfig, *, progress: Progress | None = None) -> Fetched:
    """Writes `pictures.zip` and `pictures.parquet` (COVERAGE) in `into` for `items` (columns item, url; null: no link).

    An item whose link is that of a picture from an earlier run, or of a run that was killed, is not fetched again;
    equal links are fetched once. An item whose link changed is fetched anew, and has no picture if that fails. A link
    that does not lead to a picture is a row with the reason, never an exception, even if none does. Raises DataError
    when `items` lacks a column, or has an item twice or without a name.

    Runs an event loop of its own, so it cannot be called from inside one.
    """
    # At INFO, httpx writes a line with the full address for every request: a million lines, secrets included.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger(name).level))
    links = _links(items)
    journal, earlier = _Journal(into.with_name(into.name + ".partial")), ImageFiles(into)
    wanted = Counter(link.address for link in links if link.address is not None)
    before = _kept(into, earlier, wanted)
    before |= journal.pictures(wanted.keys() - before.keys())
    asked = {address: count for address, count in wanted.items() if address not in before}
    found = before | _run(_Fetcher(config, journal, _Tally(links, asked, progress)).fetch(asked))
    outcomes = [(link, found[link.address] if link.address is not None else NO_ADDRESS) for link in links]
    # The archive first: until the table follows, the old table's checksums tell which of its rows still hold.
    _write_archive(into / ARCHIVE, outcomes, earlier)
    rows = [_row(link, outcome) for link, outcome in outcomes]
    write_table(into / INDEX, pa.Table.from_pylist(rows, schema=COVERAGE))
    journal.remove()
    coverage = _coverage(rows)
    kept = sum(link.address in before for link in links)
    return Fetched(coverage, kept=kept, fetched=coverage["ok"] - kept)


@dataclass(frozen=True)
class _Link:
    item: str
    url: str | None
    address: str | None
    """What is asked for under `url`; None where there is nothing that http could be asked for."""


def _links(items: pa.Table) -> list[_Link]:
    """In sorted item order, so that the order of `items` is not in the files."""
    for name in ("item", "url"):
        if name not in items.column_names:
            raise DataError(f"no column {name!r}", where="the items", mend=f"it has {', '.join(items.column_names)}")
    names, urls = (items.column(name).cast(pa.string()).to_pylist() for name in ("item", "url"))
    if None in names:
        raise DataError("an item has no name", where="the items", mend="drop rows whose item is null")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"item {twice!r} occurs twice", where="the items", mend="keep one row of each item")
    pairs = sorted(zip(names, urls, strict=True), key=lambda pair: pair[0])
    return [_Link(item, url, None if url is None else _address(url)) for item, url in pairs]


def _address(url: str) -> str | None:
    try:
        parsed = httpx.URL(url.strip())
        if not parsed.scheme and parsed.host:  # "//host/1.jpg": as the page had it, and pages are https today
            parsed = parsed.copy_with(scheme="https")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        return None
    # A fragment is not sent: two links that differ only in it are one request.
    return str(parsed.copy_with(fragment=None))


# --- What is there already


class _Journal:
    """A folder with one file per picture, named by its address, that outlives a killed run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pictures(self, addresses: set[str]) -> dict[str, _Picture]:
        """What an interrupted run left for `addresses`."""
        if not self.folder.is_dir():
            return {}
        present = {path.name for path in self.folder.iterdir()}
        left = {}
        for address in addresses:
            if self._path(address).name in present:
                # No second look at a file that was damaged since: it is fetched again.
                with contextlib.suppress(CorruptImage):
                    left[address] = self._picture(address, self._path(address).read_bytes())
        return left

    def add(self, address: str, data: bytes) -> _Picture:
        """Keeps `data`. Raises CorruptImage with the reason if it is no picture."""
        decode(data)
        picture = self._picture(address, data)
        with whole(self._path(address)) as part:
            part.write_bytes(data)
        return picture

    def remove(self) -> None:
        """Forgets everything; the final files have it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _path(self, address: str) -> Path:
        return self.folder / sha256(address.encode()).hexdigest()

    def _picture(self, address: str, data: bytes) -> _Picture:
        return _Picture(sha256(data).hexdigest(), len(data), _suffix(data), self._path(address))


def _suffix(data: bytes) -> str:
    """By the picture's real format: a link's own ending may be wrong, or not there."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            form = picture.format or ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise CorruptImage("not an image") from None
    return SUFFIXES.get(form, form.lower())


def _kept(into: Path, earlier: ImageFiles, wanted: Mapping[str, int]) -> dict[str, _Picture]:
    """Pictures of an earlier run for `wanted` addresses, if archive and table agree on them."""
    if not (into / INDEX).exists():
        return {}
    try:
        table = read_table(into / INDEX, COVERAGE.names)
    except DataError as error:
        log.warning("nothing is kept: %s", error)
        return {}
    kept, lost = {}, 0
    for row in table.to_pylist():
        if row["status"] != "ok" or (address := _address(row["url"])) not in wanted or address in kept:
            continue
        try:
            # A run that was killed between the two files, or a damaged archive: such an item is fetched anew.
            agrees = sha256(earlier.read(row["image"])).hexdigest() == row["sha256"]
        except DataError:
            agrees = False
        if agrees:
            suffix = row["image"].rpartition(".")[2]
            kept[address] = _Picture(row["sha256"], row["bytes"], suffix, source=row["image"])
        lost += not agrees
    if lost:
        log.warning("%d pictures of %s are not those of its table, and are fetched again", lost, into / ARCHIVE)
    return kept


# --- Asking


class _LostError(Exception):
    """One request came to nothing. `by` is the host that refused it, if that was the reason."""

    def __init__(self, reason: str, *, transient: bool = False, by: "_Host | None" = None) -> None:
        super().__init__(reason)
        self.reason, self.transient, self.by = reason, transient, by


class _Host:
    """One host's share of the run: when the next request may start, and whether it still answers."""

    def __init__(self, name: str, config: PicturesConfig, requests: asyncio.Semaphore) -> None:
        self.name, self.config = name, config
        self.queue: deque[str] = deque()
        self.turned_away: list[str] = []
        self._requests, self._room = requests, asyncio.Semaphore(config.per_host)
        self._not_before = 0.0
        self._refusals = 0

    @property
    def given_up(self) -> bool:
        return self._refusals >= self.config.give_up_after

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until this host may be asked. Raises _LostError once it is given up."""
        clock = asyncio.get_running_loop().time
        async with self._room:
            while True:
                # Slept outside of the semaphore for all hosts: a host that wants a pause holds up no other.
                await asyncio.sleep(max(0.0, self._not_before - clock()))
                async with self._requests:
                    if self.given_up:
                        raise _LostError(GIVEN_UP)
                    if clock() < self._not_before:
                        continue
                    self._not_before = clock() + self.config.pause
                    yield
                    return

    def rest(self, seconds: float) -> None:
        """No request starts for so long."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    def answered(self) -> None:
        # A host that was given up stays so, though a request that was under way may still be answered.
        self._refusals = self._refusals if self.given_up else 0

    def refused(self, reason: str) -> None:
        self._refusals += 1
        if self._refusals == self.config.give_up_after:
            log.warning("%s is given up after %d refusals in a row (%s)", self.name, self._refusals, reason)


class _Tally:
    """Counts items as their links are settled, for the caller's progress line."""

    def __init__(self, links: list[_Link], asked: Mapping[str, int], progress: Progress | None) -> None:
        self._asked, self._progress, self._total = asked, progress, len(links)
        self._done = self._total - sum(asked.values())
        self._failed = sum(link.url is not None and link.address is None for link in links)
        self._tell()

    def settle(self, address: str, *, ok: bool) -> None:
        """All items with this address are done."""
        self._done += self._asked[address]
        self._failed += 0 if ok else self._asked[address]
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, f"{self._failed} failed")


class _Fetcher:
    def __init__(self, config: PicturesConfig, journal: _Journal, tally: _Tally) -> None:
        self.config, self.journal, self.tally = config, journal, tally
        self.found: dict[str, _Picture | str] = {}
        self._hosts: dict[str, _Host] = {}

    async def fetch(self, addresses: Mapping[str, int]) -> dict[str, _Picture | str]:
        """Picture, or the reason why there is none, of each of `addresses`."""
        config = self.config
        self._requests = asyncio.Semaphore(config.concurrency)
        # Names are resolved in the loop's own threads, of which there are few: dead names would hold up live ones.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.concurrency, "names"))
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        # An answer that hangs on an earlier one's cookie would differ with the order of requests.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        headers = {"User-Agent": config.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "pictures") as self._threads:
            async with httpx.AsyncClient(headers=headers, cookies=no_cookies, limits=limits, timeout=None) as client:
                self._client = client
                await self._all_hosts(sorted(addresses))
        for host in self._hosts.values():
            if host.given_up:
                self.found |= dict.fromkeys(host.turned_away, GIVEN_UP)
        return self.found

    async def _all_hosts(self, addresses: list[str]) -> None:
        for address in addresses:
            self._host(address).queue.append(address)
        # Not a task for every host of a large catalogue, but enough that hosts which rest or are dead hold up no other.
        open_hosts = asyncio.Semaphore(8 * self.config.concurrency)
        async with asyncio.TaskGroup() as group:
            # The longest queue first: begun last, it would be left alone in the end.
            for host in sorted(self._hosts.values(), key=lambda host: (-len(host.queue), host.name)):
                await open_hosts.acquire()
                group.create_task(self._one_host(host)).add_done_callback(lambda _: open_hosts.release())

    async def _one_host(self, host: _Host) -> None:
        async def work() -> None:
            while host.queue:
                await self._settle(host.queue.popleft())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.per_host, len(host.queue))):
                group.create_task(work())

    async def _settle(self, address: str) -> None:
        try:
            self.found[address] = await self._picture(address)
        except _LostError as lost:
            self.found[address] = lost.reason
            if lost.by is not None:
                lost.by.turned_away.append(address)
        self.tally.settle(address, ok=isinstance(self.found[address], _Picture))

    async def _picture(self, address: str) -> _Picture:
        for attempt in range(self.config.tries):
            try:
                data = await self._follow(address)
                break
            except _LostError as lost:
                if not lost.transient or attempt + 1 == self.config.tries:
                    raise
            longest = min(self.config.longest_wait, self.config.shortest_wait * 2**attempt)
            # A stream of its own: the global one stays untouched, and nothing of it reaches a file.
            await asyncio.sleep(longest * random.Random(f"{address} {attempt}").uniform(0.5, 1))
        try:
            # In a thread: decoding takes longer than many an answer, and the others go on meanwhile.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self.journal.add, address, data)
        except CorruptImage as error:
            raise _LostError(error.what) from None

    async def _follow(self, address: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._host(address)
            async with host.turn():  # here, not by httpx: a redirect leads to a host that wants its pause, too
                answer = await self._request(host, address)
            if isinstance(answer, bytes):
                return answer
            address = answer
        raise _LostError("too many redirects")

    async def _request(self, host: _Host, address: str) -> bytes | str:
        """The body, or the address that a redirect leads to."""
        heard = False
        try:
            async with asyncio.timeout(self.config.timeout), self._client.stream("GET", address) as response:
                heard = True
                self._hear(host, response)
                if response.has_redirect_location:
                    target = _address(str(httpx.URL(address).join(response.headers["Location"])))
                    if target is None:
                        raise _LostError(NO_ADDRESS)
                    return target
                return await self._body(response)
        except _LostError:
            raise
        except Exception as error:  # broken links make the libraries below raise whatever comes; none may end the run
            reason, transient = _reason(error)
            if heard or not transient:
                raise _LostError(reason, transient=transient) from None
            host.refused(reason)
            raise _LostError(reason, transient=True, by=host) from None

    def _hear(self, host: _Host, response: httpx.Response) -> None:
        """Takes note of the status. Raises _LostError where it is none that a picture comes with."""
        status = response.status_code
        wait = _retry_after(response.headers.get("Retry-After")) if status == 429 or status >= 500 else None
        refusal = status == 429 or wait is not None
        if refusal:
            host.refused(str(status))
            host.rest(min(wait or 0.0, self.config.longest_wait))
        else:
            host.answered()
        if status != 200 and not response.has_redirect_location:
            transient = status in (408, 429) or status >= 500
            raise _LostError(str(status), transient=transient, by=host if refusal else None)

    async def _body(self, response: httpx.Response) -> bytes:
        announced = response.headers.get("Content-Length", "")
        body = bytearray()
        if announced.isdecimal() and float(announced) > self.config.max_bytes:
            raise _LostError("too large")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.config.max_bytes:
                raise _LostError("too large")
        return bytes(body)

    def _host(self, address: str) -> _Host:
        name = httpx.URL(address).netloc.decode("ascii")
        if name not in self._hosts:
            self._hosts[name] = _Host(name, self.config, self._requests)
        return self._hosts[name]


def _run(fetching: Coroutine[Any, Any, dict[str, _Picture | str]]) -> dict[str, _Picture | str]:
    try:
        return asyncio.run(fetching)
    except BaseExceptionGroup as group:  # a full disk, or an error in `progress`: it is one, and reads as one
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _reason(error: Exception) -> tuple[str, bool]:
    """Short and the same in every run (no address, number or wording of the system's), and whether it may pass."""
    causes = list(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "timed out", True
    if has(ssl.SSLCertVerificationError):
        return "certificate not valid", False
    if has(ssl.SSLError):
        return "TLS failed", True
    if has(socket.gaierror):
        return "name not resolved", True
    if has(ConnectionRefusedError):
        return "connection refused", True
    if isinstance(error, httpx.ConnectError):
        return "no connection", True
    if isinstance(error, (httpx.RemoteProtocolError, httpx.NetworkError)):
        return "connection dropped", True
    if isinstance(error, httpx.TransportError):
        return "request failed", True
    if isinstance(error, (UnicodeError, httpx.InvalidURL)):  # a name that DNS cannot have, such as "a..b"
        return NO_ADDRESS, False
    return f"request failed ({type(error).__name__})", False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            yield from _causes(inner)
        yield from _causes(error.__cause__ or error.__context__)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After asks for, given as seconds or as a date; None if it says neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


# --- Writing


def _member(item: str, picture: _Picture) -> str:
    # Quoted, an id has no slash and nothing that a zip could read in two ways. The suffix has no dot: no two ids meet.
    return f"{quote(item, safe='')}.{picture.suffix}"


def _row(link: _Link, outcome: _Picture | str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COVERAGE.names) | {"item": link.item, "url": link.url}
    if link.url is None:
        return row | {"status": "no_link"}
    if isinstance(outcome, str):
        return row | {"status": "failed", "error": outcome}
    image = f"{ARCHIVE}/{_member(link.item, outcome)}"
    return row | {"status": "ok", "image": image, "bytes": outcome.size, "sha256": outcome.sha256}


def _write_archive(path: Path, outcomes: list[tuple[_Link, _Picture | str]], earlier: ImageFiles) -> None:
    """One picture at a time is in memory. Not compressed: pictures are already."""
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for link, picture in outcomes:
            if isinstance(picture, _Picture):
                member = zipfile.ZipInfo(_member(link.item, picture), date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system, member.external_attr = 3, 0o100644 << 16  # as on Linux, wherever it is made
                source = picture.source
                archive.writestr(member, source.read_bytes() if isinstance(source, Path) else earlier.read(source))


def _coverage(rows: list[dict[str, Any]]) -> dict[str, Any]:
    statuses = Counter(row["status"] for row in rows)
    errors = Counter(row["error"] for row in rows if row["error"] is not None)
    return {
        "items": len(rows),
        **{status: statuses[status] for status in ("ok", "failed", "no_link")},
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "errors": dict(sorted(errors.items(), key=lambda entry: (-entry[1], entry[0]))),
    }
