"""Resources for gRPC clients that are their own proxies (`xds:///host:port`).

In:  the same model values as for Envoy. Out: the subset of Envoy's API that gRPC's xDS client takes (gRFC A27, A28):
an API listener, a route configuration of one virtual host, an EDS cluster, no filters but the router.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)

from lateen.pilot.model.values import ClusterInput, RouteConfigInput, VirtualHostInput
from lateen.pilot.translate.names import outbound_cluster_name
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.routes import build_route_config

__all__ = ["build_proxyless_cluster", "build_proxyless_listener", "build_proxyless_routes"]

_ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
_ROUTER = HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))


def build_proxyless_listener(target: tuple[str, str, int]) -> Listener:
    """Return the listener `name` that a client asks for by its target; routes come by RDS.

    `target` is (name as asked for, hostname, port).
    """
    name, hostname, port = target
    manager = HttpConnectionManager(
        rds=Rds(config_source=_ADS, route_config_name=outbound_cluster_name(hostname, port)),
        http_filters=[_ROUTER],
    )
    return Listener(name=name, api_listener=ApiListener(api_listener=pack(manager)))


def build_proxyless_routes(target: tuple[str, VirtualHostInput]) -> Any:
    """Return the route configuration `name` with one virtual host, whatever authority the client uses."""
    name, host = target
    return build_route_config(
        RouteConfigInput(name=name, virtual_hosts=(replace(host, domains=("*",)),), ignore_port_in_host=False)
    )


def build_proxyless_cluster(inp: ClusterInput) -> Cluster:
    """Return the cluster of one service port as gRPC takes it: EDS and round robin, in plain text.

    gRPC has no certificates of ours; the server's proxy takes plain text where it is PERMISSIVE.
    """
    name = outbound_cluster_name(inp.service.hostname, inp.port, inp.subset)
    return Cluster(
        name=name,
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=_ADS, service_name=name),
        lb_policy=Cluster.ROUND_ROBIN,
    )
