"""Where each part of a rule runs, and why, for people. Pure.

In:  all rules. Out: for one of them, a `PartPlace` for each part and each traffic that it is about.
Placing is `mixer_placing`'s and `mixer`'s; what only one proxy knows (its rules that allow, of which one that must be
asked takes all others with it) is told of the rules that may be together with this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lateen.api.base import Object
from lateen.api.mixer import Rule
from lateen.api.rule_reading import gateway_of, read_rule
from lateen.expr.envoy import Where
from lateen.pilot.model.mixer_placing import Placed, allows, decides, may_matter, place, place_report

__all__ = ["PartPlace", "explain"]

ENVOY, MIXER = "Envoy", "Mixer"
_HOW: Final = {"deny": "RBAC, DENY", "allow": "RBAC, ALLOW", "limit": "local rate limit", "": "asked by ext_authz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlace:
    """One part of a rule for one traffic: "requests" or "connections"."""

    traffic: str
    part: str  # "check.deny", "quota", "report.log"
    runs: str  # "Envoy" | "Mixer"
    how: str
    why: str
    condition: str = ""  # as Envoy evaluates it


def explain(rule: Object, rules: Sequence[Object], *, root_namespace: str) -> list[PartPlace]:
    """Return where the parts of `rule` run. `rules` are all that there are; it is among them."""
    spec: Rule = rule.spec
    reading = read_rule(spec)
    found: list[PartPlace] = []
    if reading.checks is not None:
        found.extend(_decision(rule, rules, _where(rule, http=True), root_namespace))
        if reading.decides_connections:
            found.extend(_decision(rule, rules, _where(rule, http=False), root_namespace))
    if reading.reports is not None:
        traffics = ["requests", *(["connections"] if reading.reports_connections else [])]
        found.extend(part for traffic in traffics for part in _reports(rule, traffic))
    return found


def _where(rule: Object, *, http: bool) -> Where:
    kind = "outbound" if gateway_of(rule) else "inbound"
    return Where(http=http, namespace=rule.key.namespace, kind=kind)


def _decision(rule: Object, rules: Sequence[Object], where: Where, root: str) -> Iterator[PartPlace]:
    placed = place(_name(rule), rule.spec, where)
    if placed.kind == "allow":
        other = next((one for one in rules if _together(rule, one, root) and _asked(one, where)), None)
        if other is not None:
            why = f"{_name(other)} also allows and is asked: what one of several must match is decided in one place"
            placed = Placed(why=why)
    how = _HOW[placed.kind]
    if not placed.kind and where.http and not allows(rule.spec):
        always = not rule.spec.match or may_matter(rule.spec, where) is None
        how += ", for every request" if always else ", for requests that match"
    for part in decides(rule.spec):
        yield PartPlace(
            traffic="requests" if where.http else "connections",
            part=part,
            runs=ENVOY if placed.kind else MIXER,
            how=how,
            why=placed.why,
            condition=placed.text,
        )


def _reports(rule: Object, traffic: str) -> Iterator[PartPlace]:
    report = rule.spec.report
    placed = place_report(_name(rule), rule.spec, replace(_where(rule, http=traffic == "requests"), over=True))
    inside = placed.count is not None
    for name, written in zip(report.__struct_fields__, report.__struct_encode_fields__, strict=True):
        if getattr(report, name):
            yield PartPlace(
                traffic=traffic,
                part=f"report.{written}",
                runs=ENVOY if inside else MIXER,
                how="stats access log" if inside else "told in batches, when it is over",
                why=placed.why,
                condition=placed.count.when.text if placed.count is not None and placed.count.when is not None else "",
            )


def _together(rule: Object, other: Object, root: str) -> bool:
    """Return whether both may be for one proxy."""
    namespaces = {rule.key.namespace, other.key.namespace}
    return other.key != rule.key and allows(other.spec) and (len(namespaces) == 1 or root in namespaces)


def _asked(rule: Object, where: Where) -> bool:
    reading = read_rule(rule.spec)
    about_it = reading.checks is not None if where.http else reading.decides_connections
    return about_it and place(_name(rule), rule.spec, where).kind != "allow"


def _name(rule: Object) -> str:
    return f"{rule.key.namespace}/{rule.key.name}"
