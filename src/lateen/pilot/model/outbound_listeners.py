"""What a sidecar listens on for what its workload sends: captured connections, by port or by a service's own address.

In:  a view, with a port or a host. Out: listener inputs. What a Sidecar places elsewhere is in `egress.py`.
HTTP of all services shares a port's wildcard listener; TCP has one for each address, or shares it by name or subnet.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.binds import Binds
from lateen.pilot.model.chains import first_of_each_match
from lateen.pilot.model.destinations import Destinations
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.outbound_policy import outbound_policy, spoken_on
from lateen.pilot.model.tcp_chains import TcpChains
from lateen.pilot.model.telemetries import CLIENT, Telemetries
from lateen.pilot.model.values import (
    Hostname,
    HttpProxyListenerInput,
    OutboundListenerInput,
    Resolution,
    TcpRoute,
    VirtualOutboundInput,
)
from lateen.pilot.model.virtual_services import HTTP_PORT, VirtualServices

__all__ = ["OutboundListeners"]

WILDCARD = "0.0.0.0"  # noqa: S104  # the bind of a listener that captures, not one that is open to the world
RESERVED_PORTS = frozenset({15001, 15006, 15021, 15090})  # Envoy's own listeners: a service port there is not captured


class OutboundListeners:
    """The derived collections of listeners."""

    def __init__(
        self,
        mesh: Mesh,
        virtual_services: VirtualServices,
        destinations: Destinations,
        chains: TcpChains,
        binds: Binds,
        telemetries: Telemetries,
    ) -> None:
        self.mesh = mesh
        self._telemetries = telemetries
        self._virtual_services = virtual_services
        self._destinations = destinations
        self._chains = chains
        self._binds = binds
        # (view, hostname) -> tuple[OutboundListenerInput, ...]: those bound to the service's own address
        self.service_listeners = mesh.graph.derive("service listeners", self._service_listeners)
        # (view, port) -> OutboundListenerInput | None: the one all HTTP services of a port share
        self.port_listener = mesh.graph.derive("port listener", self._port_listener)
        # view -> the listeners every proxy of it has
        self.base_listeners = mesh.graph.derive("base listeners", self._base_listeners)

    def _base_listeners(self, read: Read, view: View) -> tuple[VirtualOutboundInput | HttpProxyListenerInput, ...]:
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        if view.kind != "sidecar":
            return ()
        telemetry = self._telemetries.of(read, view, CLIENT)
        found: list[VirtualOutboundInput | HttpProxyListenerInput] = []
        if view.capture:
            policy = outbound_policy(view, settings)
            found.append(
                VirtualOutboundInput(
                    policy=policy.mode,
                    egress_proxy=policy.egress_proxy,
                    dynamic_dns=policy.dynamic_dns,
                    sniff_timeout=settings.sniff_timeout if policy.dynamic_dns is not None else timedelta(0),
                    telemetry=telemetry,
                )
            )
        # Where nothing is captured, workloads share one loopback: only the agent knows a port that is free.
        port = settings.http_proxy_port if view.capture else view.http_proxy_port
        if port:
            found.append(
                HttpProxyListenerInput(
                    bind="127.0.0.1",
                    port=port,
                    # Its requests may be for any port, so for any host that is looked up.
                    dynamic_dns=settings.dns_refresh
                    if self._destinations.knows_dynamic(read, view)
                    else outbound_policy(view, settings).dynamic_dns,
                    telemetry=telemetry,
                )
            )
        return tuple(found)

    def _port_listener(self, read: Read, key: tuple[View, int]) -> OutboundListenerInput | None:
        """The listener on a port's wildcard address: HTTP of all services, and TCP of those without an address."""
        view, number = key
        if view.kind != "sidecar" or not view.capture or number in RESERVED_PORTS:
            return None
        through = view.scope.at(number)
        if view.scope.egress and through is None:
            return None  # no listener of the Sidecar is for this port
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        http = False
        dynamic = outbound_policy(view, settings).dynamic_dns
        chains: list[TcpRoute] = []
        for service in self.mesh.sight.on_port(read, view, number, through):
            port = service.port(number)
            if port is None or service.alias_of is not None:
                continue
            spoken = spoken_on(port, through)
            if spoken.is_http:
                http = True
                if service.resolution is Resolution.DYNAMIC_DNS:
                    dynamic = settings.dns_refresh
            elif spoken is not Protocol.UDP and self._binds.shares_wildcard(read, view, service):
                port = replace(port, protocol=spoken)
                chains.extend(self._chains.of(read, view, service, port, by_address=False, through=through))
        if not http and number == HTTP_PORT:
            http = bool(self._virtual_services.unregistered(read, view, port=number, served=(), importer=through))
        if not http and not chains:
            return None
        policy = outbound_policy(view, settings)
        telemetry = self._telemetries.of(read, view, CLIENT)
        return OutboundListenerInput(
            bind=WILDCARD,
            port=number,
            http_route=str(number) if http else "",
            tcp=first_of_each_match(chains),
            policy=policy.mode,
            egress_proxy=policy.egress_proxy,
            dynamic_dns=dynamic if http else None,
            sniff_timeout=settings.sniff_timeout,
            telemetry=telemetry,
        )

    def _service_listeners(self, read: Read, key: tuple[View, Hostname]) -> tuple[OutboundListenerInput, ...]:
        """The listeners on a service's own addresses: its TCP ports, and those whose protocol is to be found out."""
        view, hostname = key
        service = self.mesh.sight.imported(read, view, hostname)
        if service is None or service.alias_of is not None or view.kind != "sidecar" or not view.capture:
            return ()
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = outbound_policy(view, settings)
        telemetry = self._telemetries.of(read, view, CLIENT)
        binds = self._binds.own(read, view, service)
        found = []
        for port in service.ports:
            through = view.scope.through(service.namespace, hostname, port.number)
            if view.scope.egress and through is None:
                continue  # it is reached through a socket of the Sidecar's only
            spoken = spoken_on(port, through)
            if spoken.is_http or spoken is Protocol.UDP or port.number in RESERVED_PORTS:
                continue
            port = replace(port, protocol=spoken)
            own = self._chains.of(read, view, service, port, by_address=True, through=through)
            for bind in binds:
                sharers = self._binds.sharers(read, view, service, bind, port.number)
                if sharers[0].hostname != hostname:
                    continue  # the oldest of them brings the listener of all
                chains = own
                if len(sharers) > 1:
                    every = (
                        self._chains.of(
                            read, view, sharer, shared, by_address=not shared.protocol.is_tls, through=through
                        )
                        for sharer in sharers
                        if (shared := sharer.port(port.number)) is not None
                    )
                    chains = first_of_each_match(chain for part in every for chain in part)
                found.append(
                    OutboundListenerInput(
                        bind=bind,
                        port=port.number,
                        http_route=f"{hostname}:{port.number}" if spoken is Protocol.AUTO else "",
                        tcp=chains,
                        policy=policy.mode,
                        egress_proxy=policy.egress_proxy,
                        sniff_timeout=settings.sniff_timeout,
                        telemetry=telemetry,
                    )
                )
        return tuple(found)
