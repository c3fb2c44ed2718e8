"""Quotas in memory: exact, and bounded whoever asks. The clock is passed in.

FIXED: a window begins with its first charge and lasts `per`. BUCKET: full at first, fills evenly, a limit in `per`, as
Envoy's do. ROLLING: what was charged in the last `per`, told in
tenths of it. Keys beyond `MOST_KEYS` push out those that were charged longest ago: who made them up has then one
limit more, nobody has less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["TICKS", "BucketQuota", "Key", "MemoryQuota", "Quota", "SharedQuota"]

MOST_KEYS: Final = 100_000
TICKS: Final = 10
Key = tuple[str, ...]


class Quota(Protocol):
    """One rule's quota, in this process."""

    def charge(self, key: Key, amount: int) -> bool:
        """Take `amount` from what is left for `key`; False: there is not so much, and nothing is taken."""


class SharedQuota(Protocol):
    """One rule's quota, elsewhere."""

    async def take(self, key: Key, amount: int, seconds: float) -> bool:
        """As `Quota.charge`. Raises: AdapterError, also after `seconds`."""


class MemoryQuota:
    """A quota that this process alone keeps."""

    def __init__(self, limit: int, per_seconds: float, *, rolling: bool, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._per = per_seconds
        self._rolling = rolling
        self._clock = clock
        self._fixed: OrderedDict[Key, tuple[float, int]] = OrderedDict()  # key -> (end of the window, used)
        self._ticks: OrderedDict[Key, dict[int, int]] = OrderedDict()  # key -> tick -> used

    def __len__(self) -> int:
        return len(self._ticks if self._rolling else self._fixed)

    def charge(self, key: Key, amount: int) -> bool:
        return self._roll(key, amount) if self._rolling else self._fix(key, amount)

    def _fix(self, key: Key, amount: int) -> bool:
        now = self._clock()
        end, used = self._fixed.get(key, (0.0, 0))
        if now >= end:
            end, used = now + self._per, 0
        if used + amount > self._limit:
            return False
        self._fixed[key] = (end, used + amount)
        self._fixed.move_to_end(key)
        if len(self._fixed) > MOST_KEYS:
            self._fixed.popitem(last=False)
        return True

    def _roll(self, key: Key, amount: int) -> bool:
        tick = int(self._clock() / self._per * TICKS)
        ticks = self._ticks.setdefault(key, {})
        for old in [each for each in ticks if each <= tick - TICKS]:
            del ticks[old]
        if sum(ticks.values()) + amount > self._limit:
            return False
        ticks[tick] = ticks.get(tick, 0) + amount
        self._ticks.move_to_end(key)
        if len(self._ticks) > MOST_KEYS:
            self._ticks.popitem(last=False)
        return True


class BucketQuota:
    """Buckets that fill evenly, one a key."""

    def __init__(self, limit: int, per_seconds: float, *, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._rate = limit / per_seconds
        self._clock = clock
        self._levels: OrderedDict[Key, tuple[float, float]] = OrderedDict()  # key -> when, how much was in it then

    def charge(self, key: Key, amount: int) -> bool:
        now = self._clock()
        since, level = self._levels.get(key, (now, float(self._limit)))
        level = min(level + (now - since) * self._rate, float(self._limit))
        if level < amount:
            self._levels[key] = (now, level)
            return False
        self._levels[key] = (now, level - amount)
        self._levels.move_to_end(key)
        if len(self._levels) > MOST_KEYS:
            self._levels.popitem(last=False)
        return True
