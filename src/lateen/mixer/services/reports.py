"""Access logs on their way from Envoys to rules: a queue with a bound, and a reader that lets decisions go first.

What comes when the queue is full is dropped and counted: nobody waits for a report, neither Envoy nor a decision. The
reader works in short slices and gives way after each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lateen.errors import BadInput
from lateen.mixer.services.asker import Asking
from lateen.mixer.services.entries import count_entries, parse_entries

__all__ = ["ReportQueue", "ReportStats"]

MAX_BYTES: Final = 16 << 20
SLICE: Final = 32  # entries; about a millisecond
MESSAGE_BYTES: Final = 200  # that a message costs besides its own

# Takes entries of one kind, all told by one proxy.
Take = Callable[[list[Any], Asking, bool], None]


@dataclass(slots=True)
class ReportStats:
    """Sums since the start, in entries."""

    taken: int = 0
    dropped: int = 0  # no room
    unreadable: int = 0  # messages


class ReportQueue:
    """Messages that wait. `put` never waits; `run` until cancelled."""

    def __init__(self, take: Take, *, max_bytes: int = MAX_BYTES) -> None:
        self.stats: Final = ReportStats()
        self._take = take
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[bytes, Asking]] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """How much waits."""
        return self._bytes

    def put(self, data: bytes, asking: Asking) -> bool:
        """Take a message; False: there was no room, and its entries are counted as dropped."""
        size = len(data) + MESSAGE_BYTES
        if self._bytes + size > self._max_bytes:
            self.stats.dropped += count_entries(data)
            return False
        self._waiting.append((data, asking))
        self._bytes += size
        self._woken.set()
        return True

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                data, asking = self._waiting.popleft()
                self._bytes -= len(data) + MESSAGE_BYTES
                await self._read(data, asking)

    async def _read(self, data: bytes, asking: Asking) -> None:
        try:
            entries, tcp = parse_entries(data)
        except BadInput:
            self.stats.unreadable += 1
            return
        for start in range(0, len(entries), SLICE):
            part = entries[start : start + SLICE]
            self._take(part, asking, tcp)
            self.stats.taken += len(part)
            await asyncio.sleep(0)  # decisions that came meanwhile
