"""Build Envoy clusters: outbound ones, the workload's own, and the three fixed ones.

In:  one `ClusterInput` or `InboundPort`.
Out: one `envoy.config.cluster.v3.Cluster`; endpoints of EDS clusters travel apart.
Meaning and defaults: Istio `DestinationRule` and inbound clusters, docs/api/translation.md "Clusters".
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import BindConfig, SocketAddress
from envoy.config.core.v3.base_pb2 import Metadata, TransportSocket
from envoy.config.core.v3.proxy_protocol_pb2 import ProxyProtocolConfig
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.clusters.common.dns.v3.dns_pb2 import DnsLookupFamily
from envoy.extensions.clusters.dns.v3.dns_cluster_pb2 import DnsCluster
from envoy.extensions.transport_sockets.proxy_protocol.v3.upstream_proxy_protocol_pb2 import (
    ProxyProtocolUpstreamTransport,
)
from google.protobuf.duration_pb2 import Duration

from lateen.pilot.model.values import AutoMtls, ClusterInput, DynamicClusterInput, InboundPort, Resolution, ServiceRef
from lateen.pilot.translate.alpn import ALPN_KEY, AS_CLIENT, AS_H1
from lateen.pilot.translate.cluster_policy import (
    NO_LIMITS,
    circuit_breakers,
    common_lb,
    connection_options,
    is_passthrough,
    lb_config,
    lb_policy,
    outlier_detection,
)
from lateen.pilot.translate.dynamic_forward import DNS_RESOLVER, dynamic_cluster_fields
from lateen.pilot.translate.endpoints import locality_endpoints
from lateen.pilot.translate.names import (
    BLACK_HOLE,
    DYNAMIC,
    INBOUND_PASSTHROUGH,
    PASSTHROUGH,
    inbound_cluster_name,
    outbound_cluster_name,
    outbound_sni,
    stat_name,
)
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import (
    ADS_PATIENT,
    address,
    config_path,
    duration,
    host_port,
    metadata,
    metadata_of,
    struct_bytes,
    uint32,
)
from lateen.pilot.translate.tls import (
    MESH_H1_ALPN,
    MESH_H2_ALPN,
    MESH_TCP_ALPN,
    RAW_BUFFER,
    build_mesh_upstream,
    build_upstream,
)
from lateen.pilot.translate.upstream_http import (
    OPTIONS_KEY,
    Upstream,
    checks_host,
    inbound_upstream,
    outbound_upstream,
    plain_options,
    protocol_options,
    tls_options,
)
from lateen.wire.label_text import KNOWN, pack_service

__all__ = [
    "build_black_hole_cluster",
    "build_dynamic_cluster",
    "build_fixed_clusters",
    "build_inbound_cluster",
    "build_inbound_passthrough_cluster",
    "build_outbound_cluster",
    "build_passthrough_cluster",
]

INBOUND_SOURCE: Final = "127.0.0.6"  # Istio's: connections from here reach the application, all others the proxy
SOCKET_MARK: Final = 1337
CONNECT_TIMEOUT: Final = timedelta(seconds=10)  # Istio's `connectTimeout` where the mesh says nothing
PASSTHROUGH_IDLE: Final = timedelta(minutes=5)
NEVER: Final = Duration(seconds=9223372035)  # the longest that Envoy's timers take
DNS_JITTER: Final = timedelta(milliseconds=100)

TLS_MODE: Final = "tlsMode"  # key of endpoint metadata `envoy.transport_socket_match`
_MATCH_DISABLED: Final = Cluster.TransportSocketMatch(name="tlsMode-disabled", match={}, transport_socket=RAW_BUFFER)
_MATCH_ISTIO: Final = metadata(match={TLS_MODE: "istio"}).filter_metadata["match"]

# A cluster's own bind configuration replaces the one of the bootstrap, so the mark which keeps the proxy's connections
# out of capture is repeated here.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_INBOUND_BIND: Final = BindConfig(
    source_address=SocketAddress(address=INBOUND_SOURCE, port_value=0),
    socket_options=[
        SocketOption(
            description="lateen: not captured again",
            level=1,  # SOL_SOCKET
            name=36,  # SO_MARK
            int_value=SOCKET_MARK,
            state=SocketOption.STATE_PREBIND,
        )
    ],
)


def build_outbound_cluster(inp: ClusterInput) -> Cluster:
    """Return the cluster that carries traffic for one service port. Same input, same bytes. Does not raise."""
    # Where mesh clients' own TLS passes through, the name that they ask for is the cluster's.
    naming = outbound_sni if inp.client_tls else outbound_cluster_name
    name = naming(inp.service.hostname, inp.port, inp.subset)
    upstream = outbound_upstream(inp)
    pool = inp.connection_pool
    dynamic = inp.resolution is Resolution.DYNAMIC_DNS
    dialled = not dynamic and (inp.resolution is Resolution.ORIGINAL_DST or is_passthrough(inp.load_balancer))
    return Cluster(
        name=name,
        alt_stat_name=stat_name(inp.stat_name or name),
        connect_timeout=duration((pool and pool.tcp and pool.tcp.connect_timeout) or inp.connect_timeout),
        circuit_breakers=circuit_breakers(pool, inp.retry_budget),
        outlier_detection=outlier_detection(inp.outlier_detection),
        common_lb_config=common_lb(inp.outlier_detection, weighted=inp.locality_weighted, zones=inp.zones),
        upstream_connection_options=connection_options(pool, inp.tcp_keepalive),
        typed_extension_protocol_options={OPTIONS_KEY: options}
        if (options := protocol_options(inp, upstream)) is not None
        else None,
        metadata=_outbound_metadata(inp, upstream),
        **(_original_dst(inp) if dialled else _dynamic(inp) if dynamic else _discovery(inp, name)),
        **_transport(inp, upstream),
    )


def _original_dst(inp: ClusterInput) -> dict[str, Any]:
    port = inp.target_port
    return {
        "type": Cluster.ORIGINAL_DST,
        "lb_policy": Cluster.CLUSTER_PROVIDED,
        "original_dst_lb_config": Cluster.OriginalDstLbConfig(upstream_port_override=uint32(port)) if port else None,
    }


def _dynamic(inp: ClusterInput) -> dict[str, Any]:
    return dynamic_cluster_fields(inp.dns_refresh, insecure=inp.tls is None or not checks_host(inp.tls, inp.sans))


def _discovery(inp: ClusterInput, name: str) -> dict[str, Any]:
    # Istio's default; Envoy's own is ROUND_ROBIN. Keys of Redis must find the endpoint that holds them.
    default = Cluster.MAGLEV if inp.redis_proxy else Cluster.LEAST_REQUEST
    balancing = {"lb_policy": lb_policy(inp.load_balancer, default=default), **lb_config(inp.load_balancer)}
    if inp.resolution is Resolution.EDS:
        return {
            "type": Cluster.EDS,
            "eds_cluster_config": Cluster.EdsClusterConfig(eds_config=ADS_PATIENT, service_name=name),
            **balancing,
        }
    return {
        "cluster_type": Cluster.CustomClusterType(name="envoy.cluster.dns", typed_config=pack(_dns(inp))),
        "load_assignment": ClusterLoadAssignment(cluster_name=name, endpoints=locality_endpoints(inp.endpoints)),
        **balancing,
    }


def _dns(inp: ClusterInput) -> DnsCluster:
    return DnsCluster(
        dns_refresh_rate=duration(inp.dns_refresh),
        respect_dns_ttl=True,
        dns_jitter=duration(DNS_JITTER),
        dns_lookup_family=DnsLookupFamily.V6_ONLY if inp.ipv6 else DnsLookupFamily.V4_ONLY,
        typed_dns_resolver_config=DNS_RESOLVER,
        all_addresses_in_single_endpoint=inp.resolution is Resolution.DNS_ROUND_ROBIN,
    )


def _outbound_metadata(inp: ClusterInput, upstream: Upstream) -> Metadata:
    fields: dict[str, Any] = {}
    if inp.rule is not None:
        fields["config"] = config_path(inp.rule)
    if inp.subset:
        fields["subset"] = inp.subset
    if inp.mesh_external:
        fields["external"] = True
    if _is_mesh_tls(inp):
        if upstream.follows_client:
            fields[ALPN_KEY] = AS_CLIENT
        elif upstream.sniffed:
            fields[ALPN_KEY] = AS_H1
    elif inp.tls is not None and inp.tls.mode != "DISABLE":
        fields["alpn_override"] = "false"
    return metadata_of({"istio": _service_bytes(inp.service) + struct_bytes(fields)})


@lru_cache(maxsize=4096)  # a service has a cluster for each port and subset, and they change together
def _service_bytes(service: ServiceRef) -> bytes:
    # The text is for the standard metrics, which read no lists; the list is what Istio's tools read.
    return struct_bytes(
        {
            "service": KNOWN + pack_service(host=service.hostname, name=service.name, namespace=service.namespace),
            "services": [{"host": service.hostname, "name": service.name, "namespace": service.namespace}],
        }
    )


def _is_mesh_tls(inp: ClusterInput) -> bool:
    if inp.tls is None:
        return inp.auto_mtls is not AutoMtls.OFF
    return inp.tls.mode == "ISTIO_MUTUAL"


def _transport(inp: ClusterInput, upstream: Upstream) -> dict[str, Any]:
    """Return the fields about transport sockets."""
    if inp.tls is None:
        if inp.auto_mtls is AutoMtls.OFF:
            return _proxied(inp, {})
        socket = build_mesh_upstream(
            sni=_sni(inp), sans=inp.sans, domains=inp.server_domains, alpn=_mesh_alpn(upstream)
        )
        if inp.auto_mtls is AutoMtls.ALL:
            return _proxied(inp, {"transport_socket": socket})
        matches = [
            Cluster.TransportSocketMatch(name="tlsMode-istio", match=_MATCH_ISTIO, transport_socket=socket),
            _MATCH_DISABLED,
        ]
        return _proxied(inp, {"transport_socket_matches": matches})
    if inp.tls.mode == "DISABLE":
        return _proxied(inp, {})
    mutual = inp.tls.mode == "ISTIO_MUTUAL"
    alpn = _mesh_alpn(upstream) if mutual else (("h2",) if upstream.h2 else ())
    return _proxied(
        inp,
        {
            "transport_socket": build_upstream(
                inp.tls,
                default_sni=_sni(inp),
                sans=inp.sans,
                domains=inp.server_domains,
                alpn=alpn,
                defaults=inp.tls_defaults,
            )
        },
    )


def _sni(inp: ClusterInput) -> str:
    return outbound_sni(inp.service.hostname, inp.port, inp.subset)


def _mesh_alpn(upstream: Upstream) -> tuple[str, ...]:
    if not upstream.http or upstream.sniffed or upstream.follows_client:
        return MESH_TCP_ALPN  # of HTTP requests the list is set one by one, see `alpn`
    return MESH_H2_ALPN if upstream.h2 else MESH_H1_ALPN


def _proxied(inp: ClusterInput, sockets: dict[str, Any]) -> dict[str, Any]:
    """Return `sockets`, each behind the PROXY protocol where the rule wants it."""
    if not inp.proxy_protocol:
        return sockets
    version = ProxyProtocolConfig.V2 if inp.proxy_protocol == "V2" else ProxyProtocolConfig.V1
    if matches := sockets.get("transport_socket_matches"):
        return {
            "transport_socket_matches": [
                Cluster.TransportSocketMatch(
                    name=match.name,
                    match=match.match,
                    transport_socket=_behind_proxy_protocol(match.transport_socket, version),
                )
                for match in matches
            ]
        }
    return {"transport_socket": _behind_proxy_protocol(sockets.get("transport_socket", RAW_BUFFER), version)}


def _behind_proxy_protocol(socket: TransportSocket, version: int) -> TransportSocket:
    return TransportSocket(
        name="envoy.transport_sockets.upstream_proxy_protocol",
        typed_config=pack(
            ProxyProtocolUpstreamTransport(config=ProxyProtocolConfig(version=version), transport_socket=socket)
        ),
    )


def build_inbound_cluster(port: InboundPort, *, connect_timeout: timedelta, localhost: bool = False) -> Cluster:
    """Return the cluster from the proxy to its own application on one port.

    The connection goes where the client dialled, to `port.forward` where that is set, or, with `localhost`
    (inboundTrafficPolicy LOCALHOST), to 127.0.0.1.
    """
    name = inbound_cluster_name(port.port)
    pool = port.connection_pool
    forward = port.forward or (f"127.0.0.1:{port.port}" if localhost else "")
    upstream = inbound_upstream(port.protocol)
    return Cluster(
        name=name,
        alt_stat_name=stat_name(port.stat_name or name),
        connect_timeout=duration((pool and pool.tcp and pool.tcp.connect_timeout) or connect_timeout),
        circuit_breakers=circuit_breakers(pool, None),
        upstream_connection_options=connection_options(pool),
        typed_extension_protocol_options={OPTIONS_KEY: plain_options(upstream, pool)},
        metadata=metadata_of({"istio": _service_bytes(port.service)}) if port.service else None,
        **(_static(name, forward) if forward else _inbound_dialled()),
    )


def _static(name: str, forward: str) -> dict[str, Any]:
    host, port = (forward, 0) if forward.startswith(("/", "@", "unix:")) else host_port(forward)
    endpoint = LbEndpoint(endpoint=Endpoint(address=address(host, port)))
    fields: dict[str, Any] = {
        "type": Cluster.STATIC,
        "load_assignment": ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    }
    if port and host not in _LOOPBACK:
        # The workload's own address: from any other source, capture would take this for what arrives from outside.
        fields["upstream_bind_config"] = _INBOUND_BIND
    return fields


def _inbound_dialled() -> dict[str, Any]:
    return {
        "type": Cluster.ORIGINAL_DST,
        "lb_policy": Cluster.CLUSTER_PROVIDED,
        "upstream_bind_config": _INBOUND_BIND,
        # The only address ever dialled is the workload's own: forgetting it every few seconds would close connections.
        "cleanup_interval": NEVER,
    }


def build_fixed_clusters(
    *, for_gateway: bool, connect_timeout: timedelta = CONNECT_TIMEOUT, connection_pool: Any = None
) -> tuple[Cluster, ...]:
    """Return the clusters that every proxy of a kind has. A gateway is nobody's capture: nothing passes through it."""
    if for_gateway:
        return (build_black_hole_cluster(),)
    return (
        build_black_hole_cluster(),
        build_inbound_passthrough_cluster(connect_timeout=connect_timeout, connection_pool=connection_pool),
        build_passthrough_cluster(connect_timeout=connect_timeout, connection_pool=connection_pool),
    )


