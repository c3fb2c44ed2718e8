"""What a view sees of the mesh: services and VirtualServices, as exported to it and imported by its scope.

A view without egress listeners sees all that is exported to its namespace, and shares what is resolved for it with
every other of that namespace. With listeners, only what they import counts. Two questions are kept apart: whether a
host is seen (`Sight.service`, exact), and which hosts to ask about (`Sight.memberships`, followed live by index; it may
name a few that turn out not to be seen). A service outside of a scope touches neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lateen.api.base import Object, ResourceKey
from lateen.api.hosts import host_covers
from lateen.flow import Index, Read
from lateen.pilot.model.delegates import delegate_key
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.routes import MESH_GATEWAY, bound_gateways
from lateen.pilot.model.same_host import merge_same_host
from lateen.pilot.model.scope import ANY, EVERYTHING, Egress, Scope
from lateen.pilot.model.values import Hostname
from lateen.pilot.registry.services import merge_implied
from lateen.pilot.registry.values import EVERYWHERE, Service

if TYPE_CHECKING:
    from lateen.pilot.model.mesh import Mesh, View

__all__ = ["Membership", "Sight", "imports", "service_age", "virtual_destinations", "virtual_hosts"]


@dataclass(frozen=True, slots=True)
class Membership:
    """One index key whose members are (parts of) a view."""

    # "host": service rows; "port": port rows; "virtual": VirtualServices whose destinations are members; "name": hosts
    # that only VirtualServices name
    kind: str
    index: Index[Any, Any]
    key: Any
    patterns: frozenset[str]  # hosts that count; ANY for all

    def accepts(self, hostname: str) -> bool:
        return ANY in self.patterns or any(host_covers(pattern, hostname) for pattern in self.patterns)


class Sight:
    """The derived collections and indexes of visibility."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        graph = mesh.graph
        # (namespace, scope, hostname) -> (Service as imported | None, it is imported and not only sent to)
        self._scoped = graph.derive("service in scope", self._service_in_scope)
        # (namespace, scope, VirtualService's key) -> hosts it sends to where it acts, sorted; () elsewhere
        self.destinations = graph.derive("destinations of virtual services", self._destinations)
        self.virtual_by_owner = graph.index("virtual services by owner", mesh.objects, _virtual_owner)
        self.virtual_by_delegate = graph.index("virtual services by delegate", mesh.objects, _delegates)
        self.virtual_by_destination = graph.index(
            "virtual services by destination", mesh.objects, lambda key, obj: sorted(set(_sent_to(key, obj)))
        )

    # ---- one host

    def service(self, read: Read, view: View, hostname: Hostname) -> Service | None:
        """Return the service that traffic to `hostname` goes to, as `view` may reach it; None when it may not.

        Where a Sidecar's listeners have ports, the service has only those.
        """
        if not view.scope.egress:
            return read.get(self.mesh.service, (view.namespace, hostname))
        found: Service | None = read.get(self._scoped, (view.namespace, view.scope, hostname))[0]
        return found

    def imported(self, read: Read, view: View, hostname: Hostname) -> Service | None:
        """Return the service that clients of `view` may name. One that only routes send to is not among these."""
        if not view.scope.egress:
            return read.get(self.mesh.service, (view.namespace, hostname))
        found, named = read.get(self._scoped, (view.namespace, view.scope, hostname))
        return found if named else None

    def _service_in_scope(self, read: Read, key: tuple[str, Scope, Hostname]) -> tuple[Service | None, bool]:
        """The best of the rows that are imported: own namespace, then Services, then the oldest."""
        namespace, scope, hostname = key
        mesh = self.mesh
        candidates: list[tuple[tuple[Any, ...], Service]] = []
        for row in read.lookup(mesh.rows_by_host, hostname):
            service = read.get(mesh.services, row)
            if service is not None and _visible(service, namespace) and _imported(service, scope) is not None:
                rank = (service.namespace != namespace, row.registry, service.created, row.namespace, row.name)
                candidates.append((rank, service))
        if candidates:
            root = read.get(mesh.settings, "mesh").root_namespace
            ranked = [service for _, service in sorted(candidates, key=lambda pair: pair[0])]
            return _imported(merge_same_host(ranked, root=root), scope), True
        implied = [read.get(mesh.implied, row) for row in read.lookup(mesh.implied_by_host, hostname)]
        rows = [service for service in implied if service is not None and _visible(service, namespace)]
        merged = _imported(merge_implied(rows), scope) if rows else None
        if merged is not None:
            return merged, True
        return self._sent_to(read, namespace, scope, hostname), False

    def _sent_to(self, read: Read, namespace: str, scope: Scope, hostname: Hostname) -> Service | None:
        """The service when an imported VirtualService, or the policy's egress proxy, sends to it."""
        if not (scope.egress_proxy and scope.egress_proxy[0] == hostname) and not any(
            self._acts_in(read, obj, namespace, scope) for obj in self._senders(read, hostname)
        ):
            return None
        found: Service | None = read.get(self.mesh.service, (namespace, hostname))
        return found

    def _senders(self, read: Read, hostname: Hostname) -> Iterator[Object]:
        """VirtualServices that send to a host, themselves or through those that they delegate to."""
        for obj in self.mesh.objects_of(read, read.lookup(self.virtual_by_destination, hostname)):
            if obj.spec.hosts:
                yield obj
            else:
                yield from self.mesh.objects_of(read, read.lookup(self.virtual_by_delegate, obj.key))

    def _acts_in(self, read: Read, obj: Object, namespace: str, scope: Scope) -> bool:
        # One for gateways alone leads nobody here anywhere, whatever its hosts cover.
        return MESH_GATEWAY in bound_gateways(obj) and self.mesh.exported(read, obj, namespace) and imports(scope, obj)

    def _destinations(self, read: Read, key: tuple[str, Scope, ResourceKey]) -> tuple[Hostname, ...]:
        namespace, scope, name = key
        obj = read.get(self.mesh.objects, name)
        if obj is None or not self._acts_in(read, obj, namespace, scope):
            return ()
        delegates = self.mesh.objects_of(read, _delegates(name, obj))
        return tuple(sorted({host for one in (obj, *delegates) for host in virtual_destinations(one)}))

    # ---- many

    def on_port(self, read: Read, view: View, number: int, through: Egress | None = None) -> list[Service]:
        """Return the services that `view` may name on a port, oldest first; with `through` those of one listener."""
        hosts: set[Hostname] = set()
        for exported, owner, patterns, exact in self._sought(view, through):
            hosts.update(exact)
            if not patterns:
                continue
            for index in (self.mesh.rows_by_port, self.mesh.implied_by_port):
                rows = read.lookup(index, (exported, owner, number))
                hosts.update(row.hostname for row in rows if ANY in patterns or _covered(patterns, row.hostname))
        if not view.scope.egress:
            # The common case, and each service that comes to a port asks for all on it: nothing is looked at twice.
            collection, namespace = self.mesh.service, view.namespace
            services = (read.get(collection, (namespace, host)) for host in hosts)
            return sorted((service for service in services if service is not None), key=service_age)
        found = []
        for host in hosts:
            service = self.imported(read, view, host)
            if service is None or service.port(number) is None:
                continue
            if through is None or through.imports_service(service.namespace, host):
                found.append(service)
        return sorted(found, key=service_age)

    def ports(self, read: Read, view: View) -> list[int]:
        """Return the ports of all services that `view` may name; some of others may be among them."""
        numbers: set[int] = set()
        for exported, owner, patterns, exact in self._sought(view, None):
            for host in exact:
                service = self.imported(read, view, host)
                numbers.update(port.number for port in (service.ports if service is not None else ()))
            for index in (self.mesh.ports_by_scope, self.mesh.implied_ports_by_scope) if patterns else ():
                numbers.update(key[1] for key in read.lookup(index, (exported, owner)))
        return sorted(numbers)

    # ---- following

    def memberships(self, view: View) -> list[Membership]:
        """Return the index keys to follow for a view. Hosts named in full need none: see `named_hosts`."""
        mesh = self.mesh
        wanted: dict[tuple[str, str], set[str]] = {}  # (exported, owner) -> patterns
        for exported, owner, patterns, _ in self._sought(view, None):
            if patterns:
                wanted.setdefault((exported, owner), set()).update(patterns)
        found: list[Membership] = []
        for key, hosts in sorted(wanted.items()):
            counted = frozenset(hosts)
            found.extend(
                Membership(kind, index, key, counted)
                for kind, index in (
                    ("host", mesh.rows_by_scope),
                    ("host", mesh.implied_by_scope),
                    ("port", mesh.ports_by_scope),
                    ("port", mesh.implied_ports_by_scope),
                )
            )
        if not view.scope.egress:
            return found
        every = frozenset({ANY})
        for host in self.named_hosts(view):
            found.append(Membership("port", mesh.ports_by_host, host, every))
            found.append(Membership("port", mesh.implied_ports_by_host, host, every))
        owners = {entry.namespace for listener in view.scope.egress for entry in listener.imports}
        owners = {ANY} if ANY in owners else owners
        found.extend(Membership("virtual", self.virtual_by_owner, owner, every) for owner in sorted(owners))
        return found

    def named_hosts(self, view: View) -> list[Hostname]:
        """Return the hosts that a view's scope names in full, sorted: members whether or not they exist."""
        exact = {host for *_, hosts in self._sought(view, None) for host in hosts}
        if view.scope.egress and view.scope.egress_proxy:
            exact.add(Hostname(view.scope.egress_proxy[0]))
        return sorted(exact)

    @staticmethod
    def _sought(view: View, through: Egress | None) -> Iterator[tuple[str, str, frozenset[str], tuple[Hostname, ...]]]:
        """Yield (exported to, owner, patterns, full names) that together find all that listeners import."""
        scopes = tuple(dict.fromkeys((EVERYWHERE, view.namespace)))
        listeners: Sequence[Egress] = (through,) if through is not None else view.scope.egress
        if not view.scope.egress:
            for exported in scopes:
                yield exported, ANY, frozenset({ANY}), ()
            return
        patterns: dict[str, set[str]] = {}
        exact: set[Hostname] = set()
        for listener in listeners:
            for entry in listener.imports:
                if "*" in entry.host:
                    patterns.setdefault(entry.namespace, set()).add(entry.host)
                else:
                    exact.add(Hostname(entry.host))
        if exact:
            yield "", "", frozenset(), tuple(sorted(exact))
        for owner, hosts in sorted(patterns.items()):
            # What any namespace offers under a pattern includes what this one does.
            if owner != ANY and hosts <= patterns.get(ANY, set()):
                continue
            for exported in scopes:
                yield exported, owner, frozenset(hosts), ()


