"""What Mixer may use beside itself: given by its operator, never by a rule.

`Means` is what was given; `Outside` is what was made of it, and makes adapters and quotas of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lateen.fetch import Caller, Fetcher, Guard
from lateen.mixer.adapter import CheckAdapter, Client, ReportAdapter, Verdict
from lateen.mixer.adapters.web import OpaCheck, WebhookCheck
from lateen.mixer.cache import Cached, DecisionCache
from lateen.mixer.own.adapters import OwnAdapters
from lateen.mixer.own.binding import Binding
from lateen.mixer.own.uses import OwnCheck, OwnReport
from lateen.mixer.quotas import Key, MemoryQuota, SharedQuota
from lateen.mixer.quotas_redis import RedisQuota, RedisServer
from lateen.mixer.rules import CompiledRule
from lateen.mixer.sinks.sinks import SINKS, Sinks

__all__ = ["NOTHING", "Means", "Outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """`redis`: URL of the server for shared quotas; "": none. `guard`: where rules may have somebody asked.
    `ca_file`: roots that are trusted for https beside the system's. `adapters`: a folder of adapters of one's own.
    `offline`: no other server is asked, and those adapters let pass; what URLs hold is not fetched.
    """

    redis: str = ""
    adapters: Path | None = None
    guard: Guard = field(default_factory=Guard)
    ca_file: Path | None = None
    offline: bool = False


NOTHING: Final = Means()


class Outside:
    """Use `close` at the end."""

    def __init__(self, means: Means, clock: Callable[[], float]) -> None:
        """Raises: BadInput for a URL that is none."""
        self.offline = means.offline
        self._clock = clock
        self.redis = RedisServer(means.redis) if means.redis and not means.offline else None
        self.fetcher = Fetcher(means.guard, ca_file=means.ca_file)
        self.caller = Caller(means.guard, ca_file=means.ca_file)
        self.cache = DecisionCache(clock)
        self.sinks = Sinks(self.caller, clock)
        self.own = OwnAdapters(means.adapters, on_load=self.cache.clear)
        self._bound: dict[tuple[str, str], Binding] = {}

    def adapter(self, rule: CompiledRule, part: str) -> CheckAdapter:
        """Return the adapter of one part of a rule's check."""
        check = rule.spec.check
        assert check is not None
        if part == "adapter":
            assert check.adapter is not None
            binding = self.own.bind("check", check.adapter.name, check.adapter.params)
            self._bound[rule.name, "check"] = binding
            own = OwnCheck(self.own, binding)
            return Cached(own, self.cache, f"{rule.name} {part}", binding.key)
        if self.offline:
            return _LETS_PASS
        if part == "webhook":
            assert check.webhook is not None
            url, made = check.webhook.url, WebhookCheck(self.caller, check.webhook.url, rule.name)
            return Cached(made, self.cache, f"{rule.name} {part}", url)
        assert check.opa is not None
        asked = OpaCheck(self.caller, check.opa.url, rule.name)
        return Cached(asked, self.cache, f"{rule.name} {part}", check.opa.url)

    def sink(self, rule: CompiledRule, part: str) -> ReportAdapter:
        """Return the adapter of one part of a rule's report."""
        if part in SINKS:
            return self.sinks.sink(rule, part)
        report = rule.spec.report
        assert report is not None
        assert report.adapter is not None
        binding = self.own.bind("report", report.adapter.name, report.adapter.params)
        self._bound[rule.name, "report"] = binding
        return OwnReport(self.own, binding)

    def begin(self) -> None:
        """Rules are put in force anew: what they bind is bound from now on."""
        self._bound = {}
        self.sinks.begin()

    def keep(self) -> None:
        """That was all: forget what no rule binds any more."""
        self.own.keep(list(self._bound.values()))
        self.sinks.keep()

    def bound(self, rule: CompiledRule) -> Iterator[tuple[str, Binding]]:
        """Yield the adapters of one's own that a rule has, by the field."""
        for kind in ("check", "report"):
            if (rule.name, kind) in self._bound:
                yield f"spec.{kind}.adapter", self._bound[rule.name, kind]

    def quota(self, rule: CompiledRule) -> SharedQuota | None:
        """Return the shared counts of a rule; None: there is nothing to share them by."""
        quota = rule.spec.quota
        assert quota is not None
        seconds, rolling = quota.per.total_seconds(), quota.algorithm == "ROLLING"
        if self.offline:
            return _Alone(MemoryQuota(quota.limit, seconds, rolling=rolling, clock=self._clock))
        if self.redis is None:
            return None
        return RedisQuota(self.redis, rule.name, quota.limit, seconds, rolling=rolling)

    @property
    def shares(self) -> bool:
        """Whether there is anything to share counts by."""
        return self.offline or self.redis is not None

    async def close(self) -> None:
        await self.own.close()
        if not self.offline:
            await self.sinks.close()
        await self.caller.close()
        if self.redis is not None:
            await self.redis.close()


class _LetsPass:
    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        return Verdict.allow()


_LETS_PASS: Final = _LetsPass()


class _Alone:
    """Counts that would be shared, kept here."""

    def __init__(self, counts: MemoryQuota) -> None:
        self._counts = counts

    async def take(self, key: Key, amount: int, seconds: float) -> bool:
        return self._counts.charge(key, amount)
