"""Decisions that may be told again.

In:  verdicts that say for how long. Out: the same, for the same values of the same client by the same rule.
Rules: an answer is kept for what was asked in full: the rule and its parameters, every value that the adapter was given
and who is asked about, by certificate and token. What differs in any of it is another question. So an answer never
reaches somebody else, also where the rule does not look at who it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from lateen.mixer.adapter import CheckAdapter, Client, Verdict

__all__ = ["Cached", "DecisionCache"]

MOST: Final = 10_000
MOST_BYTES: Final = 16 << 20  # of verdicts; a question is a digest
BESIDE: Final = 400  # bytes that one costs besides its texts
LONGEST: Final = 3600.0  # seconds
_ENCODER: Final = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class DecisionCache:
    """All verdicts that are kept; the ones asked for longest ago go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits = 0
        self.misses = 0
        self._clock = clock
        self._bytes = 0
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def find(self, key: bytes) -> Verdict | None:
        found = self._kept.get(key)
        if found is None or self._clock() >= found[0]:
            self._forget(key)
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found[1]

    def keep(self, key: bytes, verdict: Verdict) -> None:
        if not verdict.ttl > 0:
            return
        self._forget(key)
        self._kept[key] = (self._clock() + min(verdict.ttl, LONGEST), verdict)
        self._bytes += _size(verdict)
        while len(self._kept) > MOST or self._bytes > MOST_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= _size(found[1])


class Cached:
    """An adapter whose verdicts are kept as long as they say."""

    def __init__(self, adapter: CheckAdapter, cache: DecisionCache, rule: str, parameters: object) -> None:
        self._adapter = adapter
        self._cache = cache
        self._rule = (rule, parameters)

    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        asked = _ENCODER.encode((self._rule, values, client.principal, client.claims))
        key = blake2b(asked, digest_size=32).digest()
        found = self._cache.find(key)
        if found is None:
            found = await self._adapter.check(values, client, seconds)
            self._cache.keep(key, found)
        return found


def _size(verdict: Verdict) -> int:
    texts = [verdict.body, *verdict.headers, *verdict.headers.values()]
    return BESIDE + sum(map(len, (*texts, *verdict.request_headers, *verdict.request_headers.values())))
