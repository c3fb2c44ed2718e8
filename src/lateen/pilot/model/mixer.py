"""Which Rules are in force at a proxy, and what Mixer is asked and told there.

In:  a proxy: its kind, namespace and labels. Out: `MixerCalls`, with what Envoy decides without a call.
Rules: docs/api/Rule.md. For whom a rule is, is found in `attachment`; what it looks at, in `lateen.api.rule_reading`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lateen.api.base import Object, ResourceKey
from lateen.api.mixer import Rule
from lateen.api.rule_reading import RuleReading, gateway_of, read_rule
from lateen.expr import Read as Place
from lateen.expr.envoy import Where
from lateen.flow import Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.mesh import Mesh, MeshSettings
from lateen.pilot.model.mixer_placing import allows, any_condition, may_matter, place, place_report
from lateen.pilot.model.values_called import NO_CALLS, Condition, Count, Inside, Limit, MixerCalls, Refusal
from lateen.wire.mixer import MIXER_ACCOUNT, MIXER_NAMESPACE

__all__ = ["MixerRules"]

KIND: Final = "Rule"
HEADERS: Final = "request.headers"
ANSWERED: Final = "response.headers"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule as far as a proxy needs to know it."""

    spec: Rule
    gateway: str
    reading: RuleReading


Named = tuple[str, _Rule]  # "<namespace>/<name>"


