"""What is wrong with a VirtualService, given all other resources.

Rules: docs/api/VirtualService.md "What is told". Destinations are looked for as the VirtualService's own namespace sees
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.api.hosts import host_is_subset, hosts_overlap
from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.findings import Finding
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.mesh import ANOTHER, Mesh, MeshSettings
from lateen.pilot.model.ownership import ISTIO, precedence, reaches
from lateen.pilot.model.routes import MESH_GATEWAY, bound_gateways, qualified_gateways
from lateen.pilot.model.values import Hostname
from lateen.pilot.model.virtual_services import HTTP_PORT, Expanded, VirtualServices
from lateen.pilot.registry.services import CLUSTER_DOMAIN
from lateen.pilot.registry.values import Service

__all__ = ["VirtualServiceFindings"]


class VirtualServiceFindings:
    """The derived collection of findings of VirtualServices."""

    def __init__(self, mesh: Mesh, virtual_services: VirtualServices) -> None:
        self.mesh = mesh
        self.virtual_services = virtual_services
        # key of a VirtualService -> tuple[Finding, ...]
        self.found = mesh.graph.derive("findings of virtual services", self._found)

    def _found(self, read: Read, key: ResourceKey) -> tuple[Finding, ...]:
        obj = read.get(self.mesh.objects, key)
        if obj is None:
            return ()
        return tuple(
            finding
            for part in (self._delegation, self._destinations, self._gateways, self._hosts)
            for finding in part(read, obj)
        )

    # ---- delegates

    def _delegation(self, read: Read, obj: Object) -> Iterator[Finding]:
        if not obj.spec.hosts and not read.lookup(self.mesh.sight.virtual_by_delegate, obj.key):
            yield Finding("spec.hosts", "nothing delegates to it, so that it does nothing", "warning")
        if any(rule.delegate is not None for rule in obj.spec.http):
            expanded: Expanded | None = read.get(self.virtual_services.expanded, obj.key)
            for field, message in expanded.faults if expanded is not None else ():
                yield Finding(field, message)

    # ---- destinations

    def _destinations(self, read: Read, obj: Object) -> Iterator[Finding]:
        # A thousand rules that name one destination are one question.
        answers: dict[tuple[Any, frozenset[int]], tuple[tuple[str, str], ...]] = {}
        listened: dict[str, frozenset[int]] = {}
        for kind, rules in (("http", obj.spec.http), ("tcp", obj.spec.tcp), ("tls", obj.spec.tls)):
            for i, rule in enumerate(rules):
                for place, destination, consequence in _destinations_of(kind, rule, f"spec.{kind}[{i}]"):
                    ports: frozenset[int] = frozenset()
                    if destination.port is None:
                        if kind not in listened:
                            listened[kind] = self._listened_ports(read, obj, kind)
                        ports = _narrowed(rule, listened[kind])
                    question = (destination, ports)
                    if question not in answers:
                        answers[question] = tuple(self._faults(read, obj.key.namespace, destination, sorted(ports)))
                    for field, message in answers[question]:
                        yield Finding(f"{place}.{field}", f"{message}; {consequence}")

    def _faults(self, read: Read, namespace: str, destination: Any, ports: Iterable[int]) -> Iterator[tuple[str, str]]:
        host = full_name(destination.host, namespace)
        service: Service | None = read.get(self.mesh.service, (namespace, host))
        if service is not None and service.alias_of is not None:
            host = service.alias_of
            service = read.get(self.mesh.service, (namespace, host))
        if service is None:
            yield "host", f"no service {host} is visible from namespace {namespace}"
            return
        number = destination.port.number if destination.port is not None else 0
        if number and service.port(number) is None:
            yield "port", f"{host} has no port {number}"
        elif not number and len(service.ports) > 1:
            missing = [port for port in ports if service.port(port) is None]
            if missing:
                asked = ", ".join(map(str, missing))
                yield "host", f"{host} has several ports and none is named, but it has no port {asked}"
        if destination.subset:
            rule = read.get(self.mesh.rule, (namespace, (), service.hostname, service.namespace))
            if rule is None or all(subset.name != destination.subset for subset in rule.subsets):
                yield "subset", f"no DestinationRule for {host} has a subset {destination.subset}"

    def _listened_ports(self, read: Read, obj: Object, kind: str) -> frozenset[int]:
        """Return the ports at which requests or connections for `obj` arrive."""
        found: set[int] = set()
        for gateway in bound_gateways(obj):
            if gateway == MESH_GATEWAY:
                for host in _names(obj):
                    service: Service | None = read.get(self.mesh.service, (obj.key.namespace, host))
                    if service is not None:
                        found.update(port.number for port in service.ports if _speaks(port.protocol, kind))
                    elif kind == "http":
                        found.add(HTTP_PORT)
            elif (served := read.get(self.mesh.objects, _gateway_key(gateway))) is not None:
                found.update(server.port.number for server in served.spec.servers if server.port is not None)
        return frozenset(found)

    # ---- gateways

    def _gateways(self, read: Read, obj: Object) -> Iterator[Finding]:
        bound = set(bound_gateways(obj))
        for i, gateway in enumerate(obj.spec.gateways):
            (name,) = qualified_gateways((gateway,), obj.key.namespace)
            if name == MESH_GATEWAY:
                continue
            place = f"spec.gateways[{i}]"
            served = read.get(self.mesh.objects, _gateway_key(name))
            if served is None:
                yield Finding(place, f"there is no Gateway {name}")
            elif not _takes(served, obj):
                message = f"no server of Gateway {name} takes any of its hosts from namespace {obj.key.namespace}"
                yield Finding(place, message, "warning")
        if not obj.spec.hosts:
            return  # what a delegate's rules are bound to is the root's to say
        for kind in ("http", "tcp", "tls"):
            for i, rule in enumerate(getattr(obj.spec, kind)):
                for j, match in enumerate(rule.match):
                    for k, name in enumerate(qualified_gateways(match.gateways, obj.key.namespace)):
                        if name not in bound:
                            place = f"spec.{kind}[{i}].match[{j}].gateways[{k}]"
                            message = f"{name} is not among spec.gateways, so that it never matches"
                            yield Finding(place, message, "warning")

    # ---- hosts of the mesh

    def _hosts(self, read: Read, obj: Object) -> Iterator[Finding]:
        if not obj.spec.hosts or MESH_GATEWAY not in bound_gateways(obj):
            return
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        for i, host in enumerate(_names(obj)):
            service: Service | None = read.get(self.mesh.service, (obj.key.namespace, host))
            owner = service.namespace if service is not None else None
            place = f"spec.hosts[{i}]"
            if (held := _held_back(obj, host, owner, settings)) is not None:
                yield Finding(place, held, "warning")
            rivals = [key for key in read.lookup(self.mesh.virtual_by_host, host) if key != obj.key]
            for rival in self.mesh.objects_of(read, rivals):
                if _goes_first(rival, obj, owner, settings):
                    message = f"{host} is spoken for by {rival.key}, which goes first: its rules for it never act there"
                    yield Finding(place, message, "warning")
                    break


def _destinations_of(kind: str, rule: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (place, destination, what becomes of traffic to it when it is not there)."""
    lost = "requests to it get 503" if kind == "http" else "connections to it are closed"
    for j, entry in enumerate(rule.route):
        if entry.destination is not None:
            yield f"{place}.route[{j}].destination", entry.destination, lost
    if kind == "http":
        if rule.mirror is not None:
            yield f"{place}.mirror", rule.mirror, "nothing is copied"
        for j, mirror in enumerate(rule.mirrors):
            yield f"{place}.mirrors[{j}].destination", mirror.destination, "nothing is copied"


