"""What waits to be sent to one URL: bounded in number, size and age, sent in batches, dropped rather than waited for.

In:  entries, encoded as they come. Out: POSTs of many at a time.
A server that is away is tried again after 0.5 s, then after twice as long each time, up to half a minute. What it has
not taken stays at the front meanwhile; what is older than a minute goes, as does what finds no room. Both are counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from lateen.fetch import Caller, FetchError

__all__ = ["Entry", "SinkQueue"]

MOST: Final = 10_000
MOST_BYTES: Final = 16 << 20
BATCH: Final = 512
BATCH_BYTES: Final = 2 << 20
LONGEST_WAIT: Final = 60.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
SECONDS: Final = 10.0  # for one batch
MAX_ANSWER: Final = 64 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to tell. `group`: the workload that it is about; entries of one are told together."""

    group: str
    data: bytes


class SinkQueue:
    """Entries for one URL in one form."""

    def __init__(
        self,
        caller: Caller,
        url: str,
        *,
        pack: Callable[[Sequence[Entry]], bytes],
        content_type: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.shown = url.partition("?")[0]  # without what may be secret
        self.sent = 0
        self.dropped = 0
        self.fault = ""  # why it was not taken last, "" while all is well
        self._caller = caller
        self._pack = pack
        self._headers = {"content-type": content_type}
        self._clock = clock
        self._waiting: deque[tuple[float, Entry]] = deque()
        self._bytes = 0
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: Entry) -> bool:
        """Take an entry; False: there is no room, and it is dropped."""
        if len(self._waiting) >= MOST or self._bytes + len(entry.data) > MOST_BYTES:
            self.dropped += 1
            return False
        self._waiting.append((self._clock(), entry))
        self._bytes += len(entry.data)
        return True

    async def flush(self) -> None:
        """Send what waits, as far as it is taken now."""
        self._forget_old()
        while self._waiting and self._clock() >= self._not_before:
            batch = self._batch()
            if not await self._send(batch):
                return
            self._take(len(batch))
            self.sent += len(batch)

    def _batch(self) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for _, entry in self._waiting:
            if len(found) == BATCH or (found and size + len(entry.data) > BATCH_BYTES):
                break
            found.append(entry)
            size += len(entry.data)
        return found

    async def _send(self, batch: list[Entry]) -> bool:
        try:
            answer = await self._caller.post(
                self.url, self._pack(batch), headers=self._headers, max_bytes=MAX_ANSWER, seconds=SECONDS
            )
        except FetchError as error:
            self._failed(str(error))
            return False
        if 200 <= answer.status < 300:
            if self.fault:
                log.info("reports are taken again", url=self.shown)
            self.fault, self._pause = "", FIRST_PAUSE
            return True
        if answer.status == 429 or answer.status >= 500:
            self._failed(f"it answers {answer.status}")
            return False
        # It will not like these any better the next time.
        self._note(f"it answers {answer.status}, and what it was told is dropped")
        self.dropped += len(batch)
        self._take(len(batch))
        return False

    def _failed(self, why: str) -> None:
        self._note(why)
        self._not_before = self._clock() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _note(self, why: str) -> None:
        if not self.fault:
            log.warning("reports are not taken", url=self.shown, reason=why)
        self.fault = why

    def _forget_old(self) -> None:
        oldest = self._clock() - LONGEST_WAIT
        count = 0
        for since, _ in self._waiting:
            if since >= oldest:
                break
            count += 1
        self._take(count)
        self.dropped += count

    def _take(self, count: int) -> None:
        for _ in range(count):
            _, entry = self._waiting.popleft()
            self._bytes -= len(entry.data)
