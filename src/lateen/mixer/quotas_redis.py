"""Quotas in a Redis that several Mixers share: exact, since one script there looks and takes in one step.

In:  a key and an amount. Out: whether so much was left.
Rules: as `lateen.mixer.quotas`; the time is Redis', so that no clock differs. A key's name is a digest: what clients
send is not written down there. Keys go by themselves when their window is over.

Redis away is known at once: after `FAILURES` in a row a rule's charges are not tried for `PAUSE_SECONDS`, and fail
without a wait. The rule's failurePolicy says what becomes of them. One that does not answer within the rule's patience
fails, too; a charge that nobody waits for any more does not count.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import blake2b
from typing import Any, Final

import msgspec

from lateen.errors import BadInput
from lateen.mixer.adapter import AdapterError
from lateen.mixer.quotas import TICKS, Key

__all__ = ["RedisQuota", "RedisServer"]

PREFIX: Final = "lateen:quota:"
CONNECT_SECONDS: Final = 0.25
ANSWER_SECONDS: Final = 0.25
FAILURES: Final = 3
PAUSE_SECONDS: Final = 1.0
MOST_CONNECTIONS: Final = 64
# KEYS: the count's. ARGV: limit, window in ms, amount, tenths (0: a fixed window). 1: taken, 0: not so much is left.
# A fixed window is a number that ends with it; a rolling one a hash of tenths.
_SCRIPT: Final = """
local limit, window, amount, tenths = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if tenths == 0 then
  local used = tonumber(redis.call('GET', KEYS[1]) or '0')
  if used + amount > limit then return 0 end
  if used == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('SET', KEYS[1], amount, 'PX', window)
  else
    redis.call('INCRBY', KEYS[1], amount)
  end
  return 1
end
local now = redis.call('TIME')
local tick = math.floor((tonumber(now[1]) * 1000 + tonumber(now[2]) / 1000) / window * tenths)
local used, ticks = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #ticks, 2 do
  if tonumber(ticks[i]) <= tick - tenths then
    redis.call('HDEL', KEYS[1], ticks[i])
  else
    used = used + tonumber(ticks[i + 1])
  end
end
if used + amount > limit then return 0 end
redis.call('HINCRBY', KEYS[1], tick, amount)
redis.call('PEXPIRE', KEYS[1], window)
return 1
"""


class RedisServer:
    """One Redis. Made without being there; connects when it is asked first."""

    def __init__(self, url: str) -> None:
        """`url`: `redis://[user:password@]host[:port][/db]`, `rediss://...` or `unix://path`. Raises: BadInput."""
        from redis.asyncio import Redis
        from redis.asyncio.connection import BlockingConnectionPool
        from redis.exceptions import RedisError

        self._errors = (RedisError, OSError, TimeoutError)
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=MOST_CONNECTIONS,
                timeout=ANSWER_SECONDS,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=ANSWER_SECONDS,
            )
        except (ValueError, TypeError):
            # Its own words hold the URL, and that a password.
            raise BadInput("the URL of Redis cannot be read: redis://[user:password@]host:port/db wanted") from None
        self._redis: Any = Redis.from_pool(pool)
        self._script: Any = self._redis.register_script(_SCRIPT)
        self.fault = ""  # what was wrong last, "" while all is well

    async def take(self, key: bytes, limit: int, window_ms: int, amount: int, tenths: int, seconds: float) -> bool:
        """Return whether `amount` was taken. Raises: AdapterError when Redis does not say, also after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                taken = await self._script(keys=[key], args=[limit, window_ms, amount, tenths])
        except self._errors as error:
            self.fault = f"Redis does not answer: {_plain(error)}"
            raise AdapterError(self.fault) from None
        self.fault = ""
        return bool(taken)

    async def close(self) -> None:
        await self._redis.aclose()


class RedisQuota:
    """One rule's quota, kept there."""

    def __init__(self, server: RedisServer, name: str, limit: int, per_seconds: float, *, rolling: bool) -> None:
        """`name`: what makes counts of one rule those of no other."""
        self._server = server
        self._name = name
        self._limit = limit
        self._window_ms = max(int(per_seconds * 1000), 1)
        self._tenths = TICKS if rolling else 0
        self._failures = 0
        self._rests_until = 0.0

    async def take(self, key: Key, amount: int, seconds: float) -> bool:
        """Take `amount` from what is left for `key`; False: there is not so much, and nothing is taken.

        Raises: AdapterError, also after `seconds`.
        """
        if time.monotonic() < self._rests_until:
            raise AdapterError(self._server.fault or "Redis did not answer, and is asked again in a moment")
        counted = msgspec.json.encode((self._name, self._limit, self._window_ms, self._tenths, key))
        where = f"{PREFIX}{blake2b(counted, digest_size=16).hexdigest()}".encode()
        try:
            taken = await self._server.take(where, self._limit, self._window_ms, amount, self._tenths, seconds)
        except AdapterError:
            self._failures += 1
            if self._failures >= FAILURES:
                self._rests_until = time.monotonic() + PAUSE_SECONDS
            raise
        self._failures = 0
        return taken


def _plain(error: BaseException) -> str:
    """Return the error's words, one line, without what may be secret."""
    text = str(error).partition("\n")[0][:200]
    return text if text and "://" not in text else type(error).__name__