def _narrowed(rule: Any, ports: frozenset[int]) -> frozenset[int]:
    """Return those of `ports` that the rule's matches are for."""
    asked = {match.port for match in rule.match}
    return ports if not asked or 0 in asked else frozenset(asked)


def _speaks(protocol: Protocol, kind: str) -> bool:
    if protocol is Protocol.UDP:
        return False
    if kind == "http":
        return protocol.is_http or protocol is Protocol.AUTO
    return protocol.is_tls if kind == "tls" else not (protocol.is_http or protocol.is_tls)


def _names(obj: Object) -> tuple[Hostname, ...]:
    return tuple(full_name(host, obj.key.namespace) for host in obj.spec.hosts)


def _gateway_key(name: str) -> ResourceKey:
    namespace, _, short = name.partition("/")
    return ResourceKey("Gateway", namespace, short)


def _takes(gateway: Object, obj: Object) -> bool:
    """Tell whether a server of `gateway` has a host in common with `obj` and accepts its namespace."""
    for server in gateway.spec.servers:
        for written in server.hosts:
            owner, slash, host = written.rpartition("/")
            accepted = gateway.key.namespace if owner == "." else owner
            if slash and accepted not in ("*", obj.key.namespace):
                continue
            if any(hosts_overlap(host.lower(), name) for name in _names(obj)):
                return True
    return False


def _held_back(obj: Object, host: Hostname, owner: str | None, settings: MeshSettings) -> str | None:
    """Return how ownership narrows whom `obj` acts for; None when it does not."""
    namespace = obj.key.namespace
    export_to = obj.spec.export_to or settings.virtual_export_to
    others = not export_to or any(entry not in (".", namespace) for entry in export_to)
    if not others or settings.host_ownership == ISTIO or namespace in (owner, settings.root_namespace):
        return None
    if owner is None and not obj.spec.http:
        return None  # connections go to services alone
    if owner is not None:
        reason = f"{host} is of namespace {owner}"
    elif host.startswith("*"):
        if host_is_subset(host, f"*.{namespace}.svc.{CLUSTER_DOMAIN}"):
            return None
        return (
            f"acts for clients of other namespaces only on hosts of namespace {namespace}, and {host} covers more; "
            'exportTo: ["."] says that none is meant'
        )
    else:
        reason = f"nobody defines {host}, a ServiceEntry of this namespace would make it its own"
    return f'acts for clients of namespace {namespace} alone: {reason}; exportTo: ["."] says that this is meant'


def _goes_first(rival: Object, obj: Object, owner: str | None, settings: MeshSettings) -> bool:
    """Tell whether `rival` takes the requests of any clients that `obj` would act for, whatever they are."""
    if not (_takes_all(rival) and obj.spec.http):
        return False
    namespace = obj.key.namespace
    named = {entry for entry in obj.spec.export_to if entry not in ("*", ".")}
    for client in dict.fromkeys((ANOTHER, namespace, *sorted(named))):
        both = all(
            reaches(
                one,
                client,
                owner=owner,
                root=settings.root_namespace,
                ownership=settings.host_ownership,
                default=settings.virtual_export_to,
            )
            for one in (rival, obj)
        )
        if both and precedence(rival, client, ownership=settings.host_ownership) < precedence(
            obj, client, ownership=settings.host_ownership
        ):
            return True
    return False


def _takes_all(obj: Object) -> bool:
    """Tell whether an HTTP rule is for every port and every client, so that nobody after it gets a request."""
    return any(
        not rule.match
        or any(
            not (match.port or match.source_labels or match.source_namespace)
            and (not match.gateways or MESH_GATEWAY in match.gateways)
            for match in rule.match
        )
        for rule in obj.spec.http
    )
