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
from typing import Any, Final

import msgspec

from lateen.mixer.adapter import CheckAdapter, Client, Verdict

__all__ = ["Cached", "DecisionCache"]

MOST: Final = 10_000
LONGEST: Final = 3600.0  # seconds
_ENCODER: Final = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class DecisionCache:
    """All verdicts that are kept; the ones asked for longest ago go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits = 0
        self.misses = 0
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()

    def find(self, key: bytes) -> Verdict | None:
        found = self._kept.get(key)
        if found is None or self._clock() >= found[0]:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found[1]

    def keep(self, key: bytes, verdict: Verdict) -> None:
        if not verdict.ttl > 0:
            return
        self._kept[key] = (self._clock() + min(verdict.ttl, LONGEST), verdict)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)


class Cached:
    """An adapter whose verdicts are kept as long as they say."""

    def __init__(self, adapter: CheckAdapter, cache: DecisionCache, rule: str, parameters: object) -> None:
        self._adapter = adapter
        self._cache = cache
        self._rule = _ENCODER.encode((rule, parameters))

    async def check(self, values: Mapping[str, Any], client: Client) -> Verdict:
        key = self._rule + _ENCODER.encode((values, client.principal, client.claims))
        found = self._cache.find(key)
        if found is None:
            found = await self._adapter.check(values, client)
            self._cache.keep(key, found)
        return found
