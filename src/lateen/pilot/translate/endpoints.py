"""Build the endpoints of clusters.

In:  one `EndpointsInput`, sorted by (priority, locality, address, port).
Out: one `envoy.config.endpoint.v3.ClusterLoadAssignment`; for DNS clusters, its groups alone.
Rules: docs/api/translation.md "Endpoints".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Final

from envoy.config.core.v3.base_pb2 import Locality, Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from lateen.pilot.model.values import EndpointInput, EndpointsInput, Peer
from lateen.pilot.translate.parts import address, metadata_of, struct_bytes, uint32
from lateen.pilot.translate.peers import ENDPOINT_KEY
from lateen.wire.peer_env import pack_peer

__all__ = ["build_endpoints", "locality_endpoints"]

_MTLS: Final = struct_bytes({"tlsMode": "istio"})


def build_endpoints(inp: EndpointsInput) -> ClusterLoadAssignment:
    """Return all endpoints of one EDS cluster; without any, an empty assignment, which is not an error."""
    return ClusterLoadAssignment(cluster_name=inp.cluster, endpoints=locality_endpoints(inp.endpoints))


def locality_endpoints(endpoints: Sequence[EndpointInput]) -> list[LocalityLbEndpoints]:
    """Return endpoints in groups of one priority and locality; what a group weighs is told, or its sum."""
    return [
        _group(priority, locality, list(members))
        for (priority, locality), members in groupby(endpoints, key=lambda e: (e.priority, e.locality))
    ]


def _group(priority: int, locality: str, members: list[EndpointInput]) -> LocalityLbEndpoints:
    return LocalityLbEndpoints(
        priority=priority,
        locality=_locality(locality),  # always: gRPC's own client takes no group without one
        load_balancing_weight=uint32(members[0].locality_weight or sum(member.weight for member in members)),
        lb_endpoints=[_endpoint(member) for member in members],
    )


def _locality(text: str) -> Locality:
    region, zone, sub_zone, *_ = (*text.split("/", 2), "", "")
    return Locality(region=region, zone=zone, sub_zone=sub_zone)


def _endpoint(endpoint: EndpointInput) -> LbEndpoint:
    return LbEndpoint(
        endpoint=Endpoint(address=address(endpoint.address, endpoint.port)),
        health_status=HealthStatus.HEALTHY if endpoint.healthy else HealthStatus.UNHEALTHY,
        load_balancing_weight=uint32(endpoint.weight),
        metadata=_metadata(endpoint.mtls, endpoint.peer),
    )


@lru_cache(maxsize=16_384)  # one endpoint's change leaves all others of its service as they were
def _metadata(mtls: bool, peer: Peer | None) -> Metadata | None:
    namespaces = {}
    if mtls:
        namespaces["envoy.transport_socket_match"] = _MTLS
    if peer is not None:
        namespaces["istio"] = struct_bytes(_peer_fields(peer))
    return metadata_of(namespaces) if namespaces else None


def _peer_fields(peer: Peer) -> dict[str, str]:
    """Return what the client's metrics call this server: one text, under the key that `telemetry` reads."""
    return {
        ENDPOINT_KEY: pack_peer(
            {
                "workload": peer.workload,
                "workload_namespace": peer.namespace,
                "cluster": peer.cluster,
                "app": peer.app,
                "version": peer.version,
                "canonical_service": peer.canonical_service,
                "canonical_revision": peer.canonical_revision or "latest",
            }
        )
    }
