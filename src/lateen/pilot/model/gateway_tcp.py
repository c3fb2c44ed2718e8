"""Connections that a gateway carries as bytes: TCP, TLS that it ends, and TLS that it passes on by the name asked for.

Rules: docs/api/Gateway.md. `tcp` rules of VirtualServices are for TCP and for TLS that ends here, `tls` rules for
PASSTHROUGH. AUTO_PASSTHROUGH needs no rule: a mesh client's hello names service, port and subset, and the gateway
passes it to the endpoints of those, which end the TLS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from lateen.api.hosts import host_covers
from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.gateway_servers import PortServers, Server, hosts_overlap, narrower
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.routes import Viewer, tcp_routes, tls_routes
from lateen.pilot.model.values import (
    AutoMtls,
    Cluster,
    ClusterInput,
    Destination,
    EndpointsInput,
    Hostname,
    TcpRoute,
)
from lateen.pilot.registry.values import EVERYWHERE, Service

__all__ = ["GatewayTcp", "Taken", "parse_sni_cluster", "sni_cluster_name"]

MESH_ALPN = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
ANY = "*"

# (server name, destination subnets, client's subnets) that a chain of the listener matches already
Taken = set[tuple[str, tuple[str, ...], tuple[str, ...]]]


def sni_cluster_name(port: int, subset: str, hostname: str) -> Cluster:
    """Return the server name by which mesh clients ask for a service, which is its cluster's name here."""
    return Cluster(f"outbound_.{port}_.{subset}_.{hostname}")


def parse_sni_cluster(name: str) -> tuple[int, str, Hostname] | None:
    """Return (port, subset, hostname) of such a name; None for any other."""
    parts = name.split("_.", 3)
    if len(parts) != 4 or parts[0] != "outbound" or not parts[1].isdecimal() or len(parts[1]) > 5:
        return None
    return int(parts[1]), parts[2], Hostname(parts[3])


