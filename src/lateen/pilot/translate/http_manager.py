"""The HTTP connection manager of a filter chain.

In:  which side of the mesh it is on, where its routes come from, what it reports.
Out: one network filter, `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
Rules: Istio's defaults and filter order, docs/api/translation.md "HTTP". Filters that are the same everywhere are
serialised once, when this module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    Http3ProtocolOptions,
    HttpProtocolOptions,
)
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterConfig as GrpcStats
from envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2 import GrpcWeb
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    LocalReplyConfig,
    Rds,
)
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values_authz import AS_IN_ISTIO, Spelling
from lateen.pilot.model.values_telemetry import Telemetry
from lateen.pilot.translate.access_logs import chain_logs
from lateen.pilot.translate.alpn import ALPN_FILTER
from lateen.pilot.translate.authz.unreadable import UNREADABLE_PATHS
from lateen.pilot.translate.claims import STRIP_CLAIMS, STRIP_DISGUISES
from lateen.pilot.translate.dynamic_forward import forward_http
from lateen.pilot.translate.grpc_messages import COUNT_MESSAGES, MESSAGE_METRICS
from lateen.pilot.translate.names import stat_name
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import ADS_PATIENT, ZERO
from lateen.pilot.translate.peers import READ_PEER, STRIP_PEER
from lateen.pilot.translate.route_filters import CORS_FILTER, FAULT_FILTER
from lateen.pilot.translate.telemetry import gateway_http_loggers, inbound_http_loggers, outbound_http_loggers
from lateen.pilot.translate.tracing import tracing_of

__all__ = ["HCM_NAME", "gateway_manager", "inbound_manager", "outbound_manager"]

HCM_NAME: Final = "envoy.filters.network.http_connection_manager"
SERVER_NAME: Final = "istio-envoy"  # what Istio's users see in the `server` header
TRUE: Final = BoolValue(value=True)
FALSE: Final = BoolValue(value=False)


def _filter(name: str, config: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=pack(config))


_GRPC_WEB: Final = _filter("envoy.filters.http.grpc_web", GrpcWeb())
_COMMON: Final = (
    _filter("envoy.filters.http.grpc_stats", GrpcStats(emit_filter_state=True, stats_for_all_methods=FALSE)),
)
_TAIL: Final = (
    _filter(FAULT_FILTER, HTTPFault()),
    _filter(CORS_FILTER, Cors()),
    _filter("envoy.filters.http.router", Router()),
)
OUTBOUND_FILTERS: Final = (*_COMMON, ALPN_FILTER, *_TAIL)
INBOUND_FILTERS: Final = (*_COMMON, *_TAIL)

# Istio takes HTTP/1.0 only where it is told to; otherwise it passes through to the service's address, which Kubernetes
# knows the way from. Here that address leads nowhere, so a sidecar takes it always. A gateway does not: it answers 426.
_SIDECAR_H1: Final = Http1ProtocolOptions(accept_http_10=True)
_WEBSOCKET: Final = HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")
_CLIENT_DETAILS: Final = HttpConnectionManager.SetCurrentClientCertDetails(subject=TRUE, uri=True, dns=True)
_FORWARDING: Final = {
    "SANITIZE": HttpConnectionManager.SANITIZE,
    "FORWARD_ONLY": HttpConnectionManager.FORWARD_ONLY,
    "APPEND_FORWARD": HttpConnectionManager.APPEND_FORWARD,
    "SANITIZE_SET": HttpConnectionManager.SANITIZE_SET,
    "ALWAYS_FORWARD_ONLY": HttpConnectionManager.ALWAYS_FORWARD_ONLY,
}
_TELLING: Final = ("APPEND_FORWARD", "SANITIZE_SET")  # those that write down who the client is
_GATEWAY_CLIENT_DETAILS: Final = HttpConnectionManager.SetCurrentClientCertDetails(
    subject=TRUE, cert=True, uri=True, dns=True
)

# What Envoy does to a path before anything sees it, by MeshConfig's `pathNormalization`.
_PATHS: Final[Mapping[str, Mapping[str, Any]]] = {
    "NONE": {"normalize_path": FALSE},
    "BASE": {"normalize_path": TRUE},
    "MERGE_SLASHES": {"normalize_path": TRUE, "merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {
        "normalize_path": TRUE,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": HttpConnectionManager.UNESCAPE_AND_FORWARD,
    },
}
_NO_UNDERSCORES: Final = HttpProtocolOptions(
    headers_with_underscores_action=HttpProtocolOptions.REJECT_REQUEST  # to drop them would change what is asked
)


def outbound_manager(
    *,
    name: str,
    route_name: str = "",
    route: RouteConfiguration | None = None,
    telemetry: Telemetry,
    dynamic_dns: timedelta | None = None,
) -> Filter:
    """Return the manager of requests that leave the workload. `name` is the listener's, for native statistics.

    Its routes are those of `route`, or else of the name `route_name`. `dynamic_dns`: some lead to hosts that are looked
    up as requests name them.
    """
    return _manager(
        stat_prefix=stat_name(f"outbound_{name}"),
        strip_trailing_host_dot=True,  # `reviews.default.` is `reviews.default`
        **({"rds": _rds(route_name)} if route is None else {"route_config": route}),
        http_filters=(*_counting(telemetry), *_outbound_filters(dynamic_dns)),
        early_header_mutation_extensions=[STRIP_PEER],
        http_protocol_options=_SIDECAR_H1,
        access_log=[*outbound_http_loggers(telemetry.metrics), *chain_logs(telemetry, http=True)],
        **tracing_of(telemetry),
    )


def inbound_manager(
    *,
    name: str,
    route: RouteConfiguration,
    telemetry: Telemetry,
    mtls: bool,
    h2: bool = False,
    grpc_web: bool = False,
    guards: Sequence[HttpFilter] = (),
    spelling: Spelling = AS_IN_ISTIO,
    early: Sequence[TypedExtensionConfig] = (),
    reports: Sequence[AccessLog] = (),
    local_replies: LocalReplyConfig | None = None,
) -> Filter:
    """Return the manager of requests that reach the workload.

    `mtls`: the chain ends mutual TLS, so what the client's proxy says of itself is read; otherwise the client is
    outside of the mesh, and what it claims is thrown away.
    `guards` decide about each request before anything else acts on it, and read it as `spelling` says;
    `early` changes it before that. `reports` are loggers for what reads of requests beside people.
    """
    counting = _counting(telemetry)
    filters = (*guards, *((_GRPC_WEB,) if grpc_web else ()), *counting, *INBOUND_FILTERS)
    return _manager(
        stat_prefix=stat_name(name),
        spelling=spelling,
        route_config=route,
        reads_peer=mtls,
        http_filters=filters,
        early_header_mutation_extensions=[STRIP_DISGUISES if mtls else STRIP_CLAIMS, *early],
        forward_client_cert_details=HttpConnectionManager.APPEND_FORWARD,
        set_current_client_cert_details=_CLIENT_DETAILS,
        server_name=SERVER_NAME,
        http_protocol_options=_SIDECAR_H1,
        http2_protocol_options=Http2ProtocolOptions() if h2 else None,
        access_log=[*inbound_http_loggers(telemetry.metrics, mtls=mtls), *chain_logs(telemetry, http=True), *reports],
        local_reply_config=local_replies,
        **tracing_of(telemetry),
    )


def gateway_manager(
    *,
    name: str,
    route_name: str,
    num_trusted_proxies: int,
    forward_client_cert: str = "",
    telemetry: Telemetry,
    http3: bool = False,
    dynamic_dns: timedelta | None = None,
    guards: Sequence[HttpFilter] = (),
    spelling: Spelling = AS_IN_ISTIO,
    early: Sequence[TypedExtensionConfig] = (),
    reports: Sequence[AccessLog] = (),
    local_replies: LocalReplyConfig | None = None,
) -> Filter:
    """Return the manager of requests that enter the mesh: nothing a client says about itself is believed.

    `num_trusted_proxies` and `forward_client_cert` (an Istio name, "" for SANITIZE_SET) say how far that is loosened
    for what stands in front of the gateway. `guards` decide about each request before anything else acts on it; `early`
    changes it before that, and before its route is chosen.
    """
    forwarding = forward_client_cert if forward_client_cert in _FORWARDING else "SANITIZE_SET"
    return _manager(
        stat_prefix=stat_name(f"outbound_{name}"),
        spelling=spelling,
        rds=_rds(route_name),
        strip_trailing_host_dot=True,  # `reviews.default.` is `reviews.default`
        http_filters=(*guards, *_counting(telemetry), *_outbound_filters(dynamic_dns)),
        early_header_mutation_extensions=[STRIP_CLAIMS, *early],
        use_remote_address=TRUE,
        xff_num_trusted_hops=num_trusted_proxies,
        forward_client_cert_details=_FORWARDING[forwarding],
        set_current_client_cert_details=_GATEWAY_CLIENT_DETAILS if forwarding in _TELLING else None,
        codec_type=HttpConnectionManager.HTTP3 if http3 else HttpConnectionManager.AUTO,
        http3_protocol_options=Http3ProtocolOptions() if http3 else None,
        server_name=SERVER_NAME,
        access_log=[*gateway_http_loggers(telemetry.metrics), *chain_logs(telemetry, http=True), *reports],
        local_reply_config=local_replies,
        **tracing_of(telemetry, gateway=True),
    )


def _counting(telemetry: Telemetry) -> Sequence[HttpFilter]:
    counted = telemetry.metrics is not None and any(map(telemetry.metrics.on, MESSAGE_METRICS))
    return (COUNT_MESSAGES,) if counted else ()


def _outbound_filters(dynamic_dns: timedelta | None) -> Sequence[HttpFilter]:
    if dynamic_dns is None:
        return OUTBOUND_FILTERS
    return (*OUTBOUND_FILTERS[:-1], forward_http(dynamic_dns), OUTBOUND_FILTERS[-1])


def _manager(
    *,
    http_filters: Sequence[HttpFilter],
    spelling: Spelling = AS_IN_ISTIO,
    reads_peer: bool = False,
    **fields: Any,
) -> Filter:
    # The peer is read before anything refuses: refused requests, too, have a client in metrics.
    first = (READ_PEER,) if reads_peer else ()
    strict = spelling.paths == "DECODE_AND_MERGE_SLASHES"
    return Filter(
        name=HCM_NAME,
        typed_config=pack(
            HttpConnectionManager(
                http_filters=(*first, *((UNREADABLE_PATHS,) if strict else ()), *http_filters),
                stream_idle_timeout=ZERO,
                upgrade_configs=[_WEBSOCKET],
                common_http_protocol_options=None if spelling.underscores else _NO_UNDERSCORES,
                **_PATHS[spelling.paths],
                proxy_100_continue=True,
                **fields,
            )
        ),
    )


def _rds(name: str) -> Rds:
    return Rds(config_source=ADS_PATIENT, route_config_name=name)
