"""Envoy resources as derived values: each is translated when, and only when, its input changed.

Two views with one input share one resource: `Interned` finds it by the bytes of the input, so that distinct resources
grow with distinct content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from lateen.api.hosts import resolve_short_name
from lateen.flow import Graph, Read
from lateen.pilot.model.gateway import Gateways
from lateen.pilot.model.inbound import Inbound
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.names import Names
from lateen.pilot.model.outbound import Outbound, parse_cluster_name
from lateen.pilot.model.values import Hostname, HttpProxyListenerInput, VirtualHostInput
from lateen.pilot.registry.services import CLUSTER_DOMAIN
from lateen.pilot.translate.clusters import build_dynamic_cluster, build_outbound_cluster
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.listeners import (
    build_http_proxy_listener,
    build_outbound_listener,
    build_virtual_outbound,
)
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.translate.proxyless import build_proxyless_cluster, build_proxyless_listener, build_proxyless_routes
from lateen.pilot.translate.routes import build_route_config, build_virtual_host, splice_route_config
from lateen.pilot.xds.source import Resource

__all__ = ["Interned", "Render"]


class Interned:
    """Makes each distinct thing once. Nothing is kept that nobody uses."""

    def __init__(self) -> None:
        self._made: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        self.made = 0
        self._encode = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic").encode

    def __call__(self, build: Callable[[Any], Any], argument: Any) -> Any:
        """Return `build(argument)`, the same object for an equal argument."""
        key = blake2b(build.__qualname__.encode() + b"\\0" + self._encode(argument), digest_size=20).digest()
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = build(argument)
            self.made += 1
        return found


class Render:
    """The derived collections of resources."""

    def __init__(self, mesh: Mesh, *, outbound: Outbound, inbound: Inbound, gateways: Gateways, names: Names) -> None:
        self._outbound = outbound
        self._inbound = inbound
        self._gateways = gateways
        self._names = names
        self.interned = Interned()
        graph: Graph = mesh.graph
        # (view, hostname) -> tuple[Resource, ...]
        self.clusters = graph.derive("cluster resources", self._clusters)
        # view -> tuple[Resource, ...]: clusters that are no service's
        self.base_clusters = graph.derive("base cluster resources", self._base_clusters)
        # (view, hostname) -> tuple[Resource, ...]
        self.service_listeners = graph.derive("service listener resources", self._service_listeners)
        # (view, port) -> tuple[Resource, ...]
        self.port_listeners = graph.derive("port listener resources", self._port_listener)
        # view -> tuple[Resource, ...]: captures, proxies, gateway ports
        self.base_listeners = graph.derive("base listener resources", self._base_listeners)
        # workload -> tuple[Resource, ...]
        self.inbound_listeners = graph.derive("inbound listener resources", self._inbound_listeners)
        self.inbound_clusters = graph.derive("inbound cluster resources", self._inbound_clusters)
        # (view, name) -> Resource | None
        self.endpoints = graph.derive("endpoint resources", self._endpoints)
        self.routes = graph.derive("route resources", self._routes)
        self.virtual_hosts = graph.derive("virtual host bytes", self._virtual_host)
        self.proxyless_listener = graph.derive("proxyless listeners", self._proxyless_listener)
        self.proxyless_routes = graph.derive("proxyless routes", self._proxyless_routes)
        self.proxyless_cluster = graph.derive("proxyless clusters", self._proxyless_cluster)
        # (view, hostname) -> NameEntry | None
        self.names = names.entry

    def _resource(self, build: Callable[[Any], Any], argument: Any) -> Resource:
        resource: Resource = self.interned(_to_resource(build), argument)
        return resource

    def _clusters(self, read: Read, key: tuple[View, Hostname]) -> tuple[Resource, ...]:
        inputs = read.get(self._outbound.clusters, key)
        return tuple(self._resource(build_outbound_cluster, entry) for entry in inputs)

    def _base_clusters(self, read: Read, view: View) -> tuple[Resource, ...]:
        found = read.get(self._outbound.dynamic_cluster, view)
        return (self._resource(build_dynamic_cluster, found),) if found is not None else ()

    def _service_listeners(self, read: Read, key: tuple[View, Hostname]) -> tuple[Resource, ...]:
        inputs = read.get(self._outbound.service_listeners, key)
        return tuple(self._resource(build_outbound_listener, entry) for entry in inputs)

    def _port_listener(self, read: Read, key: tuple[View, int]) -> tuple[Resource, ...]:
        found = read.get(self._outbound.port_listener, key)
        return (self._resource(build_outbound_listener, found),) if found is not None else ()

    def _base_listeners(self, read: Read, view: View) -> tuple[Resource, ...]:
        if view.kind == "gateway":
            inputs = read.get(self._gateways.listeners, view)
            return tuple(self._resource(build_gateway_listener, entry) for entry in inputs)
        return tuple(
            self._resource(
                build_http_proxy_listener if isinstance(entry, HttpProxyListenerInput) else build_virtual_outbound,
                entry,
            )
            for entry in read.get(self._outbound.base_listeners, view)
        )

    def _inbound_listeners(self, read: Read, workload: str) -> tuple[Resource, ...]:
        found = read.get(self._inbound.listeners, workload)
        return tuple(resource_of(listener) for listener in build_inbound_listeners(found)) if found is not None else ()

    def _inbound_clusters(self, read: Read, workload: str) -> tuple[Resource, ...]:
        found = read.get(self._inbound.listeners, workload)
        return tuple(resource_of(cluster) for cluster in build_inbound_clusters(found)) if found is not None else ()

    def _endpoints(self, read: Read, key: tuple[View, str]) -> Resource | None:
        found = read.get(self._outbound.endpoints, key)
        return self._resource(build_endpoints, found) if found is not None else None

    def _virtual_host(self, read: Read, key: Any) -> _HostBytes | None:
        found: VirtualHostInput | None = read.get(self._outbound.virtual_host, key)
        if found is None:
            return None
        made: _HostBytes = self.interned(_host_bytes, found)
        return made

    def _routes(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view = key[0]
        if view.kind == "gateway":
            gateway = read.get(self._gateways.route_config, key)
            # A name nobody serves is answered, empty: Envoy would wait for it.
            return self._resource(build_route_config, gateway) if gateway is not None else None
        found = read.get(self._outbound.route_config, key)
        if found is None:
            return None
        shell, hosts = found
        made = [read.get(self.virtual_hosts, host) for host in hosts]
        return splice_route_config(shell, [(host.domains, host.data) for host in made if host is not None])

    def _proxyless_listener(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        host, _, text = name.rpartition(":")
        if not text.isdecimal() or len(text) > 5:
            return None
        hostname = Hostname(resolve_short_name(host, view.namespace, CLUSTER_DOMAIN).lower())
        service = self._outbound.mesh.sight.imported(read, view, hostname)
        if service is None or service.port(int(text)) is None:
            return None
        return self._resource(build_proxyless_listener, (name, str(hostname), int(text)))

    def _proxyless_routes(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        port, _, hostname = parsed
        found = read.get(self._outbound.virtual_host, (view, port, hostname, name))
        return self._resource(build_proxyless_routes, (name, found)) if found is not None else None

    def _proxyless_cluster(self, read: Read, key: tuple[View, str]) -> Resource | None:
        view, name = key
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        port, subset, hostname = parsed
        inputs = read.get(self._outbound.clusters, (view, hostname))
        found = next((entry for entry in inputs if (entry.port, entry.subset) == (port, subset)), None)
        return self._resource(build_proxyless_cluster, found) if found is not None else None


class _HostBytes:
    """One virtual host, serialised, and its domains. Equal data is equal."""

    __slots__ = ("__weakref__", "data", "domains")

    def __init__(self, domains: tuple[str, ...], data: bytes) -> None:
        self.domains = domains
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HostBytes) and other.data == self.data

    def __hash__(self) -> int:
        return hash(self.data)


def _host_bytes(inp: VirtualHostInput) -> _HostBytes:
    return _HostBytes(inp.domains, build_virtual_host(inp).SerializeToString(deterministic=True))


def _to_resource(build: Callable[[Any], Any]) -> Callable[[Any], Resource]:
    known = _BUILDERS.get(build)
    if known is None:

        def made(argument: Any) -> Resource:
            return resource_of(build(argument))

        made.__qualname__ = build.__qualname__
        known = _BUILDERS[build] = made
    return known


_BUILDERS: dict[Callable[[Any], Any], Callable[[Any], Resource]] = {}


def _plain(value: Any) -> Any:
    """Spell for msgpack what it does not know: subclasses of timedelta, mappings, sets."""
    total = getattr(value, "total_seconds", None)
    if total is not None:
        return total()
    if isinstance(value, Iterable):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a translation's input")
