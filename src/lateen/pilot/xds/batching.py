"""Gather changes into batches: the first after quiet goes at once, under churn they come together.

Each batch that had to wait makes the gap before the next one longer, from 10 ms to 100 ms; quiet makes it short again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ["MAX_GAP_SECONDS", "MIN_GAP_SECONDS", "Batcher", "Pace"]

MIN_GAP_SECONDS: Final = 0.010
MAX_GAP_SECONDS: Final = 0.100

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Pace:
    """When the last batch ended and how long to wait after it. Times are monotonic seconds."""

    ended: float = float("-inf")
    gap_seconds: float = MIN_GAP_SECONDS

    def due(self, changed: float) -> float:
        """Return when a batch goes whose first change came at `changed`."""
        return max(changed, self.ended + self.gap_seconds)

    def after(self, *, changed: float, ended: float) -> Pace:
        """Return the pace once the batch whose first change came at `changed` was applied."""
        waited = changed < self.ended + self.gap_seconds
        return Pace(ended, min(self.gap_seconds * 2, MAX_GAP_SECONDS) if waited else MIN_GAP_SECONDS)


class Batcher(Generic[K, V]):
    """Merges pending changes by key, the later one wins; so it is bounded by the keys that exist."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._pending: dict[K, V] = {}
        self._first = 0.0
        self._some = asyncio.Event()

    def put(self, key: K, value: V) -> None:
        """Add a change. Call it on the event loop."""
        if not self._pending:
            self._first = self._clock()
            self._some.set()
        self._pending.pop(key, None)  # the order is that of the last change of each key
        self._pending[key] = value

    def wake(self) -> None:
        """Have a batch handed over soon, be it empty: somebody waits for time to pass. Call it on the event loop."""
        if not self._pending:
            self._first = self._clock()
            self._some.set()

    async def run(self, apply: Callable[[Mapping[K, V]], None]) -> None:
        """Hand batches to `apply`, until cancelled; what is pending then is dropped. What `apply` raises ends it."""
        pace = Pace()
        while True:
            await self._some.wait()
            changed = self._first
            wait_seconds = pace.due(changed) - self._clock()
            if wait_seconds > 0:
                await self._sleep(wait_seconds)
            batch, self._pending = self._pending, {}
            self._some.clear()
            apply(batch)
            pace = pace.after(changed=changed, ended=self._clock())
