"""How Envoy asks Mixer and reports to it.

In:  one `MixerCalls`.
Out: the cluster `lateen-mixer`; filters of external authorization, HTTP and network; loggers. None where nothing is
     called.
Rules: docs/design/0022-mixer-process.md, "What Envoy is told".

A request is asked about once: where a rule that fails closed may matter, one filter asks by all rules, since without
that rule's answer the request is refused anyway; where only rules that fail open may, another asks by those. When Mixer
is gone every answer must come at once. So connections to it are short of patience, and after a few failures in a row it
is out for a second, during which nothing is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, Pipe
from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.network.ext_authz.v3.ext_authz_pb2 import ExtAuthz as NetworkExtAuthz
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
    LocalReplyConfig,
    ResponseMapper,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.secret_names import MESH_ROOTS, OWN_CERTIFICATE
from lateen.pilot.model.values import ServiceRef
from lateen.pilot.model.values_called import MixerCalls
from lateen.pilot.translate.jwt import JWT_FILTER
from lateen.pilot.translate.mixer.counts import http_counts, tcp_counts
from lateen.pilot.translate.mixer.inside import CLOSED, OPEN, asked_where, gate, refusals
from lateen.pilot.translate.mixer.limits import limit_replies
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import cel_filter, duration, uint32
from lateen.pilot.translate.peers import PEER_NAMESPACE
from lateen.pilot.translate.tls import TLS_NAME, exact_names, secret
from lateen.wire.mixer import ASKER, CLUSTER, CONNECTION, ORIGIN, PEER, SERVICE, Asker
from lateen.wire.peer_env import PEER_TEXT

__all__ = [
    "MIXER_DOWN",
    "build_mixer_cluster",
    "http_calls",
    "http_reports",
    "local_replies",
    "tcp_calls",
    "tcp_reports",
]

OPTIONS_KEY: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SLACK: Final = timedelta(milliseconds=150)  # beyond the slowest rule's own deadline, which Mixer keeps
# Less than any question waits: one that gives up while it waits for a connection counts against nobody, and a Mixer
# that accepts and says nothing would never be out.
CONNECT_TIMEOUT: Final = timedelta(milliseconds=120)
PING_INTERVAL: Final = timedelta(seconds=2)
PING_TIMEOUT: Final = timedelta(seconds=1)
OUT_TIME: Final = timedelta(seconds=1)  # after failures in a row
FAILURES: Final = 3
AT_ONCE: Final = timedelta()
MAX_REQUESTS: Final = 2048
MAX_CONNECTIONS: Final = 16
FLUSH: Final = timedelta(seconds=1)
BUFFER_BYTES: Final = 64 * 1024
STAT_PREFIX: Final = "lateen_mixer"
MIXER_DOWN: Final = "mixer does not answer, and a rule that applies here fails closed\n"
_TRUE: Final = BoolValue(value=True)
_SPACES: Final = (PEER_NAMESPACE, JWT_FILTER)
# What Envoy tells in fields of its own, however few headers it sends.
_NAMED: Final = {"request.useragent": "user-agent", "request.referer": "referer", "request.id": "x-request-id"}
_SERVICE_OF_CHAIN: Final = "%METADATA(LISTENER_FILTER_CHAIN:istio:service)%"


def build_mixer_cluster(calls: MixerCalls) -> Cluster:
    """Return the cluster. Same input, same bytes."""
    address = Address(pipe=Pipe(path=calls.socket))
    http = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                # One that stands still is found within three seconds, whether or not anybody asks.
                connection_keepalive=KeepaliveSettings(interval=duration(PING_INTERVAL), timeout=duration(PING_TIMEOUT))
            )
        )
    )
    return Cluster(
        name=CLUSTER,
        type=Cluster.STATIC,
        connect_timeout=duration(CONNECT_TIMEOUT),
        load_assignment=ClusterLoadAssignment(
            cluster_name=CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
        ),
        typed_extension_protocol_options={OPTIONS_KEY: pack(http)},
        transport_socket=TransportSocket(
            name=TLS_NAME,
            typed_config=pack(
                UpstreamTlsContext(
                    common_tls_context=CommonTlsContext(
                        alpn_protocols=["h2"],
                        tls_certificate_sds_secret_configs=[secret(OWN_CERTIFICATE)],
                        combined_validation_context=CommonTlsContext.CombinedCertificateValidationContext(
                            default_validation_context=CertificateValidationContext(
                                match_typed_subject_alt_names=exact_names([calls.identity])
                            ),
                            validation_context_sds_secret_config=secret(MESH_ROOTS),
                        ),
                    )
                )
            ),
        ),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakers.Thresholds(
                    max_connections=uint32(MAX_CONNECTIONS),
                    max_pending_requests=uint32(MAX_REQUESTS),
                    max_requests=uint32(MAX_REQUESTS),
                    max_retries=uint32(0),
                )
            ]
        ),
        outlier_detection=OutlierDetection(
            consecutive_5xx=uint32(FAILURES),
            enforcing_consecutive_5xx=uint32(100),
            consecutive_gateway_failure=uint32(FAILURES),
            enforcing_consecutive_gateway_failure=uint32(100),
            enforcing_success_rate=uint32(0),
            interval=duration(OUT_TIME / 4),
            base_ejection_time=duration(OUT_TIME),
            max_ejection_time=duration(OUT_TIME),
            max_ejection_percent=uint32(100),
        ),
        # Without one that is well, nothing is tried; otherwise Envoy would ask the one that is out.
        # Nothing is gathered: Envoy would tell its workers of the second change within a second a second late, and a
        # Mixer that is back and answers would be out once more.
        common_lb_config=Cluster.CommonLbConfig(
            healthy_panic_threshold=Percent(value=0), update_merge_window=duration(AT_ONCE)
        ),
    )


def http_calls(calls: MixerCalls) -> tuple[HttpFilter, ...]:
    """Return the filters that ask about a request, if there is anything to ask."""
    rules = (*calls.closed, *calls.open)
    if not rules:
        return ()
    found = gate(calls)
    if not found:
        return (_asking(calls, rules, closed=bool(calls.closed)),)
    if calls.closed:
        found += (_asking(calls, rules, closed=True, where=asked_where(CLOSED)),)
    if calls.open:
        found += (_asking(calls, calls.open, closed=False, where=asked_where(OPEN)),)
    return found


def _asking(
    calls: MixerCalls, rules: Sequence[str], *, closed: bool, where: MetadataMatcher | None = None
) -> HttpFilter:
    asking = ExtAuthz(
        grpc_service=_service(calls, rules, timeout=calls.timeout + SLACK, formatted=True),
        transport_api_version=ApiVersion.V3,
        failure_mode_allow=not closed,
        failure_mode_allow_header_add=not closed,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        metadata_context_namespaces=_SPACES,
        filter_enabled_metadata=where,
        include_tls_session="connection.requested_server_name" in calls.attributes,
        allowed_headers=_allowed(calls),
        stat_prefix=STAT_PREFIX,
    )
    return HttpFilter(name="envoy.filters.http.ext_authz", typed_config=pack(asking))


def tcp_calls(calls: MixerCalls) -> tuple[Filter, ...]:
    """Return the filter that asks about each connection, if there is anything to ask."""
    closed = bool(calls.tcp_closed)
    rules = (*calls.tcp_closed, *calls.tcp_open)
    if not rules:
        return ()
    asking = NetworkExtAuthz(
        stat_prefix=STAT_PREFIX,
        grpc_service=_service(calls, rules, timeout=calls.timeout + SLACK, formatted=True),
        transport_api_version=ApiVersion.V3,
        failure_mode_allow=not closed,
        include_tls_session="connection.requested_server_name" in calls.attributes,
    )
    return (Filter(name="envoy.filters.network.ext_authz", typed_config=pack(asking)),)


def local_replies(calls: MixerCalls) -> LocalReplyConfig | None:
    """Return what makes refusals say why: those of rules in Envoy, and for want of Mixer."""
    mappers = [*refusals(calls), *limit_replies(calls), *([_MIXER_AWAY] if calls.closed else [])]
    return LocalReplyConfig(mappers=mappers) if mappers else None


def http_reports(calls: MixerCalls, service: ServiceRef | None) -> tuple[AccessLog, ...]:
    """Return the loggers of requests."""
    counts = http_counts(calls)
    if not calls.reports:
        return counts
    config = HttpGrpcAccessLogConfig(
        common_config=_logging(calls, calls.reports, service, "http"),
        additional_request_headers_to_log=sorted({*calls.report_request_headers, "content-type"}),
        additional_response_headers_to_log=sorted({*calls.report_response_headers, "grpc-status", "grpc-message"}),
        additional_response_trailers_to_log=["grpc-message", "grpc-status"],
    )
    return (*counts, AccessLog(name="envoy.access_loggers.http_grpc", typed_config=pack(config)))


def tcp_reports(calls: MixerCalls, service: ServiceRef | None) -> tuple[AccessLog, ...]:
    """Return the loggers of connections."""
    counts = tcp_counts(calls)
    if not calls.tcp_reports:
        return counts
    config = TcpGrpcAccessLogConfig(common_config=_logging(calls, calls.tcp_reports, service, "tcp"))
    return (*counts, AccessLog(name="envoy.access_loggers.tcp_grpc", typed_config=pack(config)))


def _allowed(calls: MixerCalls) -> ListStringMatcher | None:
    """Return which headers are sent: those that are read. None: all."""
    if calls.request_headers is None:
        return None
    named = {header for attribute, header in _NAMED.items() if attribute in calls.attributes}
    size = {"content-length"} if "request.size" in calls.attributes else set()
    names = sorted({*calls.request_headers, *named, *size, "content-type"})
    return ListStringMatcher(patterns=[StringMatcher(exact=name, ignore_case=True) for name in names])


def _service(
    calls: MixerCalls,
    rules: Sequence[str],
    *,
    timeout: timedelta | None,
    formatted: bool,
    service: ServiceRef | None = None,
) -> GrpcService:
    """Return the service with what it is told beside each question.

    `formatted`: Envoy fills in what it knows of the request (it does for questions, not for logs).
    """
    asker = Asker(
        namespace=calls.namespace,
        kind=calls.kind,
        vouched=calls.vouched,
        rules=tuple(rules),
        service=f"{service.hostname}|{service.name}|{service.namespace}" if service is not None else "",
    )
    metadata: dict[str, str] = {ASKER: _escaped(msgspec.json.encode(asker).decode(), formatted=formatted)}
    if formatted:
        metadata[PEER] = f"%ENVIRONMENT({PEER_TEXT})%"
        if any(name.startswith("destination.service.") or name == "api.service" for name in calls.attributes):
            metadata[SERVICE] = _SERVICE_OF_CHAIN
        if "origin.ip" in calls.attributes:
            metadata[ORIGIN] = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
        if "connection.id" in calls.attributes:
            metadata[CONNECTION] = "%CONNECTION_ID%"
    return GrpcService(
        envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=CLUSTER, skip_envoy_headers=True),
        timeout=duration(timeout) if timeout is not None else None,
        initial_metadata=[HeaderValue(key=key, value=value) for key, value in sorted(metadata.items())],
    )


def _escaped(text: str, *, formatted: bool) -> str:
    return text.replace("%", "%%") if formatted else text


def _logging(
    calls: MixerCalls, rules: Sequence[str], service: ServiceRef | None, kind: str
) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=f"lateen-{kind}",
        grpc_service=_service(calls, rules, timeout=None, formatted=False, service=service),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=duration(FLUSH),
        buffer_size_bytes=uint32(BUFFER_BYTES),
    )


_MIXER_AWAY: Final = ResponseMapper(
    # Of Mixer's own refusals the details are `ext_authz_denied`.
    filter=cel_filter('response.code_details == "ext_authz_error"'),
    body_format_override=SubstitutionFormatString(text_format_source=DataSource(inline_string=MIXER_DOWN)),
)
