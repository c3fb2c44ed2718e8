"""The sockets of a Sidecar: egress listeners that have a place of their own, instead of taking what is captured.

In:  a view whose scope has placed listeners. Out: what each of them listens for, and where it sends that.
Rules: docs/api/Sidecar.md (Istio's captureMode and bind).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.chains import first_of_each_match
from lateen.pilot.model.mesh import MeshSettings, View
from lateen.pilot.model.outbound import Outbound
from lateen.pilot.model.outbound_policy import outbound_policy, spoken_on
from lateen.pilot.model.scope import Egress
from lateen.pilot.model.telemetries import CLIENT
from lateen.pilot.model.values import HttpProxyListenerInput, OutboundListenerInput, TcpRoute
from lateen.pilot.registry.values import Service, ServicePort

__all__ = ["EgressListeners"]


class EgressListeners:
    """The derived collection of placed listeners."""

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound
        # view -> tuple[OutboundListenerInput | HttpProxyListenerInput, ...], in the Sidecar's order
        self.listeners = outbound.mesh.graph.derive("egress listeners", self._listeners)

    def _listeners(self, read: Read, view: View) -> tuple[OutboundListenerInput | HttpProxyListenerInput, ...]:
        found = (self._listener(read, view, entry) for entry in view.scope.egress if entry.placed)
        return tuple(listener for listener in found if listener is not None)

    def _listener(self, read: Read, view: View, entry: Egress) -> Any:
        settings: MeshSettings = read.get(self.outbound.mesh.settings, "mesh")
        telemetry = self.outbound.telemetries.of(read, view, CLIENT)
        if entry.declared is Protocol.HTTP_PROXY:
            return HttpProxyListenerInput(
                bind=entry.address, port=entry.port, route=entry.route_name, telemetry=telemetry
            )
        members = self._members(read, view, entry)
        chains: list[TcpRoute] = []
        http = False
        for service, port in members:
            if port.protocol.is_http or port.protocol is Protocol.AUTO:
                http = True
            if not port.protocol.is_http:
                # Its address says nothing about a connection here: of several services, only TLS tells by name.
                alone = len(members) == 1
                chains += self.outbound.tcp_chains(read, view, service, port, by_address=alone, through=entry)
        if not http and not chains:
            return None
        policy = outbound_policy(view, settings)
        return OutboundListenerInput(
            bind=entry.address,
            port=entry.port,
            bind_to_port=not entry.captured,
            http_route=entry.route_name if http else "",
            tcp=first_of_each_match(chains),
            policy=policy.mode,
            egress_proxy=policy.egress_proxy,
            sniff_timeout=settings.sniff_timeout,
            telemetry=telemetry,
        )

    def _members(self, read: Read, view: View, entry: Egress) -> list[tuple[Service, ServicePort]]:
        """The services behind a listener, oldest first, each with its port as the listener speaks on it.

        A socket without a port number leads to services that have one port, since nothing says which of several.
        """
        sight = self.outbound.mesh.sight
        numbers = [entry.port] if entry.port else sight.ports(read, view)
        found = []
        for number in numbers:
            for service in sight.on_port(read, view, number, entry):
                port = service.port(number)
                if port is None or service.alias_of is not None or port.protocol is Protocol.UDP:
                    continue
                spoken = spoken_on(port, entry)
                if entry.port or len(service.ports) == 1 or spoken.is_http:
                    found.append((service, dataclasses.replace(port, protocol=spoken)))
        return found
