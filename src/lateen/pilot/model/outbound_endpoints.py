"""Where a view's connections to a service may go: the places that serve it, selected and arranged for that client.

In:  a view and a cluster's name. Out: `EndpointsInput`. A DNS cluster carries its own: `select` gives them.
Rules: docs/api/DestinationRule.md (subsets, locality), docs/api/WorkloadEntry.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from lateen.api.protocol import Protocol
from lateen.flow import Read
from lateen.pilot.model.cluster_names import parse_cluster_name
from lateen.pilot.model.destinations import Destinations
from lateen.pilot.model.locality import HOST_LABEL, Balancing, Client, arrange, select_balancing
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.networks import Networks, Reached, through_gateways
from lateen.pilot.model.places import THIS_MACHINE, Place
from lateen.pilot.model.policy import EffectivePolicy, effective_policy, upstream_tls
from lateen.pilot.model.values import (
    Cluster,
    EndpointInput,
    EndpointsInput,
    Hostname,
    MtlsMode,
    Resolution,
    ZoneAware,
)
from lateen.pilot.registry.entries import written_endpoint
from lateen.pilot.registry.values import Service, ServicePort
from lateen.wire.local_cluster import parse_local_endpoints_name

__all__ = ["OutboundEndpoints", "balancing_of", "resolution_of", "takes_mtls"]


class OutboundEndpoints:
    """The derived collection of endpoints."""

    def __init__(self, mesh: Mesh, destinations: Destinations) -> None:
        self.mesh = mesh
        self._destinations = destinations
        # (view, cluster's name) -> EndpointsInput | None
        self.endpoints = mesh.graph.derive("endpoints", self._endpoints)

    def _endpoints(self, read: Read, key: tuple[View, str]) -> EndpointsInput | None:
        view, name = key
        own = parse_local_endpoints_name(name)
        if own is not None:
            return self._own_endpoints(read, view, name, Hostname(own))
        parsed = parse_cluster_name(name)
        if parsed is None:
            return None
        number, subset, hostname = parsed
        service = self.mesh.sight.service(read, view, hostname)
        port = service.port(number) if service is not None else None
        if service is None or port is None or resolution_of(service, view) is not Resolution.EDS:
            return None
        rule = self._destinations.rule(read, view, service)
        if subset and (rule is None or rule.subset(subset) is None):
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        policy = effective_policy(rule, port=number, subset=subset, mesh_default=settings.default_policy)
        places = self.places(read, service)
        return EndpointsInput(
            cluster=Cluster(name), endpoints=self.select(read, view, service, port, subset, policy, places)
        )

    def _own_endpoints(self, read: Read, view: View, name: str, hostname: Hostname) -> EndpointsInput | None:
        """Where a client's own service is served, its region first: by that Envoy shares between zones."""
        service = read.get(self.mesh.service, (view.namespace, hostname))
        port = next((port for port in service.ports if port.protocol is not Protocol.UDP), None) if service else None
        if service is None or port is None or service.resolution is not Resolution.EDS:
            return None
        regions = Balancing(by_locality=True, zones=ZoneAware())
        places = self.places(read, service)
        chosen = self.select(read, view, service, port, "", EffectivePolicy(), places, balancing=regions)
        return EndpointsInput(cluster=Cluster(name), endpoints=chosen)

    def places(self, read: Read, service: Service) -> tuple[Place, ...]:
        """Everything that serves `service`: running workloads, WorkloadEntries, endpoints written in it."""
        places = [Place.of_workload(workload) for workload in self.mesh.members(read, service)]
        for obj in self.mesh.written_members(read, service):
            endpoint = written_endpoint(obj)
            if endpoint is not None:
                places.append(Place.of_written(endpoint))
        places.extend(Place.of_written(endpoint) for endpoint in service.endpoints)
        return tuple(places)

    def select(
        self,
        read: Read,
        view: View,
        service: Service,
        port: ServicePort,
        subset: str,
        policy: EffectivePolicy,
        places: tuple[Place, ...],
        *,
        balancing: Balancing | None = None,  # None: as the policy has it
    ) -> tuple[EndpointInput, ...]:
        """Return those of `places` that a view's connections to a port, or to its subset, may go to."""
        wanted: Iterable[tuple[str, str]] = ()
        if subset:
            rule = self._destinations.rule(read, view, service)
            chosen = rule.subset(subset) if rule else None
            wanted = tuple((chosen.labels or {}).items()) if chosen is not None else ()
        tls = upstream_tls(policy)
        dns = service.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        client = Client(locality=view.locality, labels=dict(view.labels))
        node = client.labels.get(HOST_LABEL, THIS_MACHINE)
        networks: Networks = read.get(self.mesh.networks, "mesh")
        found: list[Reached] = []
        for place in places:
            if service.node_local and place.node != node:
                continue
            if not place.ready and not service.publish_not_ready:
                continue
            if any(place.labels.get(label) != value for label, value in wanted):
                continue
            number = place.port_for(port)
            if number is None or (place.address and (place.is_unix if dns else not place.has_address)):
                continue  # a name instead of an address is for DNS to look up, and EDS would be refused with it
            if tls is not None:
                mtls = tls.mode == "ISTIO_MUTUAL"
            else:
                mtls = not service.mesh_external and takes_mtls(self.mesh, read, place, port)
            endpoint = EndpointInput(
                address=place.address,
                port=number,
                weight=place.weight,
                mtls=mtls,
                locality=place.locality,
                peer=place.peer,
            )
            network = networks.network_of(place.network, place.registry, place.address)
            found.append(Reached(place.labels, network, endpoint))
        reached = through_gateways(found, networks, view.network)
        return arrange(reached, balancing or balancing_of(policy, service, settings), client)


def takes_mtls(mesh: Mesh, read: Read, place: Place, port: ServicePort) -> bool:
    """Tell whether clients that are told nothing else speak mutual TLS to a port of a service at this place."""
    number = place.port_for(port)
    if not place.auto_mtls or number is None:
        return False
    labels = tuple(sorted(place.labels.items()))
    return read.get(mesh.port_mtls, (place.namespace, labels, number)) is not MtlsMode.DISABLE


def resolution_of(service: Service, view: View) -> Resolution:
    """Return how clients of a kind find a service's endpoints."""
    # A gateway is nobody's capture: there is no original destination, so it picks endpoints itself.
    if view.kind == "gateway" and service.resolution is Resolution.ORIGINAL_DST:
        return Resolution.EDS
    return service.resolution


def balancing_of(policy: EffectivePolicy, service: Service, settings: MeshSettings) -> Balancing:
    """Return how a policy and a service have endpoints chosen from."""
    return select_balancing(
        policy.load_balancer,
        policy.outlier_detection,
        distribution=service.distribution,
        mesh_locality=settings.locality_lb,
        mesh_zones=settings.zone_aware_lb,
    )
