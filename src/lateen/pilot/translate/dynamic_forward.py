"""Hosts that nobody knows before a request names them: they are looked up one by one, and dialled as they say.

In:  how often names are looked up again; for TLS, the port to dial.
Out: the cluster type, the HTTP filter and the network filter of Envoy's dynamic forward proxy. A filter looks a name up
     before its cluster is asked; both must spell their cache alike, so the spelling is here alone.
Rules: resolution DYNAMIC_DNS of a ServiceEntry and ALLOW_ANY_DYNAMIC_DNS, docs/api/ServiceEntry.md.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.clusters.dynamic_forward_proxy.v3.cluster_pb2 import ClusterConfig
from envoy.extensions.common.dynamic_forward_proxy.v3.dns_cache_pb2 import DnsCacheConfig
from envoy.extensions.filters.http.dynamic_forward_proxy.v3.dynamic_forward_proxy_pb2 import (
    FilterConfig as HttpForward,
)
from envoy.extensions.filters.http.dynamic_forward_proxy.v3.dynamic_forward_proxy_pb2 import PerRouteConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.sni_dynamic_forward_proxy_pb2 import (
    FilterConfig as SniForward,
)
from envoy.extensions.network.dns_resolver.cares.v3.cares_dns_resolver_pb2 import CaresDnsResolverConfig
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, uint32

__all__ = [
    "DNS_RESOLVER",
    "DYNAMIC_FILTER",
    "dynamic_cluster_fields",
    "forward_http",
    "forward_tls",
    "looked_up",
]

DYNAMIC_FILTER: Final = "envoy.filters.http.dynamic_forward_proxy"
MAX_HOSTS: Final = 1024  # that one proxy keeps; a client that makes names up is refused above that
QUERY_SECONDS: Final = 5

DNS_RESOLVER: Final = TypedExtensionConfig(
    name="envoy.network.dns_resolver.cares",
    # A UDP socket used for ever can be poisoned, or be stuck behind one dead resolver; a hundred queries are enough.
    typed_config=pack(CaresDnsResolverConfig(udp_max_queries=uint32(100))),
)


@cache  # one or two values in a mesh
def _names(refresh: timedelta) -> DnsCacheConfig:
    return DnsCacheConfig(
        # Envoy refuses two caches of one name that differ; while a change of the rate travels there are two.
        name=f"lateen-{refresh.total_seconds():g}s",
        dns_lookup_family=Cluster.V4_ONLY,
        dns_refresh_rate=duration(refresh),
        max_hosts=uint32(MAX_HOSTS),
        dns_query_timeout=duration(timedelta(seconds=QUERY_SECONDS)),
        typed_dns_resolver_config=DNS_RESOLVER,
    )


def dynamic_cluster_fields(refresh: timedelta, *, insecure: bool) -> dict[str, Any]:
    """Return the fields of a cluster that make it such a one.

    `insecure`: no TLS, or one that does not hold each certificate against the host's name; Envoy wants that to be said.
    """
    config = ClusterConfig(dns_cache_config=_names(refresh), allow_insecure_cluster_options=insecure)
    return {
        "cluster_type": Cluster.CustomClusterType(
            name="envoy.clusters.dynamic_forward_proxy", typed_config=pack(config)
        ),
        "lb_policy": Cluster.CLUSTER_PROVIDED,
    }


def looked_up(host: str) -> AnyMessage:
    """Return what a route tells `forward_http` that looks another host up than the request's own."""
    return pack(PerRouteConfig(host_rewrite_literal=host))


@cache
def forward_http(refresh: timedelta) -> HttpFilter:
    """Return the filter that looks up the host of a request; requests to clusters of other types pass it by."""
    return HttpFilter(
        name=DYNAMIC_FILTER,
        typed_config=pack(HttpForward(dns_cache_config=_names(refresh))),
    )


def forward_tls(refresh: timedelta, port: int) -> Filter:
    """Return the filter that looks up the server name of a handshake, to be dialled at `port`."""
    return Filter(
        name="envoy.filters.network.sni_dynamic_forward_proxy",
        typed_config=pack(SniForward(dns_cache_config=_names(refresh), port_value=port)),
    )
