"""Whether one rule of a policy matches a request, and if not, what it lacks.

Rules: Istio, AuthorizationPolicy: a rule is one of its sources, one of its operations and all its conditions; inside of
each, all fields; of a field, one value, and none of its `not` twin. On TCP, what only HTTP has is not there: an ALLOW
rule that asks for it never matches, a rule of another action goes without it and so matches more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lateen.api.security import Operation, Rule, Source
from lateen.authz.attributes import OPERATIONS, SOURCES, Attribute, Seen, condition_attribute

__all__ = ["what_fails"]


@dataclass(frozen=True, slots=True)
class _Clause:
    """One attribute and the values for it: one of `values` (if there are any) and none of `but`."""

    attribute: Attribute
    values: tuple[str, ...]
    but: tuple[str, ...]
    keeps_out: bool  # what matches the rule is refused, asked about or noted

    def fault(self, seen: Seen, namespace: str) -> str | None:
        """Return why it does not hold, `None` when it does."""
        attribute, out = self.attribute, self.keeps_out
        if self.values and not any(attribute.matches(value, seen, namespace, keeps_out=out) for value in self.values):
            return f"{attribute.name} is {attribute.shown(seen)}, wanted {_listed(self.values)}"
        unwanted = [value for value in self.but if attribute.matches(value, seen, namespace, keeps_out=not out)]
        if unwanted:
            return f"{attribute.name} is {attribute.shown(seen)}, not wanted is {_listed(unwanted)}"
        return None


def what_fails(rule: Rule, seen: Seen, *, action: str, namespace: str) -> str | None:
    """Return why `rule` does not match, `None` when it does. `namespace`: the policy's own."""
    keeps_out = action != "ALLOW"
    conditions = []
    for condition in rule.when:
        attribute = condition_attribute(condition.key)
        if attribute is None:
            return f"{condition.key} is no attribute"
        conditions.append(_Clause(attribute, condition.values, condition.not_values, keeps_out))
    sources = [_clauses(entry.source, SOURCES, keeps_out) for entry in rule.from_ or ()]
    operations = [_clauses(entry.operation, OPERATIONS, keeps_out) for entry in rule.to or ()]
    if not keeps_out:
        _stay_at_home(sources, conditions, seen)
    if seen.request.http is None:
        if action == "ALLOW":
            for clause in (*conditions, *_flat(sources), *_flat(operations)):
                if clause.attribute.http_only:
                    return f"{clause.attribute.name} is an attribute of HTTP, which this port does not speak"
        conditions = _for_tcp(conditions)
        sources = [_for_tcp(clauses) for clauses in sources]
        operations = [_for_tcp(clauses) for clauses in operations]
    return (
        _alternatives(sources, seen, namespace)
        or _alternatives(operations, seen, namespace)
        or _all(conditions, seen, namespace)
    )


def _stay_at_home(sources: list[list[_Clause]], conditions: list[_Clause], seen: Seen) -> None:
    """Let namespaces and accounts that grant something be those of the mesh, where no trust domain is told.

    A federated trust domain may have a namespace of the same name.
    """
    home = _Clause(SOURCES["trust_domains"], seen.trust_domains, (), keeps_out=False)
    if _tells_domain(conditions):
        return
    if _names_place(conditions) and not (sources and all(map(_tells_domain, sources))):
        conditions.append(home)
    for clauses in sources:
        if _names_place(clauses) and not _tells_domain(clauses):
            clauses.append(home)


def _names_place(clauses: Iterable[_Clause]) -> bool:
    wanted = (SOURCES["namespaces"], SOURCES["service_accounts"])
    return any(clause.values and clause.attribute in wanted for clause in clauses)


def _tells_domain(clauses: Iterable[_Clause]) -> bool:
    for clause in clauses:
        if clause.values and clause.attribute == SOURCES["trust_domains"]:
            return True
        if clause.attribute == SOURCES["principals"] and clause.values:
            return not any(value.startswith("*") for value in clause.values)
    return False


def _clauses(spec: Source | Operation | None, attributes: Mapping[str, Attribute], keeps_out: bool) -> list[_Clause]:
    found = []
    for field, attribute in attributes.items():
        values: Any = getattr(spec, field, ())
        but: Any = getattr(spec, f"not_{field}", ())
        if values or but:
            found.append(_Clause(attribute, values, but, keeps_out))
    return found


def _for_tcp(clauses: Iterable[_Clause]) -> list[_Clause]:
    return [clause for clause in clauses if not clause.attribute.http_only]


def _flat(alternatives: Iterable[Iterable[_Clause]]) -> Iterator[_Clause]:
    for clauses in alternatives:
        yield from clauses


def _alternatives(alternatives: list[list[_Clause]], seen: Seen, namespace: str) -> str | None:
    """Return why none of the alternatives holds, `None` when one does or there are none."""
    faults: list[str] = []
    for clauses in alternatives:
        fault = _all(clauses, seen, namespace)
        if fault is None:
            return None
        faults.append(fault)
    return "; ".join(dict.fromkeys(faults)) or None


def _all(clauses: Iterable[_Clause], seen: Seen, namespace: str) -> str | None:
    return next((fault for clause in clauses if (fault := clause.fault(seen, namespace)) is not None), None)


def _listed(values: Iterable[str]) -> str:
    return " or ".join(values)
