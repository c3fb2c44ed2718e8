"""One rule of a policy as one policy of Envoy's RBAC filter, for HTTP or for connections of bytes.

A rule matches when one of its sources, one of its operations and all of its conditions do. On TCP the attributes that
only HTTP has are not there: an ALLOW rule that asks for one never matches, and a rule of another action goes without
it, which makes it match more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal

from lateen.api.policy_reading import POLICY_TEXT_BYTES
from lateen.pilot.translate.authz.attributes import (
    OPERATIONS,
    SOURCES,
    Attribute,
    Place,
    permission_of,
    principal_of,
)
from lateen.pilot.translate.authz.leaning import Leaning
from lateen.pilot.translate.authz.logic import PERMISSIONS, PRINCIPALS, Logic

__all__ = ["NEVER", "build_rule"]

M = TypeVar("M", Permission, Principal)

PLACES = (SOURCES["namespaces"], SOURCES["service_accounts"])  # within a trust domain

NEVER = Policy(permissions=[PERMISSIONS.never], principals=[PRINCIPALS.never])


@dataclass(frozen=True, slots=True)
class _Clause(Generic[M]):
    """One attribute and what is said of it: one of `values`, if there are any, and none of `but`."""

    attribute: Attribute[M]
    values: tuple[str, ...]
    but: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A rule, taken apart. An alternative is a row of clauses that must all hold."""

    sources: list[list[_Clause[Principal]]]
    operations: list[list[_Clause[Permission]]]
    of_source: list[_Clause[Principal]]  # conditions
    of_destination: list[_Clause[Permission]]
    unknown: bool  # a condition asks about something that is not known

    def asks_http(self) -> bool:
        rows: list[Sequence[_Clause[Any]]] = [*self.sources, *self.operations, self.of_source, self.of_destination]
        return any(clause.attribute.http_only for row in rows for clause in row)


def build_rule(rule: Any, place: Place, *, tcp: bool) -> Policy:
    """Return what one api Rule is for HTTP chains, or with `tcp` for others. Never one that Envoy refuses."""
    grants = place.leaning is Leaning.GRANTS
    parts = _at_home(_parts(rule), place) if grants else _parts(rule)
    if grants and (parts.unknown or (tcp and parts.asks_http())):
        return NEVER
    return Policy(
        permissions=_alternatives(PERMISSIONS, parts.operations, parts.of_destination, place, tcp),
        principals=_alternatives(PRINCIPALS, parts.sources, parts.of_source, place, tcp),
    )


def _parts(rule: Any) -> _Parts:
    of_source: list[_Clause[Principal]] = []
    of_destination: list[_Clause[Permission]] = []
    unknown = False
    for condition in rule.when:
        principal, permission = principal_of(condition.key), permission_of(condition.key)
        if principal is not None:
            of_source.append(_Clause(principal, condition.values, condition.not_values))
        elif permission is not None:
            of_destination.append(_Clause(permission, condition.values, condition.not_values))
        else:
            unknown = True
    return _Parts(
        sources=[list(_clauses(entry.source, SOURCES)) for entry in rule.from_ or ()],
        operations=[list(_clauses(entry.operation, OPERATIONS)) for entry in rule.to or ()],
        of_source=of_source,
        of_destination=of_destination,
        unknown=unknown,
    )


def _at_home(parts: _Parts, place: Place) -> _Parts:
    """Return what grants with the mesh's own trust domain wherever a namespace or an account is named without one.

    Another trust domain names its namespaces as it likes: that it is believed about its own identities must not let its
    `ns/admin` pass for ours.
    """
    home = _Clause(SOURCES["trust_domains"], place.trust_domains[:1], ())  # stands for its aliases, too
    told = _tells_domain(parts.of_source)
    sources = [
        [*row, home] if _names_place(row) and not told and not _tells_domain(row) else row for row in parts.sources
    ]
    everywhere = bool(sources) and all(_tells_domain(row) for row in sources)
    needed = _names_place(parts.of_source) and not told and not everywhere
    return replace(parts, sources=sources, of_source=[*parts.of_source, home] if needed else parts.of_source)


def _names_place(row: Sequence[_Clause[Principal]]) -> bool:
    return any(clause.values and clause.attribute in PLACES for clause in row)


def _tells_domain(row: Sequence[_Clause[Principal]]) -> bool:
    """Return whether a row says itself of which trust domains it is; `*` in `trustDomains` says: of all."""
    return any(
        clause.values
        and (
            clause.attribute is SOURCES["trust_domains"]
            or (clause.attribute is SOURCES["principals"] and not any(text.startswith("*") for text in clause.values))
        )
        for clause in row
    )


def _clauses(spec: Any, attributes: Mapping[str, Attribute[M]]) -> Iterator[_Clause[M]]:
    for name, attribute in attributes.items():
        values, but = getattr(spec, name), getattr(spec, f"not_{name}")
        if values or but:
            yield _Clause(attribute, values, but)


def _alternatives(
    logic: Logic[M], rows: Sequence[Sequence[_Clause[M]]], conditions: Sequence[_Clause[M]], place: Place, tcp: bool
) -> list[M]:
    """Return matchers of which one must hold: a row each, or all in one where conditions go with them."""
    found = [logic.all_of([_clause(logic, clause, place) for clause in row if _acts(clause, tcp)]) for row in rows]
    if not found or any(entry is logic.always for entry in found):
        found = [logic.always]
    needed: list[M] = [_clause(logic, clause, place) for clause in conditions if _acts(clause, tcp)]
    return [logic.all_of([logic.one_of(found), *needed])] if needed else found


def _acts(clause: _Clause[Any], tcp: bool) -> bool:
    return not (tcp and clause.attribute.http_only)


def _clause(logic: Logic[M], clause: _Clause[M], place: Place) -> M:
    parts = []
    if clause.values:
        parts.append(logic.one_of([_value(logic, clause, text, place) for text in clause.values]))
    if clause.but:
        inside = replace(place, leaning=place.leaning.opposite)
        parts.append(logic.negated(logic.one_of([_value(logic, clause, text, inside) for text in clause.but])))
    return logic.all_of(parts)


def _value(logic: Logic[M], clause: _Clause[M], text: str, place: Place) -> M:
    # A text that is too long is refused by nobody, so it is left to the leaning like what cannot be said.
    found = clause.attribute.build(text, place) if len(text.encode()) <= POLICY_TEXT_BYTES else None
    if found is not None:
        return found
    return logic.always if place.leaning is Leaning.REFUSES else logic.never
