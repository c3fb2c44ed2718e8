"""What people are told of an AuthorizationPolicy that its own text does not show.

A target that nobody is; an authorizer that cannot be asked; identities where plain text is taken: who connects so has
none, which an ALLOW with `not...` lists lets in and a DENY with identities does not keep out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.api.field_names import yaml_name
from lateen.flow import Read
from lateen.pilot.model.attachment import GATEWAY_TARGET
from lateen.pilot.model.authorization import Authorizations
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.model.values import MtlsMode

__all__ = ["AuthorizationFindings"]

_IDENTITIES = ("principals", "namespaces", "service_accounts", "trust_domains")
_KEYS = frozenset({"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"})


class AuthorizationFindings:
    """The derived collection of findings of AuthorizationPolicies."""

    def __init__(self, mesh: Mesh, authorizations: Authorizations) -> None:
        self._mesh = mesh
        self._authorizations = authorizations
        # policy -> tuple[Finding, ...]
        self.found = mesh.graph.derive("authorization findings", self._found)

    def _found(self, read: Read, key: ResourceKey) -> tuple[Finding, ...]:
        obj = read.get(self._mesh.objects, key)
        return tuple(self._findings(read, obj)) if obj is not None else ()

    def _findings(self, read: Read, obj: Object) -> Iterator[Finding]:
        yield from _targets(obj.spec)
        if obj.spec.action == "CUSTOM" and obj.spec.provider is not None:
            authorizer = self._authorizations.authorizers.for_namespace(read, obj.key.namespace, obj.spec.provider.name)
            if authorizer.fault:
                message = f"{authorizer.name!r} cannot be asked, so what the rules match is denied: {authorizer.fault}"
                yield Finding("spec.provider.name", message)
        if obj.spec.action in ("ALLOW", "DENY") and self._takes_plain(read, obj):
            yield from _without_identity(obj.spec)

    def _takes_plain(self, read: Read, obj: Object) -> bool:
        """Tell whether plain text is taken where the policy is for, as far as its own labels say."""
        selector = obj.spec.selector
        labels = tuple(sorted((selector.match_labels or {}).items())) if selector is not None else ()
        mode = read.get(self._mesh.port_mtls, (obj.key.namespace, labels, 0))
        return mode is not MtlsMode.STRICT


def _targets(spec: Any) -> Iterator[Finding]:
    targets = [(f"spec.targetRefs[{i}]", ref) for i, ref in enumerate(spec.target_refs)]
    if not targets and spec.target_ref is not None:
        targets = [("spec.targetRef", spec.target_ref)]
    for field, ref in targets:
        if (ref.group, ref.kind) != GATEWAY_TARGET:
            message = f"is for nobody: there are no waypoints, so a target is a Gateway, got {ref.kind}"
            yield Finding(f"{field}.kind", message, "warning")


def _without_identity(spec: Any) -> Iterator[Finding]:
    for i, rule in enumerate(spec.rules):
        if spec.action == "ALLOW":
            yield from _lets_in(rule, f"spec.rules[{i}]")
        else:
            yield from _misses(rule, f"spec.rules[{i}]")


def _lets_in(rule: Any, place: str) -> Iterator[Finding]:
    """Yield the lists that an ALLOW rule excludes identities by, where it does not ask for one anyway."""
    message = "who connects in plain text has no identity, so this lets it in: say who may, or take mutual TLS only"
    if any(condition.key in _KEYS and condition.values for condition in rule.when):
        return
    sources = [entry.source for entry in rule.from_ or ()]
    for i, source in enumerate(sources):
        if not _named(source):
            for name in _IDENTITIES:
                if getattr(source, f"not_{name}"):
                    field = f"{place}.from[{i}].source.{yaml_name(source, f'not_{name}')}"
                    yield Finding(field, message, "warning")
    if not sources or not all(_named(source) for source in sources):
        for i, condition in enumerate(rule.when):
            if condition.key in _KEYS and condition.not_values:
                yield Finding(f"{place}.when[{i}].notValues", message, "warning")


def _misses(rule: Any, place: str) -> Iterator[Finding]:
    """Yield the lists that a DENY rule names identities by."""
    message = "who connects in plain text has no identity, so this does not keep it out: take mutual TLS only"
    for i, entry in enumerate(rule.from_ or ()):
        for name in _IDENTITIES:
            if getattr(entry.source, name):
                field = f"{place}.from[{i}].source.{yaml_name(entry.source, name)}"
                yield Finding(field, message, "warning")
    for i, condition in enumerate(rule.when):
        if condition.key in _KEYS and condition.values:
            yield Finding(f"{place}.when[{i}].values", message, "warning")


def _named(source: Any) -> bool:
    return any(getattr(source, name) for name in _IDENTITIES)
