"""What a view sends to: clusters, endpoints, listeners and routes, resolved.

Each is a module beside this one (`outbound_*.py`); here they are put together. All there is derived: of a view and a
host, a port or a name; it reads through `Read` and decides by the rules of docs/api/. One service's change touches that
service's clusters, endpoints and virtual host, and the lists it is in.
"""

from __future__ import annotations

from lateen.pilot.model.binds import Binds
from lateen.pilot.model.destinations import Destinations
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.outbound_clusters import OutboundClusters
from lateen.pilot.model.outbound_endpoints import OutboundEndpoints
from lateen.pilot.model.outbound_listeners import OutboundListeners
from lateen.pilot.model.outbound_routes import OutboundRoutes
from lateen.pilot.model.tcp_chains import TcpChains
from lateen.pilot.model.telemetries import Telemetries
from lateen.pilot.model.virtual_services import VirtualServices
from lateen.pilot.model.visibility import Membership

__all__ = ["Outbound"]


class Outbound:
    """Everything that leaves a proxy: the derived collections, and what others build theirs with."""

    def __init__(self, mesh: Mesh, telemetries: Telemetries) -> None:
        self.mesh = mesh
        self.telemetries = telemetries
        self.virtual_services = VirtualServices(mesh)
        destinations = Destinations(mesh)
        endpoints = OutboundEndpoints(mesh, destinations)
        clusters = OutboundClusters(mesh, destinations, endpoints)
        chains = TcpChains(self.virtual_services, destinations)
        binds = Binds(mesh, endpoints)
        listeners = OutboundListeners(mesh, self.virtual_services, destinations, chains, binds, telemetries)
        routes = OutboundRoutes(mesh, self.virtual_services, destinations)
        # Their keys and values are written where each is derived.
        self.clusters = clusters.clusters
        self.dynamic_cluster = clusters.dynamic_cluster
        self.endpoints = endpoints.endpoints
        self.service_listeners = listeners.service_listeners
        self.port_listener = listeners.port_listener
        self.base_listeners = listeners.base_listeners
        self.virtual_host = routes.virtual_host
        self.route_config = routes.route_config
        # For gateways and placed listeners, with tracked reads.
        self.tcp_chains = chains.of
        self.resolver = destinations.resolver
        self.knows_dynamic = destinations.knows_dynamic

    def memberships(self, view: View) -> list[Membership]:
        """Return the index keys to follow for what `view` is served."""
        return [*self.mesh.sight.memberships(view), *self.virtual_services.memberships(view)]
