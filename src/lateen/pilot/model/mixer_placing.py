"""Where a rule's decision runs: in Envoy, where Envoy can decide the same, otherwise in Mixer. Pure.

In:  a rule, and the proxy and traffic that it is about (`lateen.expr.envoy.Where`). Out: a `Placed`, with the reason.
Rules: docs/design/0023-compiled-rules.md. A decision is placed as a whole: what is asked anyway is asked once.
`lateen mixer explain` shows these reasons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Final

from lateen.api.mixer import ListCheck, Rule, RuleQuota
from lateen.api.rule_reading import compiled
from lateen.expr.envoy import (
    EnvoyExpression,
    NotInEnvoy,
    Where,
    all_of,
    any_of,
    everything,
    keyed,
    listed,
    to_envoy,
)
from lateen.expr.envoy_needs import Need, needs_of
from lateen.pilot.model.values_called import Condition, Count, Limit, Refusal, Written

__all__ = ["Placed", "PlacedReport", "allows", "any_condition", "decides", "may_matter", "place", "place_report"]

SHORTEST_WINDOW: Final = timedelta(milliseconds=50)
MOST_TOKENS: Final = 4_000_000_000
_COUNTED: Final = re.compile(r"(?!istio_|envoy_|lateen_)[a-zA-Z_][a-zA-Z0-9_]*\Z")
# Parts that cannot be put into Envoy, and why.
_WHY_CALLED: Final = {
    "check.headers": "values of headers are worked out by Mixer",
    "check.webhook": "the answer of another server is asked for",
    "check.opa": "the answer of another server is asked for",
    "check.adapter": "a Python function decides",
    "quota": "its count is one for all proxies",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """`kind`: "deny", "allow" or "limit" in Envoy, "" in Mixer. `why`: a clause, for people."""

    kind: str = ""
    refusal: Refusal | None = None
    limit: Limit | None = None
    text: str = ""  # the condition as Envoy runs it
    why: str


def place(name: str, rule: Rule, where: Where) -> Placed:
    """Return where the checks and quotas of a rule run."""
    parts = decides(rule)
    try:
        match = _match(rule, where)
        if "check.deny" in parts:
            # Whoever matches is refused, whatever else the rule would do.
            return _refusing("deny", name, rule, match, where)
        if parts == ["check.allow"]:
            return _refusing("allow", name, rule, match, where)
        if parts == ["check.list"]:
            return _listing(name, rule, where)
        if parts == ["quota"] and rule.quota is not None and rule.quota.each == "proxy":
            return _limiting(name, rule, rule.quota, where)
    except NotInEnvoy as reason:
        return Placed(why=f"its condition {reason}")
    return Placed(why=_why_called(parts))


def may_matter(rule: Rule, where: Where) -> Condition | None:
    """Return when a rule that is called has anything to say; None: that is for Mixer to find out."""
    try:
        return _needing(rule, _condition(_match(rule, where), _match(rule, replace(where, vouched=False))), where)
    except NotInEnvoy:
        return None


def allows(rule: Rule) -> bool:
    return rule.check is not None and rule.check.allow is not None


def any_condition(conditions: Sequence[Condition]) -> Condition:
    """Return what holds where one of them does; there is at least one."""
    if len(conditions) == 1:
        return conditions[0]
    sides = zip(*((one.when, one.stranger) for one in conditions), strict=True)
    when, stranger = (any_of(*(EnvoyExpression(tree, "") for tree in trees)) for trees in sides)
    return _condition(when, stranger)


@lru_cache(maxsize=8192)
def _expression(text: str, where: Where) -> EnvoyExpression:
    return to_envoy(compiled(text), where)


@lru_cache(maxsize=8192)
def _needs(text: str) -> tuple[Need, ...]:
    return tuple(sorted(needs_of(compiled(text))))


def _match(rule: Rule, where: Where) -> EnvoyExpression:
    return _expression(rule.match, where) if rule.match else everything()


def _condition(vouched: EnvoyExpression, stranger: EnvoyExpression) -> Condition:
    return Condition(vouched.tree, stranger.tree)


def _needing(rule: Rule, condition: Condition, where: Where) -> Condition:
    """Return the condition with what must be so for a rule's `match` to hold."""
    if not where.http or not rule.match:
        return condition
    return replace(condition, needs=_needs(rule.match))


def decides(rule: Rule) -> list[str]:
    """Return what the rule decides, as it is written."""
    check = rule.check
    written = [f"check.{name}" for name in check.__struct_fields__ if getattr(check, name)] if check is not None else []
    return [*written, *(["quota"] if rule.quota is not None else [])]


