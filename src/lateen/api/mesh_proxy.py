"""The proxy's part of the mesh's settings: `MeshConfig.defaultConfig`, also the annotation `proxy.istio.io/config`.

Not the ProxyConfig resource of networking.istio.io. Shapes only; checks are in `lateen.api.check_mesh_proxy`. `None`
means not set: the built-in default is in `DEFAULT_PROXY`. Meaning: docs/api.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal

import msgspec

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.destination_rule import ClientTLSSettings, TcpKeepalive
from lateen.api.scalars import Duration, FreeDuration, Int32, Int64, Mapping, UInt32
from lateen.api.workload_group import ReadinessProbe

__all__ = [
    "DEFAULT_PROXY",
    "EDGE_CONNECTIONS",
    "ConnectionSettings",
    "MeshProxyConfig",
    "ProxyHeaders",
    "ProxyTracing",
    "RemoteService",
    "Topology",
]

ForwardClientCert = Literal[
    "UNDEFINED", "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"
]


class TracerAddress(Spec, frozen=True, kw_only=True):
    address: str | None = None  # host:port; $(HOST_IP) allowed


class Lightstep(Spec, frozen=True, kw_only=True):
    address: str | None = None
    access_token: str | None = None


class Stackdriver(Spec, frozen=True, kw_only=True):
    debug: bool | None = None
    max_number_of_attributes: Int64 | None = None
    max_number_of_annotations: Int64 | None = None
    max_number_of_message_events: Int64 | None = None


class OpenCensusAgent(Spec, frozen=True, kw_only=True):
    address: str | None = None
    context: tuple[Literal["UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3"], ...] = ()


class ProxyLiteralTag(Spec, frozen=True, kw_only=True):
    value: str = ""


class ProxyNamedTag(Spec, frozen=True, kw_only=True):
    """A variable of the proxy's environment or a request header, and what stands where it is missing."""

    name: str = ""
    default_value: str | None = None


class ProxyCustomTag(Spec, frozen=True, kw_only=True):
    """A span's tag."""

    ONE_OF: ClassVar[OneOf] = (("literal", "environment", "header"),)

    literal: ProxyLiteralTag | None = None
    environment: ProxyNamedTag | None = None
    header: ProxyNamedTag | None = None


class ProxyTracing(Spec, frozen=True, kw_only=True):
    """Tracing where neither Telemetry nor a default provider says anything."""

    ONE_OF: ClassVar[OneOf] = (("zipkin", "lightstep", "datadog", "stackdriver", "open_census_agent"),)

    zipkin: TracerAddress | None = None
    lightstep: Lightstep | None = None
    datadog: TracerAddress | None = None
    stackdriver: Stackdriver | None = None
    open_census_agent: OpenCensusAgent | None = None
    custom_tags: Mapping[str, ProxyCustomTag] = EMPTY
    max_path_tag_length: UInt32 | None = None  # 256
    sampling: float | None = None  # percent; 0 counts as unset, above 100 as 1
    tls_settings: ClientTLSSettings | None = None
    enable_istio_tags: bool | None = None


class RemoteService(Spec, frozen=True, kw_only=True):
    address: str | None = None  # host:port
    tls_settings: ClientTLSSettings | None = None
    tcp_keepalive: TcpKeepalive | None = None


class Sds(Spec, frozen=True, kw_only=True):
    """Deprecated, without effect."""

    enabled: bool | None = None
    k8s_sa_jwt_path: str | None = None


class ProxyProtocol(Spec, frozen=True, kw_only=True):
    """Its presence makes gateways expect the PROXY protocol."""


class Topology(Spec, frozen=True, kw_only=True):
    """What stands in front of a gateway."""

    num_trusted_proxies: UInt32 | None = None
    forward_client_cert_details: ForwardClientCert | None = None  # SANITIZE_SET
    proxy_protocol: ProxyProtocol | None = None


class ProxyStatsMatcher(Spec, frozen=True, kw_only=True):
    """Envoy's own statistics to keep besides the minimal set."""

    inclusion_prefixes: tuple[str, ...] = ()
    inclusion_suffixes: tuple[str, ...] = ()
    inclusion_regexps: tuple[str, ...] = ()


class ProxyImage(Spec, frozen=True, kw_only=True):
    image_type: str | None = None  # default, debug, distroless, or another tag suffix


class HardwareProvider(Spec, frozen=True, kw_only=True):
    poll_delay: Duration | None = None
    fallback: bool | None = None


class PrivateKeyProvider(Spec, frozen=True, kw_only=True):
    """Hardware for TLS's private keys; exactly one."""

    ONE_OF: ClassVar[OneOf] = (("cryptomb", "qat"),)

    cryptomb: HardwareProvider | None = None
    qat: HardwareProvider | None = None


class Switch(Spec, frozen=True, kw_only=True):
    disabled: bool | None = None


class Enable(Spec, frozen=True, kw_only=True):
    enabled: bool | None = None


class ServerHeader(Spec, frozen=True, kw_only=True):
    disabled: bool | None = None
    value: str | None = None  # "istio-envoy"


class CurrentClientCertDetails(Spec, frozen=True, kw_only=True):
    """What of a client's certificate is put into X-Forwarded-Client-Cert."""

    subject: bool | None = None  # true
    cert: bool | None = None
    chain: bool | None = None
    dns: bool | None = None  # true
    uri: bool | None = None  # true


class MetadataExchangeHeaders(Spec, frozen=True, kw_only=True):
    mode: Literal["UNDEFINED", "IN_MESH"] | None = None


