"""How hosts are asked: a few requests at a time, with pauses, and no more of one that does not answer."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import Field

from befa.config import configuration

GIVEN_UP = "host given up"

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


class LostError(Exception):
    """One request came to nothing. `by` is the host that refused it, if that was the reason."""

    def __init__(self, reason: str, *, transient: bool = False, by: "Host | None" = None) -> None:
        super().__init__(reason)
        self.reason, self.transient, self.by = reason, transient, by


class Host:
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
        """Whether it is not to be asked again in this run."""
        return self._refusals >= self.config.give_up_after

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until this host may be asked. Raises LostError once it is given up."""
        clock = asyncio.get_running_loop().time
        async with self._room:
            while True:
                # Slept outside of the semaphore for all hosts: a host that wants a pause holds up no other.
                await asyncio.sleep(max(0.0, self._not_before - clock()))
                async with self._requests:
                    if self.given_up:
                        raise LostError(GIVEN_UP)
                    if clock() < self._not_before:
                        continue
                    self._not_before = clock() + self.config.pause
                    yield
                    return

    def rest(self, seconds: float) -> None:
        """No request starts for so long."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    def answered(self) -> None:
        """Takes note of an answer that is no refusal."""
        # A host that was given up stays so, though a request that was under way may still be answered.
        self._refusals = self._refusals if self.given_up else 0

    def refused(self, reason: str) -> None:
        """Takes note of a refusal, and says so when it is the last one."""
        self._refusals += 1
        if self._refusals == self.config.give_up_after:
            log.warning("%s is given up after %d refusals in a row (%s)", self.name, self._refusals, reason)