def _why_called(parts: list[str]) -> str:
    reasons = [_WHY_CALLED[part] for part in parts if part in _WHY_CALLED]
    if reasons:
        return reasons[0]
    return f"{' and '.join(parts)} together are one question" if len(parts) > 1 else f"{parts[0]} is Python's"


def _refusing(kind: str, name: str, rule: Rule, match: EnvoyExpression, where: Where) -> Placed:
    deny = rule.check.deny if rule.check is not None else None
    condition = _needing(rule, _condition(match, _match(rule, replace(where, vouched=False))), where)
    refusal = Refusal(rule=name, condition=condition)
    if deny is not None:
        refusal = replace(
            refusal,
            status=deny.status,
            body=deny.body,
            headers=tuple((header.lower(), text) for header, text in deny.headers.items()),
        )
    return Placed(kind=kind, refusal=refusal, text=match.text, why="Envoy can evaluate its condition")


def _listing(name: str, rule: Rule, where: Where) -> Placed:
    assert rule.check is not None
    assert rule.check.list is not None
    check: ListCheck = rule.check.list
    if check.type != "STRINGS":
        return Placed(why=f"Envoy's expressions have no lists of {check.type}")
    if check.file or getattr(check, "url", ""):
        return Placed(why="its list changes without the rule")
    here, strange = (_listed(check, rule, variant) for variant in (where, replace(where, vouched=False)))
    condition = _needing(rule, _condition(here, strange), where)
    refusal = Refusal(rule=name, condition=condition, status=check.status, body=check.body)
    return Placed(kind="deny", refusal=refusal, text=here.text, why="Envoy can evaluate its condition and its list")


def _listed(check: ListCheck, rule: Rule, where: Where) -> EnvoyExpression:
    refused = listed(compiled(check.value), check.values, where, wanted=check.deny == "PRESENT")
    return all_of(_match(rule, where), refused) if rule.match else refused


def _limiting(name: str, rule: Rule, quota: RuleQuota, where: Where) -> Placed:
    if not where.http:
        return Placed(why="Envoy's limits of connections do not tell clients apart, and have no conditions")
    if quota.amount:
        return Placed(why="its amount is worked out by Mixer")
    if quota.per < SHORTEST_WINDOW:
        return Placed(why="Envoy's buckets are filled every 50 ms at most")
    if quota.limit > MOST_TOKENS:
        return Placed(why=f"Envoy's buckets hold at most {MOST_TOKENS:,}")
    # Where limits are kept, functions of texts cannot be switched on.
    plain = replace(where, texts=False)
    sides = (plain, replace(plain, vouched=False))
    limit = Limit(
        rule=name,
        limit=quota.limit,
        per=quota.per,
        condition=_condition(*(_match(rule, side) for side in sides)) if rule.match else None,
        by=tuple(_condition(*(keyed(compiled(text), side) for side in sides)) for text in quota.by),
        status=quota.status,
        body=quota.body,
    )
    return Placed(kind="limit", limit=limit, text=_match(rule, plain).text, why="each proxy counts for itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReport:
    """Where a rule's report is made: `count` in Envoy, None in Mixer. `why`: a clause, for people."""

    count: Count | None = None
    why: str


def place_report(name: str, rule: Rule, where: Where) -> PlacedReport:
    """Return where the report of a rule is made. `where` is about what is over."""
    report = rule.report
    assert report is not None
    metric = report.metric
    written = [part for part in report.__struct_fields__ if getattr(report, part)]
    if metric is None or written != ["metric"]:
        return PlacedReport(why="Python makes of it what the rule says")
    if metric.kind != "COUNTER" or metric.value:
        return PlacedReport(
            why="Envoy's counters count by one" if metric.value else f"Envoy has no {metric.kind} for it"
        )
    if not _COUNTED.match(metric.name):
        return PlacedReport(why="its name is of a kind that Envoy has for itself")
    plain = replace(where, texts=False)  # formats have no functions of texts
    try:
        labels = tuple((label, _written(text, plain)) for label, text in sorted(metric.labels.items()))
        when = _written(rule.match, where) if rule.match else None
    except NotInEnvoy as reason:
        return PlacedReport(why=f"an expression of it {reason}")
    return PlacedReport(
        count=Count(rule=name, metric=metric.name, when=when, labels=labels), why="Envoy counts it itself"
    )


def _written(text: str, where: Where) -> Written:
    return Written(_expression(text, where).text, _expression(text, replace(where, vouched=False)).text)
