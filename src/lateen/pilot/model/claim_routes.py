"""Routes of gateways that ask for claims of tokens where nobody checks tokens: they lead nowhere, which is told."""

from __future__ import annotations

from lateen.api.base import ResourceKey
from lateen.api.check_headers import is_claim_key
from lateen.flow import Read
from lateen.pilot.model.gateway import Gateways
from lateen.pilot.model.gateway_servers import Note
from lateen.pilot.model.mesh import Mesh, View

__all__ = ["ClaimRoutes"]

UNCHECKED = "no RequestAuthentication is for gateways that it is bound to, so no request there has claims"


class ClaimRoutes:
    """The derived collection of such routes."""

    def __init__(self, mesh: Mesh, gateways: Gateways) -> None:
        self._mesh = mesh
        self._gateways = gateways
        # VirtualService -> paths of its matches that ask for claims
        self._places = mesh.graph.derive("routes by claims", self._places_of)
        # view -> tuple[Note, ...]
        self.notes = mesh.graph.derive("claims that nobody checks", self._notes)

    def _places_of(self, read: Read, key: ResourceKey) -> tuple[str, ...]:
        obj = read.get(self._mesh.objects, key)
        if obj is None:
            return ()
        return tuple(
            f"spec.http[{i}].match[{j}].{field}[{name}]"
            for i, rule in enumerate(obj.spec.http)
            for j, match in enumerate(rule.match)
            for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers))
            for name in headers
            if is_claim_key(name)
        )

    def _notes(self, read: Read, view: View) -> tuple[Note, ...]:
        if view.kind != "gateway" or self._gateways.request_auths.of_gateway(read, view).enabled:
            return ()
        bound = {
            head.key
            for port in read.get(self._gateways.servers, view)[0]
            for server in port.servers
            for head in read.get(self._gateways.bound, (server.gateway, view.namespace))
        }
        return tuple(
            Note(key, path, UNCHECKED, "warning") for key in sorted(bound) for path in read.get(self._places, key)
        )
