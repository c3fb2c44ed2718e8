"""Puts rules in force, and keeps what outlives them: counts of quotas, lists of files, lines that wait, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from lateen.api.base import Object, Problem
from lateen.api.mixer import ListCheck, RuleQuota
from lateen.expr import ExpressionError
from lateen.expr.lists import ListError, ValueList, build_list
from lateen.mixer.engine import Engine, EngineStats, Equipment
from lateen.mixer.logbook import Logbook
from lateen.mixer.meters import Meters
from lateen.mixer.quotas import MemoryQuota, Quota
from lateen.mixer.rules import CompiledRule, compile_rule, quota_key

__all__ = ["RuleCourt", "make_court"]

ROOT_NAMESPACE: Final = "istio-system"
LONGEST_FILE: Final = 16 << 20  # bytes of a list
LOOK_SECONDS: Final = 2.0  # how often files of lists are looked at


def make_court(*, logs: Path | None = None, root_namespace: str = ROOT_NAMESPACE) -> RuleCourt:
    """Return a court without rules. `logs`: the folder that rules may log into."""
    return RuleCourt(Logbook(logs), root_namespace=root_namespace, clock=time.monotonic)


class RuleCourt:
    """See `lateen.mixer.process.Court`."""

    def __init__(self, logbook: Logbook, *, root_namespace: str, clock: Callable[[], float]) -> None:
        self.stats: Final = EngineStats()
        self._logbook = logbook
        self._root = root_namespace
        self._clock = clock
        self._meters = Meters()
        self._quotas: dict[str, tuple[Any, Quota]] = {}
        self._lists: dict[str, _Listed] = {}
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
        self._lists = {rule.name: self._listed(rule) for rule in compiled if _list_of(rule) is not None}
        self._quotas = {
            rule.name: self._quota(rule, rule.spec.quota) for rule in compiled if rule.spec.quota is not None
        }
        return Engine(
            compiled,
            Equipment(
                list_of=self._entries,
                quotas={name: quota for name, (_, quota) in self._quotas.items()},
                logbook=self._logbook,
                meters=self._meters,
                metrics=frozenset(self._counted()),
                stats=self.stats,
            ),
            root_namespace=self._root,
        )

    def problems(self) -> Sequence[Problem]:
        return [*self._faults, *self._shortages()]

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

    async def close(self) -> None:
        await self._logbook.flush()

    # ---- what rules need

    def _entries(self, rule: str) -> ValueList | None:
        listed = self._lists.get(rule)
        return listed.entries if listed is not None else None

    def _listed(self, rule: CompiledRule) -> _Listed:
        check = _list_of(rule)
        assert check is not None
        known = self._lists.get(rule.name)
        if known is not None and known.check == check and known.folder == rule.folder:
            known.look()
            return known
        return _Listed(check, rule.folder)

    def _quota(self, rule: CompiledRule, quota: RuleQuota) -> tuple[Any, Quota]:
        key = quota_key(quota)
        known = self._quotas.get(rule.name)
        if known is not None and known[0] == key:
            return known
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
            if listed is not None and listed.fault:
                yield obj.problem("spec.check.list.file", listed.fault)
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
        yield "# TYPE mixer_log_lines_dropped_total counter"
        yield f"mixer_log_lines_dropped_total {self._logbook.dropped}"
        yield "# TYPE mixer_metric_series_dropped_total counter"
        yield f"mixer_metric_series_dropped_total {self._meters.dropped}"


def _list_of(rule: CompiledRule) -> ListCheck | None:
    return rule.spec.check.list if rule.spec.check is not None else None


class _Listed:
    """The list of one rule: what it says itself, and a file that may change. A file that goes bad stays as it was."""

    def __init__(self, check: ListCheck, folder: Path) -> None:
        self.check = check
        self.folder = folder
        self.entries: ValueList | None = None
        self.fault = ""
        self._stamp: object = None
        if check.file:
            self.look()
        else:
            self.entries = build_list(check.type, check.values)

    def look(self) -> None:
        """Read the file again if it is another one."""
        if not self.check.file:
            return
        path = self.folder / self.check.file
        try:
            info = path.stat()
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            if stamp == self._stamp:
                return
            if info.st_size > LONGEST_FILE:
                raise OSError(f"has more than {LONGEST_FILE >> 20} MiB")
            lines = path.read_text().splitlines()
            entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            self.entries = build_list(self.check.type, [*self.check.values, *entries])
        except (OSError, UnicodeError, ListError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            after = "; what was read last stays in force" if self.entries is not None else ""
            self.fault = f"{path} cannot be used: {reason}{after}"
            return
        self._stamp, self.fault = stamp, ""
