"""What a gateway serves: the Gateways that select it, merged port by port, and the VirtualServices bound to them.

Rules: docs/api/Gateway.md. Served: plain HTTP. A server of another protocol is told by `gateway_problems`, not dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lateen.api.base import Object, Problem
from lateen.api.hosts import resolve_short_name
from lateen.flow import Read
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.policy import age_key
from lateen.pilot.model.routes import Viewer, http_routes
from lateen.pilot.model.values import (
    GatewayListenerInput,
    GatewayServer,
    RouteConfigInput,
    RouteInput,
    VirtualHostInput,
)
from lateen.pilot.registry.services import CLUSTER_DOMAIN

__all__ = ["Gateways", "gateway_problems"]

HTTP_PROTOCOLS = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})


@dataclass(frozen=True, slots=True)
class _Server:
    """One server of one Gateway, with its hosts split into the namespace they accept and the name."""

    gateway: str  # "<namespace>/<name>"
    namespace: str
    hosts: tuple[tuple[str, str], ...]  # (namespace or "*", host)
    redirect: bool
    port_name: str


class Gateways:
    """The derived collections of everything that gateways serve."""

    def __init__(self, mesh: Mesh, outbound: Outbound) -> None:
        self.mesh = mesh
        self.outbound = outbound
        # view -> tuple[GatewayListenerInput, ...]
        self.listeners = mesh.graph.derive("gateway listeners", self._listeners)
        # (view, name of the route configuration) -> RouteConfigInput | None
        self.route_config = mesh.graph.derive("gateway routes", self._route_config)
        # view -> ((port, servers in order of age), ...)
        self._servers = mesh.graph.derive("gateway servers", self._by_port)

    def _by_port(self, read: Read, view: View) -> tuple[tuple[int, tuple[_Server, ...]], ...]:
        """The HTTP servers for this gateway by port, in order of their Gateways' age."""
        labels = dict(view.labels)
        gateways: list[Object] = []
        for label in [("", ""), *view.labels]:
            for key in read.lookup(self.mesh.gateways_by_label, label):
                obj = read.get(self.mesh.objects, key)
                if obj is not None and all(
                    labels.get(name) == value for name, value in (obj.spec.selector or {}).items()
                ):
                    gateways.append(obj)
        ports: dict[int, list[_Server]] = {}
        for obj in sorted(gateways, key=age_key):
            for server in obj.spec.servers:
                if _serves_http(server):
                    ports.setdefault(server.port.number, []).append(_server(obj, server))
        return tuple((port, tuple(ports[port])) for port in sorted(ports))

    def _listeners(self, read: Read, view: View) -> tuple[GatewayListenerInput, ...]:
        if view.kind != "gateway":
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        translated = dict(view.gateway_ports)
        return tuple(
            GatewayListenerInput(
                bind="0.0.0.0" if view.capture else "127.0.0.1",  # noqa: S104  # inside a namespace of its own
                port=port if view.capture else translated.get(port, port),
                servers=(GatewayServer(hosts=("*",), http_route=f"http.{port}"),),
                telemetry=settings.telemetry,
            )
            for port, _ in read.get(self._servers, view)
        )

    def _route_config(self, read: Read, key: tuple[View, str]) -> RouteConfigInput | None:
        view, name = key
        prefix, _, text = name.partition(".")
        if view.kind != "gateway" or prefix != "http" or not text.isdecimal() or len(text) > 5:
            return None
        port = int(text)
        by_port: tuple[tuple[int, tuple[_Server, ...]], ...] = read.get(self._servers, view)
        servers = dict(by_port).get(port, ())
        routes: dict[str, list[RouteInput]] = {}
        redirect: set[str] = set()
        for server in servers:
            for vs in self.outbound.virtual_services.bound(read, gateway=server.gateway, namespace=view.namespace):
                viewer = Viewer(gateway=server.gateway, namespace=view.namespace, labels=dict(view.labels))
                found = http_routes(vs, port=port, viewer=viewer, resolve=self.outbound.resolver(read, view))
                for host in _shared_hosts(server, vs) if found else ():
                    # Several servers may bind one VirtualService to one host; its routes count once.
                    known = routes.setdefault(host, [])
                    known.extend(route for route in found if route not in known)
            if server.redirect:
                redirect.update(host for _, host in server.hosts)
        hosts = sorted({*routes, *redirect})
        return RouteConfigInput(
            name=name,
            virtual_hosts=tuple(
                VirtualHostInput(
                    name=f"{host}:{port}",
                    domains=(host,),
                    routes=tuple(sorted(routes.get(host, ()), key=_is_catch_all)),
                    require_tls=host in redirect,
                )
                for host in hosts
            )
            or (VirtualHostInput(name=f"blackhole:{port}", domains=("*",), routes=()),),
        )

    def route_servers(self, read: Read, view: View, name: str) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Return the port that a route configuration is for, and (Gateway, port's name) of each server on it."""
        port = _route_port(name)
        by_port: tuple[tuple[int, tuple[_Server, ...]], ...] = read.get(self._servers, view)
        servers = dict(by_port).get(port, ())
        return port, tuple(dict.fromkeys((server.gateway, server.port_name) for server in servers))


def _route_port(name: str) -> int:
    """Return the port in the name of a gateway's route configuration, `http.80`; 0 when it is none."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() and len(parts[1]) <= 5 else 0


def gateway_problems(obj: Object) -> Iterator[Problem]:
    """Yield a warning for each server of a Gateway that is decoded but not served."""
    for position, server in enumerate(obj.spec.servers):
        if not _serves_http(server):
            protocol = server.port.protocol if server.port is not None else ""
            yield obj.problem(
                f"spec.servers[{position}].port.protocol",
                f"{protocol!r} is decoded and stored but not served by this version; HTTP, HTTP2, GRPC and GRPC-WEB "
                "without TLS termination are",
                "warning",
            )


def _serves_http(server: Any) -> bool:
    return (server.port.protocol or "").upper() in HTTP_PROTOCOLS


def _server(obj: Object, server: Any) -> _Server:
    hosts = []
    for written in server.hosts:
        owner, slash, host = written.partition("/")
        if not slash:
            owner, host = "*", written
        hosts.append((obj.key.namespace if owner == "." else owner, host.lower()))
    redirect = bool(server.tls is not None and server.tls.https_redirect)
    return _Server(f"{obj.key.namespace}/{obj.key.name}", obj.key.namespace, tuple(hosts), redirect, server.port.name)


def _shared_hosts(server: _Server, vs: Object) -> list[str]:
    """Return the hosts that both the server and the VirtualService speak of: of each pair the more specific one."""
    found = []
    for written in vs.spec.hosts:
        host = resolve_short_name(written, vs.key.namespace, CLUSTER_DOMAIN).lower()
        for owner, served in server.hosts:
            if owner not in ("*", vs.key.namespace):
                continue
            shared = _intersection(served, host)
            if shared is not None:
                found.append(shared)
    return sorted(set(found))


def _intersection(left: str, right: str) -> str | None:
    if left == right or _covers(left, right):
        return right
    return left if _covers(right, left) else None


def _covers(pattern: str, host: str) -> bool:
    return pattern.startswith("*") and host.endswith(pattern[1:]) and len(host) >= len(pattern)


def _is_catch_all(route: RouteInput) -> bool:
    match = route.match
    if match is None:
        return True
    narrowed = match.headers or match.without_headers or match.query_params or match.method or match.authority
    uri = match.uri
    return not narrowed and (uri is None or uri.prefix == "/" or uri.regex == ".*")
