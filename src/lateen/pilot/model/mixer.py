"""Which Rules are in force at a proxy, and what Mixer is asked and told there.

In:  a proxy: its kind, namespace and labels. Out: `MixerCalls`.
Rules: docs/api/Rule.md. For whom a rule is, is found in `attachment`; what it looks at, in `lateen.api.rule_reading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from lateen.api.base import Object, ResourceKey
from lateen.api.rule_reading import RuleReading, read_rule
from lateen.expr import Read as Place
from lateen.flow import Read
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.mesh import Mesh, MeshSettings
from lateen.pilot.model.values_called import NO_CALLS, MixerCalls
from lateen.wire.mixer import MIXER_ACCOUNT, MIXER_NAMESPACE

__all__ = ["MixerRules"]

KIND: Final = "Rule"
HEADERS: Final = "request.headers"
ANSWERED: Final = "response.headers"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule as far as a proxy needs to know it."""

    reading: RuleReading
    open: bool
    timeout: timedelta


class MixerRules:
    """The derived collections of rules in force."""

    def __init__(self, mesh: Mesh, socket: str) -> None:
        """`socket`: where Mixer listens; "": there is none, and no proxy asks."""
        self._mesh = mesh
        self._socket = socket
        self.attachment = Attachment(mesh, KIND)
        # rule -> _Rule | None; equal where only what it does with a match changed
        self._rule = mesh.graph.derive("mixer rules", self._rule_of)
        # (kind, namespace, labels) -> MixerCalls
        self._calls = mesh.graph.derive("mixer calls", self._calls_of)

    def of(self, read: Read, *, kind: str, namespace: str, labels: tuple[tuple[str, str], ...]) -> MixerCalls:
        """Return what Mixer is asked by proxies: `kind` "sidecar" or "gateway", `labels` of the workload, sorted."""
        found: MixerCalls = read.get(self._calls, (kind, namespace, labels))
        return found

    def _rule_of(self, read: Read, key: ResourceKey) -> _Rule | None:
        obj: Object | None = read.get(self._mesh.objects, key)
        if obj is None:
            return None
        spec = obj.spec
        return _Rule(reading=read_rule(spec), open=spec.failure_policy == "open", timeout=spec.timeout)

    def _calls_of(self, read: Read, key: tuple[str, str, tuple[tuple[str, str], ...]]) -> MixerCalls:
        kind, namespace, labels = key
        keys = self.attachment.keys(read, kind=kind, namespace=namespace, labels=labels) if self._socket else ()
        rules = [(rule_name(rule), found) for rule in keys if (found := read.get(self._rule, rule)) is not None]
        if not rules:
            return NO_CALLS
        checks = [(name, rule) for name, rule in rules if rule.reading.checks is not None]
        settings: MeshSettings = read.get(self._mesh.settings, "mesh")
        asked = {place for _, rule in checks for place in rule.reading.checks or ()}
        told = {place for _, rule in rules for place in rule.reading.reports or ()}
        return MixerCalls(
            namespace=namespace,
            kind="outbound" if kind == "gateway" else "inbound",
            socket=self._socket,
            identity=f"spiffe://{settings.trust_domain}/ns/{MIXER_NAMESPACE}/sa/{MIXER_ACCOUNT}",
            closed=tuple(name for name, rule in checks if not rule.open),
            open=tuple(name for name, rule in checks if rule.open),
            tcp_closed=tuple(name for name, rule in checks if not rule.open and rule.reading.decides_connections),
            tcp_open=tuple(name for name, rule in checks if rule.open and rule.reading.decides_connections),
            reports=tuple(name for name, rule in rules if rule.reading.reports is not None),
            tcp_reports=tuple(name for name, rule in rules if rule.reading.reports_connections),
            timeout=max((rule.timeout for _, rule in checks), default=NO_CALLS.timeout),
            attributes=frozenset(place.attribute for place in asked),
            request_headers=_keys(asked, HEADERS),
            report_request_headers=_keys(told, HEADERS) or (),
            report_response_headers=_keys(told, ANSWERED) or (),
        )


def rule_name(key: ResourceKey) -> str:
    """Return the rule's name as Mixer knows it."""
    return f"{key.namespace}/{key.name}"


def _keys(places: set[Place], attribute: str) -> tuple[str, ...] | None:
    """Return the keys that are read of a map, in lower case; None: all of it is."""
    keys = {place.key for place in places if place.attribute == attribute}
    if None in keys:
        return None
    return tuple(sorted(key.lower() for key in keys if key is not None))
