"""Rules, compiled: what each needs to know, when it applies, what it does. Pure.

In:  a resource as it is written, checked already. Out: a `CompiledRule`.
Rules: docs/api/Rule.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateen.api.base import Object
from lateen.api.mixer import HeaderChanges, ListCheck, LogReport, MetricReport, Rule, RuleQuota
from lateen.api.rule_reading import RuleReading, asked_of, compiled, gateway_of, keys_of, read_rule, told_of
from lateen.expr import Expression, Read

__all__ = ["CompiledRule", "HeaderOps", "compile_rule", "quota_key"]


@dataclass(frozen=True, slots=True)
class HeaderOps:
    set: tuple[tuple[str, Expression], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """One rule. `name` is `<namespace>/<name>`."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]
    gateway: str  # "<namespace>/<name>" of the Gateway that it is for; "": it is for workloads
    age: tuple[str, str, str]  # its place among others of its namespace
    folder: Path  # of the file that it is in
    spec: Rule
    match: Expression | None
    request: HeaderOps
    response: HeaderOps
    listed: Expression | None
    asked: tuple[tuple[str, tuple[tuple[str, Expression], ...]], ...]  # adapters, each with what it is told
    by: tuple[Expression, ...]
    amount: Expression | None
    told: tuple[tuple[str, tuple[tuple[str, Expression], ...]], ...]  # adapters of reports, each with what it is told
    log: tuple[tuple[str, Expression], ...]
    metric_value: Expression | None
    metric_labels: tuple[tuple[str, Expression], ...]
    reading: RuleReading

    @property
    def elsewhere(self) -> bool:
        """Whether somebody else has to be asked."""
        return bool(self.asked) or (self.spec.quota is not None and self.spec.quota.shared)

    @property
    def reads(self) -> frozenset[Read]:
        return (self.reading.checks or frozenset()) | (self.reading.reports or frozenset())


def compile_rule(obj: Object) -> CompiledRule:
    """Return the rule. Raises: ExpressionError for what `lateen.api` would have refused."""
    rule: Rule = obj.spec
    match = compiled(rule.match) if rule.match else None
    check, quota, report = rule.check, rule.quota, rule.report
    headers = check.headers if check is not None else None
    request, response = (_ops(getattr(headers, side, None)) for side in ("request", "response"))
    listing: ListCheck | None = check.list if check is not None else None
    listed = compiled(listing.value) if listing is not None else None
    by = tuple(map(compiled, keys_of(quota))) if quota is not None else ()
    amount = compiled(quota.amount) if quota is not None and quota.amount else None
    log = _fields(report.log if report is not None else None, "fields")
    labels = _fields(report.metric if report is not None else None, "labels")
    metric: MetricReport | None = report.metric if report is not None else None
    value = compiled(metric.value) if metric is not None and metric.value else None
    return CompiledRule(
        name=f"{obj.key.namespace}/{obj.key.name}",
        namespace=obj.key.namespace,
        labels=tuple(sorted((rule.selector.match_labels or {}).items())) if rule.selector is not None else (),
        gateway=gateway_of(obj),
        age=(obj.created, obj.key.namespace, obj.key.name),
        folder=Path(obj.origin.file).parent,
        spec=rule,
        match=match,
        request=request,
        response=response,
        listed=listed,
        told=tuple((part, _compiled(values)) for part, values in told_of(rule)),
        asked=tuple((part, _compiled(values)) for part, values in asked_of(rule)),
        by=by,
        amount=amount,
        log=log,
        metric_value=value,
        metric_labels=labels,
        reading=read_rule(rule),
    )


def _ops(changes: HeaderChanges | None) -> HeaderOps:
    if changes is None:
        return HeaderOps()
    return HeaderOps(
        tuple((name.lower(), compiled(text)) for name, text in changes.set.items()),
        tuple(name.lower() for name in changes.remove),
    )


def _compiled(values: Mapping[str, str]) -> tuple[tuple[str, Expression], ...]:
    return tuple((name, compiled(text)) for name, text in values.items())


def _fields(report: LogReport | MetricReport | None, name: str) -> tuple[tuple[str, Expression], ...]:
    written: Mapping[str, str] = getattr(report, name) if report is not None else {}
    return tuple((name, compiled(text)) for name, text in written.items())


def quota_key(quota: RuleQuota) -> tuple[Any, ...]:
    """Return what makes counts of one rule those of another: a rule that changes otherwise keeps its counts."""
    return (quota.limit, quota.per, quota.by, quota.algorithm, quota.shared, quota.each)