def build_passthrough_cluster(*, connect_timeout: timedelta, connection_pool: Any = None) -> Cluster:
    """Return `PassthroughCluster`: connections that no service is known for go where the client dialled."""
    return Cluster(
        **_dialled_fields(PASSTHROUGH, connect_timeout, connection_pool),
    )


def build_inbound_passthrough_cluster(*, connect_timeout: timedelta, connection_pool: Any = None) -> Cluster:
    """Return `InboundPassthroughCluster`: connections to ports of the workload that no service names."""
    return Cluster(
        upstream_bind_config=_INBOUND_BIND,
        **_dialled_fields(INBOUND_PASSTHROUGH, connect_timeout, connection_pool),
    )


def _dialled_fields(name: str, connect_timeout: timedelta, pool: Any) -> dict[str, Any]:
    return {
        "name": name,
        "alt_stat_name": stat_name(name),
        "type": Cluster.ORIGINAL_DST,
        "lb_policy": Cluster.CLUSTER_PROVIDED,
        "connect_timeout": duration((pool and pool.tcp and pool.tcp.connect_timeout) or connect_timeout),
        "circuit_breakers": circuit_breakers(pool, None),
        "typed_extension_protocol_options": {OPTIONS_KEY: plain_options(Upstream.CLIENT, pool, idle=PASSTHROUGH_IDLE)},
        "metadata": metadata(istio={"service_name": name}),
    }


