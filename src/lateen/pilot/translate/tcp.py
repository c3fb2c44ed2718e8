"""The TCP proxy of a filter chain, and what may stand before it.

In:  destinations, or one cluster; what is reported.
Out: network filters, the TCP proxy last.
Rules: Istio's TCP routes, docs/api/translation.md "TCP".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import ON_DOWNSTREAM_TLS_HANDSHAKE, TcpProxy
from envoy.type.v3.hash_policy_pb2 import HashPolicy

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import NO_TCP_LIMITS, Destination, TcpLimits, TcpRoute, Tunnel
from lateen.pilot.model.values_telemetry import Telemetry
from lateen.pilot.translate.access_logs import chain_logs
from lateen.pilot.translate.chains import build_chain, cidr
from lateen.pilot.translate.dynamic_forward import forward_tls
from lateen.pilot.translate.names import BLACK_HOLE
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import duration, uint32
from lateen.pilot.translate.protocol_filters import mongo_filter, redis_filter
from lateen.pilot.translate.telemetry import inbound_tcp_loggers, outbound_tcp_loggers

__all__ = ["black_hole", "build_tcp_chain", "inbound_tcp", "outbound_tcp"]

EARLY_BYTES: Final = (
    32 * 1024
)  # read from a client while its handshake, or the connection to the application, is under way

_ON_CONNECTED: Final = TcpProxy.TcpAccessLogOptions(flush_access_log_on_connected=True)
_SOURCE_IP: Final = HashPolicy(source_ip=HashPolicy.SourceIp())


def build_tcp_chain(
    route: TcpRoute,
    telemetry: Telemetry,
    *,
    sni: Sequence[str] | None = None,
    transport_socket: TransportSocket | None = None,
    guards: Sequence[Filter] = (),
    reports: Sequence[AccessLog] = (),
) -> FilterChain:
    """Return the filter chain of one route: what it matches, and where it goes.

    `sni` stands for the route's own server names, where TLS ends here (`transport_socket`) and not at the destination.
    `guards` decide whether a connection goes on, `reports` are more loggers of it.
    """
    names = route.sni if sni is None else sni
    return build_chain(
        name=route.stat_prefix,
        match=FilterChainMatch(
            server_names=names,
            application_protocols=route.alpn,
            prefix_ranges=[cidr(text) for text in route.subnets],
            source_prefix_ranges=[cidr(text) for text in route.sources],
        )
        if names or route.alpn or route.limited
        else None,
        transport_socket=transport_socket,
        filters=[*guards, *_route_filters(route, telemetry, reports)],
        service=route.service,
        rule=route.rule,
    )


def _route_filters(route: TcpRoute, telemetry: Telemetry, reports: Sequence[AccessLog]) -> list[Filter]:
    if route.redis_proxy and len(route.destinations) == 1:
        return [redis_filter(route.destinations[0].cluster, route.stat_prefix)]
    proxy = _proxy(
        stat_prefix=route.stat_prefix,
        tunneling_config=_tunneling(route.tunnel) if route.tunnel is not None else None,
        hash_policy=[_SOURCE_IP] if route.hash_source_ip else (),
        access_log=[*outbound_tcp_loggers(telemetry.metrics), *chain_logs(telemetry, http=False), *reports],
        **_limits(route.limits),
        **_target(route.destinations),
    )
    if route.dynamic is not None:
        return [forward_tls(route.dynamic.dns_refresh, route.dynamic.port), proxy]
    return [mongo_filter(route.stat_prefix), proxy] if route.protocol is Protocol.MONGO else [proxy]


def outbound_tcp(cluster: str, telemetry: Telemetry) -> Filter:
    """Return the filter for connections that no service is known for."""
    loggers = [*outbound_tcp_loggers(telemetry.metrics), *chain_logs(telemetry, http=False)]
    return _proxy(stat_prefix=cluster, cluster=cluster, access_log=loggers)


def black_hole(telemetry: Telemetry) -> Filter:
    """Return the filter that ends connections to a capture port itself: a loop, which no metric has labels for."""
    return _proxy(stat_prefix=BLACK_HOLE, cluster=BLACK_HOLE, access_log=chain_logs(telemetry, http=False))


def inbound_tcp(
    cluster: str,
    telemetry: Telemetry,
    *,
    mtls: bool,
    limits: TcpLimits = NO_TCP_LIMITS,
    reports: Sequence[AccessLog] = (),
) -> Filter:
    """Return the filter for connections to the application.

    `mtls`: the chain ends mutual TLS. The application is then connected to only once the client is known; before that,
    a connection would be reported as nobody's.
    """
    waiting: dict[str, Any] = (
        {"upstream_connect_mode": ON_DOWNSTREAM_TLS_HANDSHAKE, "max_early_data_bytes": uint32(EARLY_BYTES)}
        if mtls
        else {}
    )
    loggers = [
        *inbound_tcp_loggers(telemetry.metrics, mtls=mtls),
        *chain_logs(telemetry, http=False),
        *reports,
    ]
    return _proxy(stat_prefix=cluster, cluster=cluster, access_log=loggers, **waiting, **_limits(limits))


def _proxy(*, access_log: Sequence[AccessLog], **fields: Any) -> Filter:
    return Filter(
        name="envoy.filters.network.tcp_proxy",
        typed_config=pack(TcpProxy(access_log=access_log, access_log_options=_ON_CONNECTED, **fields)),
    )


def _limits(limits: TcpLimits) -> dict[str, Any]:
    return {
        "idle_timeout": None if limits.idle_timeout is None else duration(limits.idle_timeout),
        "max_downstream_connection_duration": duration(limits.max_duration) if limits.max_duration else None,
    }


def _tunneling(tunnel: Tunnel) -> TcpProxy.TunnelingConfig:
    host = f"[{tunnel.host}]" if ":" in tunnel.host else tunnel.host
    return TcpProxy.TunnelingConfig(hostname=f"{host}:{tunnel.port}", use_post=tunnel.post)


def _target(destinations: Sequence[Destination]) -> dict[str, Any]:
    if len(destinations) == 1:
        return {"cluster": destinations[0].cluster}
    return {
        "weighted_clusters": TcpProxy.WeightedCluster(
            clusters=[
                TcpProxy.WeightedCluster.ClusterWeight(name=entry.cluster, weight=entry.weight)
                for entry in destinations
                if entry.weight
            ]
        )
    }