class GatewayTcp:
    """The derived collections of what gateways carry without looking into it."""

    def __init__(self, mesh: Mesh, outbound: Outbound, servers: Any, bound: Any) -> None:
        self.mesh = mesh
        self.outbound = outbound
        self._servers = servers  # view -> (tuple[PortServers, ...], notes)
        self._bound = bound  # (gateway, namespace) -> tuple[BoundService, ...]
        graph = mesh.graph
        # view -> hosts, each with the namespace it accepts, that AUTO_PASSTHROUGH servers open
        self._opened = graph.derive("auto passthrough hosts", self._opened_hosts)
        # (view, hostname) -> tuple[ClusterInput, ...]: clusters that take mesh clients' own TLS
        self.clusters = graph.derive("sni clusters", self._clusters)
        # (view, name of such a cluster) -> EndpointsInput | None
        self.endpoints = graph.derive("sni endpoints", self._endpoints)

    def routes(self, read: Read, view: View, server: Server, taken: Taken) -> tuple[TcpRoute, ...]:
        """Return the chains of one server, and add what they match to `taken`."""
        if server.mode == "AUTO_PASSTHROUGH":
            return tuple(self._auto_routes(read, view, server))
        if server.mode == "PASSTHROUGH":
            return tuple(self._passed(read, view, server, taken))
        return tuple(self._forwarded(read, view, server))

    def _forwarded(self, read: Read, view: View, server: Server) -> Iterable[TcpRoute]:
        """TCP, or TLS that ended here: the first VirtualService that says anything about the port."""
        for obj in self._rules(read, view, server):
            found = tcp_routes(
                obj, port=server.number, viewer=_viewer(server, view), resolve=self.outbound.resolver(read, view)
            )
            if found:
                protocol = server.protocol.after_termination
                return [replace(route, protocol=protocol) if protocol is Protocol.MONGO else route for route in found]
        return ()

    def _passed(self, read: Read, view: View, server: Server, taken: Taken) -> Iterator[TcpRoute]:
        """TLS that is passed on, a chain for each `match` of a `tls` rule; a name goes where it was first said."""
        for obj in self._rules(read, view, server):
            found = tls_routes(
                obj, port=server.number, viewer=_viewer(server, view), resolve=self.outbound.resolver(read, view)
            )
            hosts = [host for owner, host in server.hosts if owner in (ANY, obj.key.namespace)]
            for route in found:
                asked = route.sni or (ANY,)
                shared = {both for name in asked for host in hosts if (both := narrower(host, name.lower()))}
                names = tuple(sorted(name for name in shared if (name, route.subnets, route.sources) not in taken))
                taken.update((name, route.subnets, route.sources) for name in names)
                if names:
                    yield replace(route, sni=() if ANY in names else names)

    def _rules(self, read: Read, view: View, server: Server) -> Iterator[Any]:
        for bound in read.get(self._bound, (server.gateway, view.namespace)):
            if any(hosts_overlap(server, bound.key.namespace, bound.hosts)):
                obj = self.outbound.virtual_services.get(read, bound.key)
                if obj is not None:
                    yield obj

    # ---- AUTO_PASSTHROUGH

    def _opened_hosts(self, read: Read, view: View) -> tuple[tuple[str, str], ...]:
        ports: tuple[PortServers, ...] = read.get(self._servers, view)[0]
        return tuple(
            sorted(
                {
                    host
                    for port in ports
                    for server in port.servers
                    if server.mode == "AUTO_PASSTHROUGH"
                    for host in server.hosts
                }
            )
        )

    def _auto_routes(self, read: Read, view: View, server: Server) -> Iterator[TcpRoute]:
        """A chain for each service, port and subset: a client names one of these, and reaches nothing else."""
        hosts: set[Hostname] = set()
        for scope in dict.fromkeys((EVERYWHERE, view.namespace)):
            for index in (self.mesh.rows_by_scope, self.mesh.implied_by_scope):
                hosts.update(key.hostname for key in read.lookup(index, (scope, ANY)))
        for hostname in sorted(hosts):
            service = self.mesh.sight.imported(read, view, hostname)
            if service is None or not _is_open(service, server.hosts):
                continue
            for inp in read.get(self.clusters, (view, hostname)):
                name = sni_cluster_name(inp.port, inp.subset, hostname)
                yield TcpRoute(
                    destinations=(Destination(cluster=name),),
                    stat_prefix=str(name),
                    sni=(str(name),),
                    alpn=MESH_ALPN,
                    service=inp.service,
                )

    def _clusters(self, read: Read, key: tuple[View, Hostname]) -> tuple[ClusterInput, ...]:
        view, hostname = key
        opened = read.get(self._opened, view)
        if not opened:
            return ()
        service = self.mesh.sight.imported(read, view, hostname)
        if service is None or not _is_open(service, opened):
            return ()
        inputs: tuple[ClusterInput, ...] = read.get(self.outbound.clusters, key)
        return tuple(
            replace(inp, client_tls=True, protocol=Protocol.TCP, tls=None, auto_mtls=AutoMtls.OFF, sans=())
            for inp in inputs
        )

    def _endpoints(self, read: Read, key: tuple[View, str]) -> EndpointsInput | None:
        view, name = key
        parsed = parse_sni_cluster(name)
        if parsed is None:
            return None
        port, subset, hostname = parsed
        if all((inp.port, inp.subset) != (port, subset) for inp in read.get(self.clusters, (view, hostname))):
            return None
        found: EndpointsInput | None = read.get(self.outbound.endpoints, (view, cluster_name(port, subset, hostname)))
        if found is None:
            return None
        # Only who ends mutual TLS can make anything of the bytes.
        return replace(found, cluster=Cluster(name), endpoints=tuple(each for each in found.endpoints if each.mtls))


def _is_open(service: Service, hosts: Iterable[tuple[str, str]]) -> bool:
    return not service.mesh_external and any(
        owner in (ANY, service.namespace) and host_covers(host, service.hostname) for owner, host in hosts
    )


def _viewer(server: Server, view: View) -> Viewer:
    return Viewer(gateway=server.gateway, namespace=view.namespace, labels=dict(view.labels), tls=server.terminates)