def build_dynamic_cluster(inp: DynamicClusterInput) -> Cluster:
    """Return `AllowAnyDynamicDNSCluster`: requests for hosts that no service is known for go where DNS says."""
    tls = inp.tls if inp.tls is not None and inp.tls.mode != "DISABLE" else None
    options = plain_options(Upstream.CLIENT, None) if tls is None else tls_options(Upstream.CLIENT, tls)
    socket = None if tls is None else build_upstream(tls, default_sni="", sans=(), alpn=())
    return Cluster(
        name=DYNAMIC,
        alt_stat_name=stat_name(DYNAMIC),
        connect_timeout=duration(inp.connect_timeout),
        circuit_breakers=NO_LIMITS,
        typed_extension_protocol_options={OPTIONS_KEY: options},
        transport_socket=socket,
        metadata=metadata(istio={"service_name": DYNAMIC}),
        **dynamic_cluster_fields(inp.dns_refresh, insecure=tls is None or not checks_host(tls, ())),
    )


def build_black_hole_cluster() -> Cluster:
    """Return `BlackHoleCluster`, which has no endpoints and never will."""
    return Cluster(
        name=BLACK_HOLE,
        alt_stat_name=stat_name(BLACK_HOLE),
        type=Cluster.STATIC,
        connect_timeout=duration(timedelta(seconds=1)),
        circuit_breakers=NO_LIMITS,
        metadata=metadata(istio={"service_name": BLACK_HOLE}),
    )