class MixerRules:
    """The derived collections of rules in force."""

    def __init__(self, mesh: Mesh, socket: str) -> None:
        """`socket`: where Mixer listens; "": there is none, and no proxy asks."""
        self._mesh = mesh
        self._socket = socket
        self.attachment = Attachment(mesh, KIND)
        # rule -> _Rule | None
        self._rule = mesh.graph.derive("mixer rules", self._rule_of)
        # (kind, namespace, labels) -> MixerCalls
        self._calls = mesh.graph.derive("mixer calls", self._calls_of)

    def of(self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]) -> MixerCalls:
        """Return what Mixer is asked by proxies: `kind` "sidecar" or "gateway", `labels` of the workload, sorted."""
        found: MixerCalls = read.get(self._calls, (kind, namespace, labels))
        return found

    def calls_at(self, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]) -> MixerCalls:
        """Return the same for who asks outside of a derivation."""
        found: MixerCalls = self._calls.peek((kind, namespace, labels))
        return found

    def _rule_of(self, read: Read, key: ResourceKey) -> _Rule | None:
        obj: Object | None = read.get(self._mesh.objects, key)
        if obj is None:
            return None
        return _Rule(obj.spec, gateway_of(obj), read_rule(obj.spec))

    def _serves(self, read: Read, gateway: str, kind: str, labels: tuple[tuple[str, str], ...]) -> bool:
        """Return whether a proxy serves the Gateway that a rule names; any does, where it names none."""
        if not gateway:
            return True
        if kind != "gateway":
            return False
        namespace, _, name = gateway.partition("/")
        obj: Object | None = read.get(self._mesh.objects, ResourceKey("Gateway", namespace, name))
        return obj is not None and set((obj.spec.selector or {}).items()) <= set(labels)

    def _calls_of(self, read: Read, key: tuple[str, str, tuple[tuple[str, str], ...]]) -> MixerCalls:
        kind, namespace, labels = key
        keys = self.attachment.keys(read, kind=kind, namespace=namespace, labels=labels) if self._socket else ()
        rules = [
            (rule_name(rule), found)
            for rule in keys
            if (found := read.get(self._rule, rule)) is not None and self._serves(read, found.gateway, kind, labels)
        ]
        if not rules:
            return NO_CALLS
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        side = "outbound" if kind == "gateway" else "inbound"
        of_requests = Where(http=True, namespace=namespace, kind=side)
        of_bytes = Where(http=False, namespace=namespace, kind=side)
        http = _placed([(name, rule) for name, rule in rules if rule.reading.checks is not None], of_requests)
        tcp = _placed([(name, rule) for name, rule in rules if rule.reading.decides_connections], of_bytes)
        counts, reports = _reported(
            [one for one in rules if one[1].reading.reports is not None], replace(of_requests, over=True)
        )
        tcp_counts, tcp_reports = _reported(
            [one for one in rules if one[1].reading.reports_connections], replace(of_bytes, over=True)
        )
        called = [rule for _, rule in (*http.called, *tcp.called)]
        asked = {place for rule in called for place in rule.reading.checks or ()}
        told = {place for _, rule in (*reports, *tcp_reports) for place in rule.reading.reports or ()}
        closed, open_ = _by_policy(http.called)
        tcp_closed, tcp_open = _by_policy(tcp.called)
        # Who asks for a rule that allows asks about everything.
        asks_always = any(allows(rule.spec) for _, rule in http.called)
        return MixerCalls(
            namespace=namespace,
            kind=side,
            socket=self._socket,
            identity=f"spiffe://{settings.trust_domain}/ns/{MIXER_NAMESPACE}/sa/{MIXER_ACCOUNT}",
            closed=_names(closed),
            open=_names(open_),
            tcp_closed=_names(tcp_closed),
            tcp_open=_names(tcp_open),
            reports=_names(reports),
            tcp_reports=_names(tcp_reports),
            timeout=max((rule.spec.timeout for rule in called), default=NO_CALLS.timeout),
            inside=Inside(
                denies=http.denies,
                allows=http.allows,
                limits=http.limits,
                counts=counts,
                tcp_counts=tcp_counts,
                tcp_denies=tcp.denies,
                tcp_allows=tcp.allows,
            ),
            closed_when=None if asks_always else _when(closed, of_requests),
            open_when=None if asks_always else _when(open_, of_requests),
            attributes=frozenset(place.attribute for place in asked),
            request_headers=_keys(asked, HEADERS),
            report_request_headers=_keys(told, HEADERS) or (),
            report_response_headers=_keys(told, ANSWERED) or (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decisions:
    """Rules for one kind of traffic, by where they are decided."""

    denies: tuple[Refusal, ...]
    allows: tuple[Refusal, ...]
    limits: tuple[Limit, ...]
    called: tuple[Named, ...]


def _placed(rules: list[Named], where: Where) -> _Decisions:
    places = [(named, place(named[0], named[1].spec, where)) for named in rules]
    allowing = [(named, placed) for named, placed in places if allows(named[1].spec)]
    # What one of several must match is decided in one place.
    together = all(placed.kind == "allow" for _, placed in allowing)
    inside = {named[0] for named, placed in places if placed.kind and (placed.kind != "allow" or together)}
    return _Decisions(
        denies=tuple(placed.refusal for _, placed in places if placed.refusal is not None and placed.kind == "deny"),
        allows=tuple(placed.refusal for _, placed in allowing if placed.refusal is not None) if together else (),
        limits=tuple(placed.limit for _, placed in places if placed.limit is not None),
        called=tuple(named for named in rules if named[0] not in inside),
    )


def _reported(rules: list[Named], where: Where) -> tuple[tuple[Count, ...], list[Named]]:
    """Return what Envoy counts itself, and the rules whose reports are Mixer's."""
    counts, told = [], []
    for name, rule in rules:
        placed = place_report(name, rule.spec, where)
        if placed.count is not None:
            counts.append(placed.count)
        else:
            told.append((name, rule))
    return tuple(counts), told


def _when(rules: list[Named], where: Where) -> Condition | None:
    """Return when one of the rules that are asked for may have anything to say; None: always."""
    found = [may_matter(rule.spec, where) for _, rule in rules]
    known = [condition for condition in found if condition is not None]
    always = len(known) < len(found) or any(not rule.spec.match for _, rule in rules)
    return any_condition(known) if known and not always else None


def _by_policy(rules: tuple[Named, ...]) -> tuple[list[Named], list[Named]]:
    """Return those that fail closed, and those that fail open."""
    closed = [(name, rule) for name, rule in rules if rule.spec.failure_policy != "open"]
    return closed, [(name, rule) for name, rule in rules if rule.spec.failure_policy == "open"]


def _names(rules: list[Named]) -> tuple[str, ...]:
    return tuple(name for name, _ in rules)


def rule_name(key: ResourceKey) -> str:
    """Return the rule's name as Mixer knows it."""
    return f"{key.namespace}/{key.name}"


def _keys(places: set[Place], attribute: str) -> tuple[str, ...] | None:
    """Return the keys that are read of a map, in lower case; None: all of it is."""
    keys = {place.key for place in places if place.attribute == attribute}
    if None in keys:
        return None
    return tuple(sorted(key.lower() for key in keys if key is not None))
