"""Puts rules in force, and keeps what outlives them: counts of quotas, lists, lines that wait, metrics, adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from lateen.api.base import Object, Problem
from lateen.api.mixer import ListCheck, RuleQuota
from lateen.expr import ExpressionError
from lateen.expr.lists import ValueList
from lateen.mixer.engine import Engine
from lateen.mixer.equipment import EngineStats, Equipment
from lateen.mixer.listed import Listed
from lateen.mixer.logbook import Logbook
from lateen.mixer.means import NOTHING, Means, Outside
from lateen.mixer.meters import Meters, escaped
from lateen.mixer.quotas import BucketQuota, MemoryQuota, Quota
from lateen.mixer.rules import CompiledRule, compile_rule, quota_key

__all__ = ["RuleCourt", "make_court"]

log = structlog.get_logger(__name__)
SAY_REDIS: Final = "`lateen up` and `lateen mixer serve` take one with --redis URL"
ROOT_NAMESPACE: Final = "istio-system"
FETCH_LOOK_SECONDS: Final = 0.2
FAILING_SECONDS: Final = 60.0  # for how long it is told that an adapter failed
LOOK_SECONDS: Final = 2.0  # how often files of lists are looked at


def make_court(*, logs: Path | None = None, root_namespace: str = ROOT_NAMESPACE, means: Means = NOTHING) -> RuleCourt:
    """Return a court without rules. `logs`: the folder that rules may log into. Raises: BadInput."""
    return RuleCourt(Logbook(logs), root_namespace=root_namespace, clock=time.monotonic, means=means)


class RuleCourt:
    """See `lateen.mixer.process.Court`."""

    def __init__(
        self, logbook: Logbook, *, root_namespace: str, clock: Callable[[], float], means: Means = NOTHING
    ) -> None:
        self.stats: Final = EngineStats()
        self._logbook = logbook
        self._root = root_namespace
        self._clock = clock
        self._meters = Meters()
        self._quotas: dict[str, tuple[Any, Quota]] = {}
        self._outside = Outside(means, clock)
        self._failures: dict[tuple[str, str], tuple[float, str]] = {}  # (rule, part) -> when, why; of adapters
        self._lists: dict[str, Listed] = {}
        self._rules: list[tuple[Object, CompiledRule]] = []
        self._faults: list[Problem] = []

    def judge(self, rules: Sequence[Object]) -> Engine:
        """Put rules in force. One that cannot be compiled is left out, and told."""
        self._faults = []
        self._rules = []
        for obj in rules:
            try:
                self._rules.append((obj, compile_rule(obj)))
            except ExpressionError as error:
                self._faults.append(obj.problem("spec", str(error)))
        compiled = [rule for _, rule in self._rules]
        self._outside.begin()
        self._lists = {rule.name: self._listed(rule) for rule in compiled if _list_of(rule) is not None}
        self._quotas = {
            rule.name: self._quota(rule, rule.spec.quota)
            for rule in compiled
            if rule.spec.quota is not None and not rule.spec.quota.shared
        }
        shared = {rule.name: self._outside.quota(rule) for rule in compiled if _is_shared(rule)}
        self._failures = {}
        equipment = Equipment(
            list_of=self._entries,
            quotas={name: quota for name, (_, quota) in self._quotas.items()},
            shared={name: quota for name, quota in shared.items() if quota is not None},
            adapters={(one.name, part): self._outside.adapter(one, part) for one in compiled for part, _ in one.asked},
            sinks={(one.name, part): self._outside.sink(one, part) for one in compiled for part, _ in one.told},
            note=self._note,
            logbook=self._logbook,
            meters=self._meters,
            metrics=frozenset(self._counted()),
            stats=self.stats,
        )
        self._outside.keep()
        return Engine(compiled, equipment, root_namespace=self._root)

    def problems(self) -> Sequence[Problem]:
        return [*self._faults, *self._shortages(), *self._outside.own.problems()]

    def metrics(self) -> str:
        """Return Prometheus' text: of Mixer itself, then what rules count."""
        return "".join(f"{line}\n" for line in self._own_metrics()) + self._meters.text()

    async def run(self) -> None:
        """Write lines and look at files of lists, until cancelled."""

        async def look() -> None:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for listed in self._lists.values():
                    listed.look()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._logbook.run())
            tasks.create_task(look())
            if not self._outside.offline:
                tasks.create_task(self._fetch_lists())
            tasks.create_task(self._outside.own.run())
            tasks.create_task(self._outside.sinks.run())

    async def close(self) -> None:
        await self._logbook.flush()
        await self._outside.close()

    async def _fetch_lists(self) -> None:
        """Have what URLs hold, each as often as its rule says, and at once when it is new."""
        fetching: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                for listed in self._lists.values():
                    # One at a time of each: who answers slowly is not asked twice.
                    if listed.is_due() and (id(listed) not in fetching or fetching[id(listed)].done()):
                        fetching[id(listed)] = asyncio.create_task(listed.fetch(self._outside.fetcher))
                fetching = {key: task for key, task in fetching.items() if not task.done()}
                await asyncio.sleep(FETCH_LOOK_SECONDS)
        finally:
            for task in fetching.values():
                task.cancel()

    # ---- what rules need

    def _entries(self, rule: str) -> ValueList | None:
        listed = self._lists.get(rule)
        return listed.entries if listed is not None else None

    def _listed(self, rule: CompiledRule) -> Listed:
        check = _list_of(rule)
        assert check is not None
        known = self._lists.get(rule.name)
        if known is not None and known.check == check and known.folder == rule.folder:
            known.look()
            return known
        return Listed(check, rule.folder, self._clock)

    def _note(self, rule: str, part: str, why: str) -> None:
        if (rule, part) not in self._failures:
            log.warning("adapter failed", rule=rule, adapter=part, reason=why)
        self._failures[rule, part] = (self._clock(), why)

    def _quota(self, rule: CompiledRule, quota: RuleQuota) -> tuple[Any, Quota]:
        key = quota_key(quota)
        known = self._quotas.get(rule.name)
        if known is not None and known[0] == key:
            return known
        if quota.each == "proxy":
            return key, BucketQuota(quota.limit, quota.per.total_seconds(), clock=self._clock)
        rolling = quota.algorithm == "ROLLING"
        return key, MemoryQuota(quota.limit, quota.per.total_seconds(), rolling=rolling, clock=self._clock)

    def _counted(self) -> Iterator[str]:
        """Yield the rules whose metric is counted; tell why of the others."""
        metrics = [
            (obj, rule, rule.spec.report.metric)
            for obj, rule in self._rules
            if rule.spec.report is not None and rule.spec.report.metric is not None
        ]
        self._meters.keep(frozenset(metric.name for _, _, metric in metrics))
        for obj, rule, metric in metrics:
            fault = self._meters.fault(metric)
            if fault:
                self._faults.append(obj.problem("spec.report.metric", fault))
            else:
                yield rule.name

    def _shortages(self) -> Iterator[Problem]:
        for obj, rule in self._rules:
            listed = self._lists.get(rule.name)
            for field, fault in listed.faults if listed is not None else ():
                yield obj.problem(f"spec.check.list.{field}", fault)
            if _is_shared(rule) and not self._outside.shares:
                yield obj.problem("spec.quota.shared", f"there is no Redis: {SAY_REDIS}")
            elif _is_shared(rule) and self._outside.redis is not None and self._outside.redis.fault:
                yield obj.problem("spec.quota.shared", self._outside.redis.fault, level="warning")
            for part, fault in self._outside.sinks.faults(rule):
                yield obj.problem(f"spec.report.{part}.url", f"is not told what it should be: {fault}", level="warning")
            for place, binding in self._outside.bound(rule):
                if binding.fault:
                    at = f"{place}.params.{binding.place}" if binding.place else place
                    yield obj.problem(at.removesuffix("."), binding.fault)
            for part, _ in rule.asked:
                when, why = self._failures.get((rule.name, part), (-FAILING_SECONDS, ""))
                if why and self._clock() - when < FAILING_SECONDS:
                    yield obj.problem(f"spec.check.{part}", f"failed lately: {why}", level="warning")
            report = rule.spec.report
            if report is not None and report.log is not None and report.log.file in self._logbook.failures:
                reason = self._logbook.failures[report.log.file]
                yield obj.problem("spec.report.log.file", f"cannot be written: {reason}")

    def _own_metrics(self) -> Iterator[str]:
        yield "# TYPE mixer_rule_checks_total counter"
        for (rule, result), count in sorted(self.stats.results.items()):
            yield f'mixer_rule_checks_total{{rule="{rule}",result="{result}"}} {count}'
        yield "# TYPE mixer_report_entries_total counter"
        for (rule, result), count in sorted(self.stats.reported.items()):
            yield f'mixer_report_entries_total{{rule="{rule}",result="{result}"}} {count}'
        for name, count in (("hits", self._outside.cache.hits), ("misses", self._outside.cache.misses)):
            yield f"# TYPE mixer_decision_cache_{name}_total counter"
            yield f"mixer_decision_cache_{name}_total {count}"
        for name in ("sent", "dropped"):
            yield f"# TYPE mixer_sink_entries_{name}_total counter"
            for part, url, sent, dropped in self._outside.sinks.counts():
                labels = f'sink="{part}",url="{escaped(url)}"'
                yield f"mixer_sink_entries_{name}_total{{{labels}}} {sent if name == 'sent' else dropped}"
        yield "# TYPE mixer_adapter_calls_total counter"
        own = self._outside.own
        for (kind, name, result), count in sorted(own.calls.items()):
            yield f'mixer_adapter_calls_total{{adapter="{name}",kind="{kind}",result="{result}"}} {count}'
        for name, count in (("starts", own.starts), ("ends", own.ends)):
            yield f"# TYPE mixer_adapter_worker_{name}_total counter"
            yield f"mixer_adapter_worker_{name}_total {count}"
        yield "# TYPE mixer_log_lines_dropped_total counter"
        yield f"mixer_log_lines_dropped_total {self._logbook.dropped}"
        yield "# TYPE mixer_metric_series_dropped_total counter"
        yield f"mixer_metric_series_dropped_total {self._meters.dropped}"


def _is_shared(rule: CompiledRule) -> bool:
    return rule.spec.quota is not None and rule.spec.quota.shared


def _list_of(rule: CompiledRule) -> ListCheck | None:
    return rule.spec.check.list if rule.spec.check is not None else None
