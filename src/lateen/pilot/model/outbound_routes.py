"""Where a view's requests go: its route configurations, and the virtual host of each service in them.

In:  a view and a route configuration's name: a port, `host:port`, a placed listener's, or the HTTP proxy's.
Out: `RouteConfigInput` without virtual hosts, and the key of each; `VirtualHostInput` for such a key.
Rules: docs/api/VirtualService.md, docs/api/Sidecar.md.
"""

from __future__ import annotations

from typing import Any

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.destinations import Destinations
from lateen.pilot.model.domains import service_domains
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.outbound_policy import outbound_policy, spoken_on
from lateen.pilot.model.routes import Viewer, default_route, http_routes
from lateen.pilot.model.scope import Egress
from lateen.pilot.model.values import Hostname, RouteConfigInput, VirtualHostInput
from lateen.pilot.model.virtual_services import HTTP_PORT, VirtualServices
from lateen.pilot.registry.values import Service

__all__ = ["HTTP_PROXY_ROUTE", "OutboundRoutes"]

HTTP_PROXY_ROUTE = "http_proxy"


class OutboundRoutes:
    """The derived collections of routes."""

    def __init__(self, mesh: Mesh, virtual_services: VirtualServices, destinations: Destinations) -> None:
        self.mesh = mesh
        self._virtual_services = virtual_services
        self._destinations = destinations
        # (view, port, hostname, name of the route configuration) -> VirtualHostInput | None
        self.virtual_host = mesh.graph.derive("virtual host", self._virtual_host)
        # (view, name) -> (RouteConfigInput without virtual hosts, keys of virtual hosts, others) | None
        self.route_config = mesh.graph.derive("route configuration", self._route_config)

    def _route_config(self, read: Read, key: tuple[View, str]) -> tuple[RouteConfigInput, tuple[Any, ...]] | None:
        """A route configuration without its virtual hosts, and the keys of those (`virtual_host`) in order."""
        view, name = key
        if view.kind != "sidecar":
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = outbound_policy(view, settings)
        placed = view.scope.named(name)
        if name == HTTP_PROXY_ROUTE or (placed is not None and _proxies(placed)):
            keys = [
                (view, number, service.hostname, name)
                for number in self.mesh.sight.ports(read, view)
                for service in self.mesh.sight.on_port(read, view, number, placed)
                if (port := service.port(number)) and (port.protocol.is_http or port.protocol is Protocol.AUTO)
            ]
            served = [host for _, number, host, _ in keys if number == HTTP_PORT]
            unregistered = self._virtual_services.unregistered(
                read, view, port=HTTP_PORT, served=served, importer=placed
            )
            keys.extend((view, HTTP_PORT, host, name) for host in unregistered)
            return RouteConfigInput(
                name=name,
                virtual_hosts=(),
                catch_all=policy.mode,
                egress_proxy=policy.egress_proxy,
                ignore_port_in_host=False,
            ), tuple(keys)
        if placed is not None:
            services = self.mesh.sight.on_port(read, view, placed.port, placed)
            hosts = [service.hostname for service in services if service.alias_of is None]
            hosts.extend(
                self._virtual_services.unregistered(read, view, port=placed.port, served=hosts, importer=placed)
            )
            return RouteConfigInput(
                name=name, virtual_hosts=(), catch_all=policy.mode, egress_proxy=policy.egress_proxy
            ), tuple((view, placed.port, host, name) for host in hosts)
        host, colon, text = name.rpartition(":")
        if not text.isdecimal() or len(text) > 5:
            return None
        number = int(text)
        if colon:
            return RouteConfigInput(name=name, virtual_hosts=()), ((view, number, Hostname(host), name),)
        through = view.scope.at(number)
        if view.scope.egress and through is None:
            return None
        hosts = [
            service.hostname
            for service in self.mesh.sight.on_port(read, view, number, through)
            if service.alias_of is None and (port := service.port(number)) and spoken_on(port, through).is_http
        ]
        hosts.extend(self._virtual_services.unregistered(read, view, port=number, served=hosts, importer=through))
        return RouteConfigInput(
            name=name, virtual_hosts=(), catch_all=policy.mode, egress_proxy=policy.egress_proxy
        ), tuple((view, number, host, name) for host in sorted(dict.fromkeys(hosts)))

    def _virtual_host(self, read: Read, key: tuple[View, int, Hostname, str]) -> VirtualHostInput | None:
        view, number, hostname, config = key
        service = self.mesh.sight.imported(read, view, hostname)
        placed = view.scope.named(config)
        through = placed or (None if config == HTTP_PROXY_ROUTE else view.scope.at(number))
        if service is not None and ":" in config:
            through = view.scope.through(service.namespace, hostname, number)
        viewer = Viewer(namespace=view.namespace, labels=dict(view.labels))
        resolve = self._destinations.resolver(read, view)
        spoken = next(
            self._virtual_services.speaking(
                read,
                namespace=view.namespace,
                host=hostname,
                importer=through or view.scope,
                acts=lambda vs: http_routes(vs, port=number, viewer=viewer, resolve=resolve),
            ),
            None,
        )
        if spoken is not None:
            routes = spoken[1]
        elif service is not None:
            reached = self._destinations.reached(read, view, service, number, "")
            routes = (default_route(hostname, number, reached),)
        else:
            return None
        proxied = config == HTTP_PROXY_ROUTE or (placed is not None and _proxies(placed))
        if ":" in config and placed is None:
            domains: tuple[str, ...] = ("*",)
        elif service is None:
            domains = (str(hostname), f"{hostname}:{number}") if proxied else (str(hostname),)
        else:
            domains = service_domains(
                hostname,
                view.namespace,
                (*self.mesh.addresses(read, service), *service.external_ips),
                headless=service.headless,
                ports=(number,) if proxied else (),
            )
            if proxied and number != 80 and not _only_on(service, placed):
                domains = tuple(domain for domain in domains if domain.endswith(f":{number}"))
        return VirtualHostInput(name=f"{hostname}:{number}", domains=domains, routes=routes)


def _proxies(entry: Egress) -> bool:
    """Tell whether clients of a placed listener name the port beside the host: a proxy's, and those of sockets."""
    return not entry.port or entry.declared is Protocol.HTTP_PROXY


def _only_on(service: Service, entry: Egress | None) -> bool:
    """Tell whether a socket's client that names no port can only mean one: the service has no other."""
    return entry is not None and not entry.port and len(service.ports) == 1
