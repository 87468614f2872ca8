"""From addresses to pictures, or to the reason why there is none."""

import asyncio
import os
import random
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from befa.http import retry_after
from befa.images import CorruptImage
from befa.pictures.hosts import GIVEN_UP, Host, LostError, PicturesConfig
from befa.pictures.kept import Journal
from befa.pictures.links import NO_ADDRESS, Link, address_of
from befa.pictures.reasons import reason_of
from befa.pictures.writing import Picture
from befa.progress import Progress

MAX_REDIRECTS = 5


class Tally:
    """Counts items as their links are settled, for the caller's progress line."""

    def __init__(self, links: list[Link], asked: Mapping[str, int], progress: Progress | None) -> None:
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


class Fetcher:
    """One run's requests: each host's pictures in a queue of its own, all of them under one limit."""

    def __init__(self, config: PicturesConfig, journal: Journal, tally: Tally) -> None:
        self.config, self.journal, self.tally = config, journal, tally
        self.found: dict[str, Picture | str] = {}
        self._hosts: dict[str, Host] = {}

    async def fetch(self, addresses: Mapping[str, int]) -> dict[str, Picture | str]:
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

    async def _one_host(self, host: Host) -> None:
        async def work() -> None:
            while host.queue:
                await self._settle(host.queue.popleft())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.per_host, len(host.queue))):
                group.create_task(work())

    async def _settle(self, address: str) -> None:
        try:
            self.found[address] = await self._picture(address)
        except LostError as lost:
            self.found[address] = lost.reason
            if lost.by is not None:
                lost.by.turned_away.append(address)
        self.tally.settle(address, ok=isinstance(self.found[address], Picture))

    async def _picture(self, address: str) -> Picture:
        for attempt in range(self.config.tries):
            try:
                data = await self._follow(address)
                break
            except LostError as lost:
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
            raise LostError(error.what) from None

    async def _follow(self, address: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._host(address)
            async with host.turn():  # here, not by httpx: a redirect leads to a host that wants its pause, too
                answer = await self._request(host, address)
            if isinstance(answer, bytes):
                return answer
            address = answer
        raise LostError("too many redirects")

    async def _request(self, host: Host, address: str) -> bytes | str:
        """The body, or the address that a redirect leads to."""
        heard = False
        try:
            async with asyncio.timeout(self.config.timeout), self._client.stream("GET", address) as response:
                heard = True
                self._hear(host, response)
                if response.has_redirect_location:
                    target = address_of(str(httpx.URL(address).join(response.headers["Location"])))
                    if target is None:
                        raise LostError(NO_ADDRESS)
                    return target
                return await self._body(response)
        except LostError:
            raise
        except Exception as error:  # broken links make the libraries below raise whatever comes; none may end the run
            reason, transient = reason_of(error)
            if heard or not transient:
                raise LostError(reason, transient=transient) from None
            host.refused(reason)
            raise LostError(reason, transient=True, by=host) from None

    def _hear(self, host: Host, response: httpx.Response) -> None:
        """Takes note of the status. Raises LostError where it is none that a picture comes with."""
        status = response.status_code
        wait = retry_after(response.headers.get("Retry-After")) if status == 429 or status >= 500 else None
        refusal = status == 429 or wait is not None
        if refusal:
            host.refused(str(status))
            host.rest(min(wait or 0.0, self.config.longest_wait))
        else:
            host.answered()
        if status != 200 and not response.has_redirect_location:
            transient = status in (408, 429) or status >= 500
            raise LostError(str(status), transient=transient, by=host if refusal else None)

    async def _body(self, response: httpx.Response) -> bytes:
        announced = response.headers.get("Content-Length", "")
        body = bytearray()
        if announced.isdecimal() and float(announced) > self.config.max_bytes:
            raise LostError("too large")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.config.max_bytes:
                raise LostError("too large")
        return bytes(body)

    def _host(self, address: str) -> Host:
        name = httpx.URL(address).netloc.decode("ascii")
        if name not in self._hosts:
            self._hosts[name] = Host(name, self.config, self._requests)
        return self._hosts[name]


def run(fetching: Coroutine[Any, Any, dict[str, Picture | str]]) -> dict[str, Picture | str]:
    """What `fetching` comes to, in an event loop of its own. An error inside is raised by itself, not in its group."""
    try:
        return asyncio.run(fetching)
    except BaseExceptionGroup as group:  # a full disk, or an error in `progress`: it is one, and reads as one
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