def service_age(service: Service) -> tuple[str, int, str, str]:
    """Return the order in which services compete for an address: creation, Services before entries, then names."""
    return (service.created, service.registry, service.hostname, service.namespace)


def imports(importer: Scope | Egress, obj: Object) -> bool:
    """Tell whether a scope, or one listener of it, imports a VirtualService."""
    return importer is EVERYTHING or importer.imports_virtual(obj.key.namespace, virtual_hosts(obj))


def virtual_hosts(obj: Object) -> tuple[str, ...]:
    """Return the hosts of a VirtualService in full, lower case, sorted."""
    return tuple(sorted({full_name(host, obj.key.namespace) for host in obj.spec.hosts}))


def virtual_destinations(obj: Object) -> Iterator[Hostname]:
    """Yield every host that a VirtualService sends to, mirrors included; each spelling of one once."""
    # A thousand routes lead to a handful of places.
    for host in dict.fromkeys(place.host for place in _destinations(obj.spec) if place is not None):
        yield full_name(host, obj.key.namespace)


def _destinations(spec: Any) -> Iterator[Any]:
    for rule in spec.http:
        for entry in rule.route:
            yield entry.destination
        yield rule.mirror
        for mirror in rule.mirrors:
            yield mirror.destination
    for rule in (*spec.tcp, *spec.tls):
        for entry in rule.route:
            yield entry.destination


def _virtual_owner(key: ResourceKey, obj: Object) -> list[str]:
    return [key.namespace, ANY] if key.kind == "VirtualService" else []


def _delegates(key: ResourceKey, obj: Object) -> list[ResourceKey]:
    if key.kind != "VirtualService":
        return []
    named = [rule.delegate for rule in obj.spec.http if rule.delegate is not None]
    return sorted({delegate_key(delegate, key.namespace) for delegate in named})


def _sent_to(key: ResourceKey, obj: Object) -> Iterator[Hostname]:
    if key.kind == "VirtualService":
        yield from virtual_destinations(obj)


def _imported(service: Service, scope: Scope) -> Service | None:
    """Return a service with the ports it is imported with, None when that is none."""
    numbers = scope.ports(service.namespace, service.hostname)
    if numbers is None:
        return service
    ports = tuple(port for port in service.ports if port.number in numbers)
    return dataclasses.replace(service, ports=ports) if ports else None


def _visible(service: Service, namespace: str) -> bool:
    return EVERYWHERE in service.export_to or namespace in service.export_to


def _covered(patterns: frozenset[str], hostname: str) -> bool:
    return any(host_covers(pattern, hostname) for pattern in patterns)