class ProxyHeaders(Spec, frozen=True, kw_only=True):
    """Which headers proxies add, change and remove."""

    forwarded_client_cert: ForwardClientCert | None = None  # APPEND_FORWARD
    set_current_client_cert_details: CurrentClientCertDetails | None = None
    request_id: Switch | None = None
    server: ServerHeader | None = None
    attempt_count: Switch | None = None
    envoy_debug_headers: Switch | None = None
    metadata_exchange_headers: MetadataExchangeHeaders | None = None
    preserve_http1_header_case: bool | None = msgspec.field(default=None, name="preserveHttp1HeaderCase")
    x_forwarded_host: Enable | None = None
    x_forwarded_port: Enable | None = None


class ConnectionSettings(Spec, frozen=True, kw_only=True):
    """Limits on what clients may do. `profile` EDGE gives gateways `EDGE_CONNECTIONS` where a field is not set."""

    profile: Literal["SIDECAR", "EDGE"] | None = None
    listener_per_connection_buffer_limit_bytes: Int32 | None = None
    cluster_per_connection_buffer_limit_bytes: Int32 | None = None
    http_idle_timeout: FreeDuration | None = None
    http_max_connection_duration: FreeDuration | None = None
    http_drain_timeout: FreeDuration | None = None
    http_request_timeout: FreeDuration | None = None
    http_request_headers_timeout: FreeDuration | None = None
    http_stream_idle_timeout: FreeDuration | None = None
    http_max_stream_duration: FreeDuration | None = None
    http_max_concurrent_streams: Int32 | None = None
    http2_initial_stream_window_size: Int32 | None = None
    http2_initial_connection_window_size: Int32 | None = None
    http_headers_with_underscores_action: (
        Literal[
            "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
            "HEADERS_WITH_UNDERSCORES_ALLOW",
            "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
            "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
        ]
        | None
    ) = None
    http_merge_slashes: bool | None = None
    http_path_with_escaped_slashes_action: (
        Literal[
            "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
        ]
        | None
    ) = None
    listener_connection_limit: Int32 | None = None
    global_downstream_connection_limit: Int32 | None = None


class MeshProxyConfig(Spec, frozen=True, kw_only=True):
    """How a proxy is started and what it does for all of its traffic."""

    ONE_OF: ClassVar[OneOf] = (("service_cluster", "tracing_service_name"),)

    config_path: str | None = None
    binary_path: str | None = None
    service_cluster: str | None = None
    tracing_service_name: (
        Literal["APP_LABEL_AND_NAMESPACE", "CANONICAL_NAME_ONLY", "CANONICAL_NAME_AND_NAMESPACE"] | None
    ) = None
    drain_duration: Duration | None = None
    termination_drain_duration: FreeDuration | None = None
    discovery_address: str | None = None  # host:port
    discovery_refresh_delay: FreeDuration | None = None  # deprecated, without effect
    zipkin_address: str | None = None  # deprecated
    statsd_udp_address: str | None = None
    envoy_metrics_service_address: str | None = None  # deprecated
    envoy_metrics_service: RemoteService | None = None
    envoy_access_log_service: RemoteService | None = None
    proxy_admin_port: Int32 | None = None
    status_port: Int32 | None = None
    availability_zone: str | None = None  # deprecated, without effect
    control_plane_auth_policy: Literal["NONE", "MUTUAL_TLS", "INHERIT"] | None = None
    custom_config_file: str | None = None
    proxy_bootstrap_template_path: str | None = None
    stat_name_length: Int32 | None = None
    concurrency: Int32 | None = None  # 0: all cores
    interception_mode: Literal["REDIRECT", "TPROXY", "NONE"] | None = None
    tracing: ProxyTracing | None = None
    sds: Sds | None = None
    proxy_metadata: Mapping[str, str] | None = None
    runtime_values: Mapping[str, str] | None = None
    extra_stat_tags: tuple[str, ...] | None = None  # deprecated
    gateway_topology: Topology | None = None
    mesh_id: str | None = None
    readiness_probe: ReadinessProbe | None = None
    proxy_stats_matcher: ProxyStatsMatcher | None = None
    hold_application_until_proxy_starts: bool | None = None
    ca_certificates_pem: tuple[str, ...] | None = None
    image: ProxyImage | None = None
    private_key_provider: PrivateKeyProvider | None = None
    proxy_headers: ProxyHeaders | None = None
    file_flush_interval: Duration | None = None
    file_flush_min_size_kb: UInt32 | None = None
    stats_compression: bool | None = None
    connection_settings: ConnectionSettings | None = None


DEFAULT_PROXY = MeshProxyConfig(
    config_path="./etc/istio/proxy",
    binary_path="/usr/local/bin/envoy",
    service_cluster="istio-proxy",
    drain_duration=timedelta(seconds=45),
    termination_drain_duration=timedelta(seconds=5),
    discovery_address="istiod.istio-system.svc:15012",
    proxy_admin_port=15000,
    status_port=15020,
    control_plane_auth_policy="MUTUAL_TLS",
    stat_name_length=189,
    interception_mode="REDIRECT",
    hold_application_until_proxy_starts=False,
    file_flush_interval=timedelta(seconds=1),
    file_flush_min_size_kb=64,
    stats_compression=True,
)

EDGE_CONNECTIONS = ConnectionSettings(
    profile="EDGE",
    listener_per_connection_buffer_limit_bytes=32768,
    cluster_per_connection_buffer_limit_bytes=32768,
    http_idle_timeout=timedelta(hours=1),
    http_request_timeout=timedelta(minutes=5),
    http_request_headers_timeout=timedelta(seconds=60),
    http_stream_idle_timeout=timedelta(minutes=5),
    http_max_concurrent_streams=100,
    http2_initial_stream_window_size=65536,
    http2_initial_connection_window_size=1048576,
    http_headers_with_underscores_action="HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
    http_merge_slashes=True,
    http_path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
)
