"""The addresses on which connections to a service arrive, and who shares them.

In:  a view and a service. Out: the addresses that tell its connections apart; the services behind one address and port.
Several services may write one address: the oldest of them brings the listener of all.
"""

from __future__ import annotations

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.outbound_endpoints import OutboundEndpoints
from lateen.pilot.model.visibility import service_age
from lateen.pilot.registry.values import Service

__all__ = ["Binds"]


class Binds:
    """Finds addresses and their sharers, with tracked reads."""

    def __init__(self, mesh: Mesh, endpoints: OutboundEndpoints) -> None:
        self.mesh = mesh
        self._endpoints = endpoints

    def own(self, read: Read, view: View, service: Service) -> tuple[str, ...]:
        """The addresses by which a service's connections can be told from others': its own, or its workloads'."""
        own = self.mesh.addresses(read, service)
        if not own and service.headless:
            own = tuple(sorted({place.address for place in self._endpoints.places(read, service) if place.has_address}))
        return tuple(address for address in (*own, *service.external_ips) if "/" not in address)

    def shares_wildcard(self, read: Read, view: View, service: Service) -> bool:
        """Tell whether connections to `service` come to a port's wildcard listener: no IP, or a subnet, is its own."""
        return any("/" in address for address in service.addresses) or not self.own(read, view, service)

    def sharers(self, read: Read, view: View, service: Service, address: str, number: int) -> list[Service]:
        """The services whose connections arrive at one address and port, oldest first: one, unless several write it."""
        if address not in service.dialled:
            return self._headless_sharers(read, view, service, address, number) if service.headless else [service]
        rows = {
            row.hostname
            for scope in dict.fromkeys(("*", view.namespace))
            for row in read.lookup(self.mesh.rows_by_address, (scope, address))
        }
        found = []
        for host in rows:
            other = self.mesh.sight.imported(read, view, host)
            if other is not None and address in other.dialled and _carries_bytes(other, number):
                found.append(other)
        return sorted(found, key=service_age)

    def _headless_sharers(self, read: Read, view: View, service: Service, address: str, number: int) -> list[Service]:
        """The headless services that one workload serves on one port, oldest first."""
        found = [service]
        for workload in self.mesh.members(read, service):
            if workload.ip == address:
                found.extend(
                    other
                    for other in self.mesh.services_of(read, workload)
                    if other not in found
                    and other.headless
                    and _carries_bytes(other, number)
                    and self.mesh.sight.imported(read, view, other.hostname) == other
                )
        return sorted(found, key=service_age)


def _carries_bytes(service: Service, number: int) -> bool:
    """Tell whether a port of a service is one whose connections only their destination tells apart."""
    port = service.port(number)
    return port is not None and not port.protocol.is_http and port.protocol is not Protocol.UDP
