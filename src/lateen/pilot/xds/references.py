"""Which resources a resource makes Envoy ask for: endpoints of a cluster, routes of a listener.

In:  one serialised `Any`. Out: names of the type that `CHILD_TYPE` tells.
Only what comes over the same ADS stream counts (`ads` or `self` as its config source): what a proxy fetches
elsewhere is none of this server's. A body that does not parse has no references: it is Envoy's to reject.
"""

from __future__ import annotations

from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS

__all__ = ["CHILD_TYPE", "references"]

CHILD_TYPE: Final = {CDS: EDS, LDS: RDS}
_HCM: Final = "type.googleapis.com/" + HttpConnectionManager.DESCRIPTOR.full_name
_NONE: Final[tuple[str, ...]] = ()


def references(type_url: str, body: bytes) -> tuple[str, ...]:
    """Return the names, sorted, of the `CHILD_TYPE[type_url]` resources that `body` needs; () for other types."""
    if type_url not in CHILD_TYPE:
        return _NONE
    try:
        value = AnyMessage.FromString(body).value
        names = _endpoints_of(value) if type_url == CDS else _routes_of(value)
    except DecodeError:
        return _NONE
    return tuple(sorted(names))


def _endpoints_of(value: bytes) -> set[str]:
    cluster = Cluster.FromString(value)
    if cluster.type != Cluster.EDS or not _over_ads(cluster.eds_cluster_config.eds_config):
        return set()
    return {cluster.eds_cluster_config.service_name or cluster.name}


def _routes_of(value: bytes) -> set[str]:
    listener = Listener.FromString(value)
    packed = [f.typed_config for chain in listener.filter_chains for f in chain.filters]
    packed += [f.typed_config for f in listener.default_filter_chain.filters]
    packed.append(listener.api_listener.api_listener)
    names = set()
    for config in packed:
        if config.type_url == _HCM:
            rds = HttpConnectionManager.FromString(config.value).rds
            if rds.route_config_name and _over_ads(rds.config_source):
                names.add(rds.route_config_name)
    return names


def _over_ads(source: Any) -> bool:
    return source.WhichOneof("config_source_specifier") in ("ads", "self")
