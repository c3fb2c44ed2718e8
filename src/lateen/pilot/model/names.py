"""What the mesh's DNS knows: the addresses behind each name that a view may ask for.

Rules: Istio's name table. Virtual IPs where there are any, the workloads' own addresses for headless services.
"""

from __future__ import annotations

from dataclasses import dataclass

from lateen.flow import Read
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.values import Hostname
from lateen.pilot.registry.values import Registry, Service

__all__ = ["NameEntry", "Names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """One row of the name table."""

    hostname: Hostname
    addresses: tuple[str, ...]  # sorted
    kubernetes: bool  # has short names, by name and namespace
    name: str
    namespace: str


class Names:
    """The derived collection of name-table rows."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        # (view, hostname) -> NameEntry | None
        self.entry = mesh.graph.derive("name", self._entry)

    def _entry(self, read: Read, key: tuple[View, Hostname]) -> NameEntry | None:
        view, hostname = key
        service: Service | None = self.mesh.sight.imported(read, view, hostname)
        if service is None:
            return None
        if service.alias_of is not None:
            target = self.mesh.sight.service(read, view, service.alias_of)
            if target is None:
                return None
            addresses = self._addresses(read, target)
        else:
            addresses = self._addresses(read, service)
        if not addresses:
            return None
        return NameEntry(
            hostname=hostname,
            addresses=addresses,
            kubernetes=service.registry is not Registry.SERVICE_ENTRY,
            name=service.name,
            namespace=service.namespace,
        )

    def _addresses(self, read: Read, service: Service) -> tuple[str, ...]:
        own = self.mesh.addresses(read, service)
        if own:
            return tuple(sorted(entry for entry in own if "/" not in entry))
        if not service.headless:
            return ()
        members = self.mesh.members(read, service)
        return tuple(sorted({member.ip for member in members if member.ready or service.publish_not_ready}))
