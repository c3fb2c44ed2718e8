"""Whose turn it is: callers take turns, however many requests each of them has waiting.

A caller that asks for a thousand certificates at once waits for its own thousand; another's single request is next but
one. How many wait is bounded, in all and for each caller; one too many is told so at once, and its agent backs off.

gRPC hands requests over in the order of arrival, whoever sent them. So while they come in quick succession they are
taken in first, up to a bound, and served then: only what is in here can be put in order, and to take one in costs a
fifth of what it costs to serve it. A request that comes alone is served at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from lateen.errors import Unavailable

__all__ = ["AT_ONCE", "Busy", "Turns"]

AT_ONCE: Final = 16  # of an authority elsewhere, which is waited for; one in this process takes no time but its own
WAITING: Final = 20_000
WAITING_OF_ONE: Final = 10_000
GATHERED: Final = 2_000  # as many are taken in before the first is served; one holds about 16 kB
QUIET_SECONDS: Final = 0.001  # nothing has come for so long: serve what there is


class Busy(Unavailable):
    """More wait than may. Trying again later helps."""


class Turns:
    """Lets `at_once` through at a time, round robin by caller. Owned by one event loop."""

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        waiting: int = WAITING,
        waiting_of_one: int = WAITING_OF_ONE,
        gathered: int = GATHERED,
    ) -> None:
        self.waiting = 0  # now
        self.most_waiting = 0
        self.refused = 0
        self._at_once = at_once
        self._limit = waiting
        self._limit_of_one = waiting_of_one
        self._gathered = gathered
        self._inside = 0
        self._granting = False
        self._arrived = 0.0  # when the latest request came, on the loop's clock
        # Callers in the order of their turns. One that has nothing waiting is not in it, so it cannot grow by itself.
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for the caller's turn; the next one's begins when the body is left. Raises `Busy`."""
        queue = self._queues.get(caller)
        if self.waiting >= self._limit or (queue is not None and len(queue) >= self._limit_of_one):
            self.refused += 1
            raise Busy(f"{self.waiting} requests wait already; try again later")
        if queue is None:
            queue = self._queues[caller] = deque()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        now = asyncio.get_running_loop().time()
        alone = now - self._arrived > QUIET_SECONDS
        self._arrived = now
        self._grant_soon(0.0 if alone else QUIET_SECONDS)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # both at once: the turn was its own already
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._grant_soon(0.0)

    def _grant_soon(self, seconds: float) -> None:
        # Never at once: whoever has asked by then takes part.
        if not self._granting:
            self._granting = True
            asyncio.get_running_loop().call_later(seconds, self._grant)

    def _grant(self) -> None:
        self._granting = False
        left = self._arrived + QUIET_SECONDS - asyncio.get_running_loop().time()
        if self.waiting > 1 and self.waiting < self._gathered and left > 0:
            self._grant_soon(left)
            return
        while self._inside < self._at_once and self._queues:
            caller, queue = next(iter(self._queues.items()))
            granted = queue.popleft()
            self.waiting -= 1
            del self._queues[caller]  # to the end of the round
            if queue:
                self._queues[caller] = queue
            if not granted.done():  # else its caller has gone
                self._inside += 1
                granted.set_result(None)
