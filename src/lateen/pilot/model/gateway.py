"""What a gateway serves: the servers that select it, merged port by port, and the VirtualServices bound to them.

Rules: docs/api/Gateway.md. Which servers stand side by side is decided in `gateway_servers`, chains of connections in
`gateway_tcp`, TLS in `server_tls`, secrets in `credentials`. Here: listeners, and the virtual hosts of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.api.hosts import host_covers
from lateen.api.virtual_service import HTTPDirectResponse
from lateen.flow import Read
from lateen.pilot.model.authorization import Authorizations
from lateen.pilot.model.gateway_servers import Note, PortServers, Server, hosts_overlap, merge_servers
from lateen.pilot.model.gateway_tcp import GatewayTcp, Taken
from lateen.pilot.model.hosts import full_name
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.mixer import MixerRules
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.ownership import at_gateway, audience
from lateen.pilot.model.policy import age_key, exported_to
from lateen.pilot.model.request_auth import RequestAuths
from lateen.pilot.model.routes import Viewer, http_routes, matches_all
from lateen.pilot.model.server_tls import build_server_tls
from lateen.pilot.model.telemetries import CLIENT, Telemetries
from lateen.pilot.model.values import (
    GatewayListenerInput,
    GatewayServer,
    RouteConfigInput,
    RouteInput,
    VirtualHostInput,
)
from lateen.pilot.registry.values import Service
from lateen.wire.local import HTTP3_LABEL

__all__ = ["BoundService", "Gateways"]

MISDIRECTED = HTTPDirectResponse(status=421)  # RFC 9110, 15.5.20: a client may ask again on a connection of its own


@dataclass(frozen=True, slots=True)
class BoundService:
    """What decides whether a VirtualService attaches to a server, and in which order: all but its rules."""

    age: tuple[str, str, str]
    key: ResourceKey
    hosts: tuple[str, ...]
    export_to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Host:
    """One virtual host of a gateway: the VirtualServices that speak for it, each with the Gateway it came by."""

    bound: tuple[tuple[ResourceKey, str], ...] = ()
    redirect: bool = False
    misdirected: bool = False


class Gateways:
    """The derived collections of everything that gateways serve."""

    def __init__(
        self,
        mesh: Mesh,
        outbound: Outbound,
        request_auths: RequestAuths,
        authorizations: Authorizations,
        telemetries: Telemetries,
        mixer: MixerRules,
    ) -> None:
        self.mixer = mixer
        self._telemetries = telemetries
        self.mesh = mesh
        self.request_auths = request_auths
        self._authorizations = authorizations
        self.outbound = outbound
        graph = mesh.graph
        # view -> (tuple[PortServers, ...], tuple[Note, ...])
        self.servers = graph.derive("gateway servers", self._by_port)
        # key of a VirtualService -> BoundService | None
        self._head = graph.derive("gateway virtual services", self._head_of)
        # ("<namespace>/<name>" of a Gateway, namespace of the proxy) -> tuple[BoundService, ...], in order
        self.bound = graph.derive("bound virtual services", self._bound)
        self.tcp = GatewayTcp(mesh, outbound, self.servers, self.bound)
        # view -> tuple[GatewayListenerInput, ...]
        self.listeners = graph.derive("gateway listeners", self._listeners)
        # (view, name of the route configuration) -> {host: _Host} in order, None for a name nobody serves
        self._hosts = graph.derive("gateway hosts", self._hosts_of)
        # (view, name of the route configuration, host) -> _Host | None
        self._host = graph.derive("gateway host", self._host_of)
        # (view, name of the route configuration) -> (RouteConfigInput without virtual hosts, keys of those) | None
        self.route_config = graph.derive("gateway routes", self._route_config)
        # (view, name of the route configuration, host) -> VirtualHostInput | None
        self.virtual_host = graph.derive("gateway virtual host", self._virtual_host)

    # ---- servers

    def _by_port(self, read: Read, view: View) -> tuple[tuple[PortServers, ...], tuple[Note, ...]]:
        if view.kind != "gateway":
            return (), ()
        labels = dict(view.labels)
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        gateways: list[tuple[bool, tuple[str, str, str], Object]] = []
        for label in [("", ""), *view.labels]:
            for key in read.lookup(self.mesh.gateways_by_label, label):
                obj = read.get(self.mesh.objects, key)
                if obj is not None and all(
                    labels.get(name) == value for name, value in (obj.spec.selector or {}).items()
                ):
                    acts, first = at_gateway(
                        obj,
                        view.namespace,
                        root=settings.root_namespace,
                        ownership=settings.gateway_ownership,
                        hosts=settings.host_ownership,
                    )
                    if acts:
                        gateways.append((not first, age_key(obj), obj))
        ordered = [obj for _, _, obj in sorted(gateways, key=lambda entry: entry[:2])]
        return merge_servers(ordered, view, self._targets(read, view))

    def _targets(self, read: Read, view: View) -> dict[int, int]:
        """Ports of the Services that select this gateway, and the ones they send to; the oldest Service's counts."""
        labels = dict(view.labels)
        found: list[tuple[tuple[Any, ...], Service]] = []
        for label, value in view.labels:
            for row in read.lookup(self.mesh.rows_by_selector, (view.namespace, label, value)):
                service = read.get(self.mesh.services, row)
                if service is not None and all(labels.get(key) == want for key, want in service.selector):
                    found.append(((row.registry, service.created, row.name), service))
        targets: dict[int, int] = {}
        for _, service in sorted(found, key=lambda pair: pair[0]):
            for port in service.ports:
                if isinstance(port.target, int) and port.target:
                    targets.setdefault(port.number, port.target)
        return targets

    def _head_of(self, read: Read, key: ResourceKey) -> BoundService | None:
        obj = read.get(self.mesh.objects, key)
        if obj is None:
            return None
        hosts = tuple(full_name(host, key.namespace) for host in obj.spec.hosts)
        return BoundService(age_key(obj), key, hosts, tuple(obj.spec.export_to))

    def _bound(self, read: Read, key: tuple[str, str]) -> tuple[BoundService, ...]:
        gateway, namespace = key
        default = read.get(self.mesh.settings, "mesh").virtual_export_to
        heads = [read.get(self._head, name) for name in read.lookup(self.mesh.virtual_by_gateway, gateway)]
        visible = (
            head
            for head in heads
            if head is not None and exported_to(head.export_to or default, head.key.namespace, namespace)
        )
        return tuple(
            sorted(visible, key=lambda head: (audience(head.export_to, head.key.namespace, namespace), head.age))
        )

    # ---- listeners

    def _listeners(self, read: Read, view: View) -> tuple[GatewayListenerInput, ...]:
        return tuple(self._listeners_of(read, view))

    def _listeners_of(self, read: Read, view: View) -> Iterator[GatewayListenerInput]:
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        topology = settings.gateway_topology
        who: dict[str, Any] = {"kind": "gateway", "namespace": view.namespace, "labels": view.labels}
        common: dict[str, Any] = {
            "dynamic_dns": settings.dns_refresh if self.outbound.knows_dynamic(read, view) else None,
            "request_auth": self.request_auths.of_gateway(read, view),
            "telemetry": self._telemetries.of(read, view, CLIENT),
            "num_trusted_proxies": (topology and topology.num_trusted_proxies) or 0,
            "forward_client_cert": (topology and topology.forward_client_cert_details) or "",
            "authorization": self._authorizations.of(read, **who, view=lambda: view),
            "spelling": self._authorizations.spelling(read, **who),
            "mixer": self.mixer.of(read, **who),
        }
        for port in read.get(self.servers, view)[0]:
            servers = tuple(self._chains(read, view, port, settings))
            if servers:
                yield GatewayListenerInput(
                    bind=port.bind,
                    port=port.port,
                    also=port.also,
                    servers=servers,
                    proxy_protocol=topology is not None and topology.proxy_protocol is not None,
                    **common,
                )
            if _http3(view) and not port.bind.startswith("unix:"):
                quic = tuple(
                    GatewayServer(
                        name=server.name,
                        sni=server.server_names,
                        tls=build_server_tls(
                            server.tls,
                            server.protocol,
                            settings.peer_domains,
                            defaults=settings.tls_defaults,
                            mesh_tls=settings.mesh_tls,
                            quic=True,
                        ),
                        http_route=server.route,
                    )
                    for server in port.servers
                    if server.serves_http3
                )
                if quic:
                    yield GatewayListenerInput(
                        bind=port.bind, port=port.port, also=port.also, servers=quic, quic=True, **common
                    )

    def _chains(self, read: Read, view: View, port: PortServers, settings: MeshSettings) -> Iterator[GatewayServer]:
        if port.servers[0].protocol.is_http:
            first = port.servers[0]  # all of them share its routes
            yield GatewayServer(name=first.name, http_route=first.route)
            return
        # What a server that ends TLS answers for is passed on by no other.
        taken: Taken = {
            (host, (), ()) for server in port.servers if server.terminates for host in server.server_names or ("*",)
        }
        for server in port.servers:
            tls = (
                build_server_tls(
                    server.tls,
                    server.protocol,
                    settings.peer_domains,
                    defaults=settings.tls_defaults,
                    mesh_tls=settings.mesh_tls,
                )
                if server.terminates
                else None
            )
            if server.serves_http:
                yield GatewayServer(name=server.name, sni=server.server_names, tls=tls, http_route=server.route)
            elif routes := self.tcp.routes(read, view, server, taken):
                yield GatewayServer(
                    name=server.name, sni=server.server_names if server.terminates else (), tls=tls, tcp=routes
                )

    # ---- routes

    def _servers_of(self, read: Read, view: View, name: str) -> tuple[tuple[Server, ...], tuple[Server, ...]]:
        """Return the servers of one route configuration, and the others that end TLS on the same port."""
        for port in read.get(self.servers, view)[0]:
            own = tuple(server for server in port.servers if server.route == name)
            if own:
                others = port.servers if own[0].terminates else ()
                return own, tuple(server for server in others if server not in own)
        return (), ()

    def _hosts_of(self, read: Read, key: tuple[View, str]) -> dict[str, _Host] | None:
        view, name = key
        servers, others = self._servers_of(read, view, name)
        if not servers:
            return None
        found: dict[str, dict[tuple[ResourceKey, str], None]] = {}
        redirect: set[str] = set()
        for server in servers:
            for bound in read.get(self.bound, (server.gateway, view.namespace)):
                for host in hosts_overlap(server, bound.key.namespace, bound.hosts):
                    # Several servers of a Gateway may bind one VirtualService to one host; its routes count once.
                    found.setdefault(host, {})[bound.key, server.gateway] = None
            if server.redirect and not server.terminates:
                redirect.update(host for _, host in server.hosts)
        strangers = _strangers(servers, others)
        hosts = {host: _Host(tuple(bound), redirect=host in redirect) for host, bound in found.items()}
        for host in redirect - found.keys():
            hosts[host] = _Host(redirect=True)
        for host in [host for host in hosts if any(host_covers(stranger, host) for stranger in strangers)]:
            del hosts[host]
        hosts.update({host: _Host(misdirected=True) for host in strangers})
        return dict(sorted(hosts.items()))

    def _host_of(self, read: Read, key: tuple[View, str, str]) -> _Host | None:
        hosts: dict[str, _Host] | None = read.get(self._hosts, key[:2])
        return hosts.get(key[2]) if hosts else None

    def _route_config(self, read: Read, key: tuple[View, str]) -> tuple[RouteConfigInput, tuple[Any, ...]] | None:
        view, name = key
        hosts = read.get(self._hosts, key)
        if hosts is None:
            return None
        servers, _ = self._servers_of(read, view, name)
        number = servers[0].number
        # Under the number that clients know: `lateen gateway --listen` may show the port as another one.
        outside = dict(view.gateway_ports).get(number, number)
        shell = RouteConfigInput(
            name=name,
            virtual_hosts=(),
            http3_port=outside if _http3(view) and servers[0].serves_http3 else 0,
        )
        return shell, tuple((view, name, host) for host in hosts) or ((view, name, ""),)

    def _virtual_host(self, read: Read, key: tuple[View, str, str]) -> VirtualHostInput | None:
        view, name, host = key
        servers, _ = self._servers_of(read, view, name)
        if not servers:
            return None
        number = servers[0].number
        terminates = servers[0].terminates
        entry = read.get(self._host, key)
        if entry is None:
            return None if host else VirtualHostInput(name=f"blackhole:{number}", domains=("*",), routes=())
        routes: list[RouteInput] = []
        for vs, gateway in entry.bound:
            obj = self.outbound.virtual_services.get(read, vs)
            if obj is not None:
                viewer = Viewer(gateway=gateway, namespace=view.namespace, labels=dict(view.labels), tls=terminates)
                routes.extend(http_routes(obj, port=number, viewer=viewer, resolve=self.outbound.resolver(read, view)))
        if entry.misdirected:
            routes = [RouteInput(name="misdirected", direct_response=MISDIRECTED)]
        elif not routes and not entry.redirect:
            return None
        return VirtualHostInput(
            name=f"{host}:{number}",
            domains=(host,),
            # What takes every request goes last: the next VirtualService's routes would never be reached.
            routes=tuple(sorted(routes, key=lambda route: matches_all(route.match))),
            require_tls=entry.redirect,
        )

    def route_servers(self, read: Read, view: View, name: str) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Return the port that a route configuration is for, and (Gateway, port's name) of each server on it."""
        servers, _ = self._servers_of(read, view, name)
        named = tuple(dict.fromkeys((server.gateway, server.port_name) for server in servers))
        return (servers[0].number if servers else 0), named


def _http3(view: View) -> bool:
    return (HTTP3_LABEL, "true") in view.labels


def _strangers(servers: tuple[Server, ...], others: tuple[Server, ...]) -> set[str]:
    """Return the hosts that other servers of the same port answer for, with certificates and clients of their own.

    A connection that was made for one server does not carry requests for another: who needs no client certificate for
    `*.example.com` must not reach `admin.example.com` by it.
    """
    own = {host for server in servers for _, host in server.hosts}
    theirs = {host for server in others if server.terminates and server.serves_http for _, host in server.hosts}
    # What covers a host of ours is the less specific one: ours is what the client's hello selected.
    return {host for host in theirs if not any(host_covers(host, mine) for mine in own)}
