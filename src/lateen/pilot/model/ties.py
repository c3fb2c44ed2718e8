"""What one resource needs of others, and what it gives them: names only, nothing resolved for a viewer.

A route needs the service and the subset it sends to, the gateway it is bound to, and the VirtualService it delegates
to. A name that a route needs and nobody gives is a request that fails; `lateen.pilot.serving.halves` keeps such gaps
short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lateen.api.base import Object
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.routes import MESH_GATEWAY, bound_gateways
from lateen.pilot.registry.services import service_hostname

__all__ = ["NO_TIES", "Tie", "Ties", "givers_of", "service_tie", "ties_of"]

# ("service", hostname), ("subset", hostname, name), ("gateway", "namespace/name"), ("rules", "namespace/name").
# A hostname that is given may be a wildcard, "*.example.com".
Tie = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ties:
    """The names that one resource needs, and those that it gives."""

    needs: frozenset[Tie] = frozenset()
    gives: frozenset[Tie] = frozenset()


NO_TIES = Ties()


def ties_of(obj: Object) -> Ties:
    """Return the ties of a resource; `NO_TIES` for kinds that have none."""
    namespace, name = obj.key.namespace, obj.key.name
    match obj.key.kind:
        case "VirtualService":
            needs = frozenset(_needs(obj))
            return Ties(needs, frozenset({("rules", f"{namespace}/{name}")}) if not obj.spec.hosts else frozenset())
        case "DestinationRule":
            host = full_name(obj.spec.host, namespace)
            return Ties(gives=frozenset(("subset", host, subset.name) for subset in obj.spec.subsets))
        case "Gateway":
            return Ties(gives=frozenset({("gateway", f"{namespace}/{name}")}))
        case "Service":
            return Ties(gives=frozenset({service_tie(service_hostname(name, namespace))}))
        case "ServiceEntry":
            return Ties(gives=frozenset(service_tie(host.lower()) for host in obj.spec.hosts))
    return NO_TIES


def service_tie(hostname: str) -> Tie:
    """Return what a route that sends to `hostname` needs."""
    return ("service", hostname)


def givers_of(tie: Tie) -> Iterator[Tie]:
    """Yield the ties of which any one, when it is given, satisfies `tie`: itself, and wildcards that cover its host."""
    yield tie
    kind, name, *rest = tie
    if kind in ("service", "subset"):
        while "." in name:
            name = name.partition(".")[2]
            yield (kind, f"*.{name}", *rest)
        yield (kind, "*", *rest)


def _needs(obj: Object) -> Iterator[Tie]:
    namespace = obj.key.namespace
    for destination in _destinations(obj.spec):
        host = full_name(destination.host, namespace)
        yield service_tie(host)
        if destination.subset:
            yield ("subset", host, destination.subset)
    for gateway in bound_gateways(obj):
        if gateway != MESH_GATEWAY:
            yield ("gateway", gateway)
    for rule in obj.spec.http:
        if rule.delegate is not None:
            yield ("rules", f"{rule.delegate.namespace or namespace}/{rule.delegate.name}")


def _destinations(spec: Any) -> Iterable[Any]:
    for rule in spec.http:
        yield from (entry.destination for entry in rule.route)
        if rule.mirror is not None:
            yield rule.mirror
        yield from (mirror.destination for mirror in rule.mirrors)
    for rule in (*spec.tcp, *spec.tls):
        yield from (entry.destination for entry in rule.route)
