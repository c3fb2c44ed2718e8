"""`MeshConfig.extensionProviders`: authorizers, tracers, metric and log sinks that policies name.

Shapes only; checks are in `lateen.api.check_providers`. `None` means not set; meaning and defaults: docs/api.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from lateen.api.base import EMPTY, OneOf, Spec
from lateen.api.scalars import Duration, Int32, Int64, Mapping, UInt32

__all__ = ["BUILT_IN_PROVIDERS", "PROVIDER_TYPES", "ExtensionProvider"]


class RequestBody(Spec, frozen=True, kw_only=True):
    """How much of a request's body an authorizer is shown."""

    max_request_bytes: UInt32 | None = None
    allow_partial_message: bool | None = None
    pack_as_bytes: bool | None = None  # gRPC only


class HttpHeader(Spec, frozen=True, kw_only=True):
    ONE_OF: ClassVar[OneOf] = (("value", "env_name"),)

    name: str
    value: str | None = None
    env_name: str | None = None  # a variable of the control plane


class ExtAuthzHttp(Spec, frozen=True, kw_only=True):
    service: str = ""  # [namespace/]hostname
    port: int = 0
    timeout: Duration | None = None  # 600s
    path_prefix: str | None = None
    fail_open: bool | None = None
    clear_route_cache: bool | None = None
    status_on_error: str | None = None  # "403"
    include_headers_in_check: tuple[str, ...] = ()  # deprecated
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = EMPTY
    include_request_body_in_check: RequestBody | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class ExtAuthzGrpc(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    timeout: Duration | None = None  # 600s
    fail_open: bool | None = None
    clear_route_cache: bool | None = None
    status_on_error: str | None = None
    include_request_body_in_check: RequestBody | None = None


class Zipkin(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    max_tag_length: UInt32 | None = None
    enable64bit_trace_id: bool | None = None
    path: str | None = None  # /api/v2/spans
    trace_context_option: Literal["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"] | None = None
    timeout: Duration | None = None  # 5s
    headers: tuple[HttpHeader, ...] = ()


class Datadog(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    max_tag_length: UInt32 | None = None


class SkyWalking(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    access_token: str | None = None


class OTelHttp(Spec, frozen=True, kw_only=True):
    path: str
    timeout: Duration | None = None  # 3s
    headers: tuple[HttpHeader, ...] = ()


class OTelGrpc(Spec, frozen=True, kw_only=True):
    timeout: Duration | None = None
    initial_metadata: tuple[HttpHeader, ...] = ()


class Empty(Spec, frozen=True, kw_only=True):
    """Presence is all it says."""


class ResourceDetectors(Spec, frozen=True, kw_only=True):
    environment: Empty | None = None
    dynatrace: Empty | None = None


class DynatraceHttpService(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    http: OTelHttp | None = None


class DynatraceSampler(Spec, frozen=True, kw_only=True):
    tenant: str
    cluster_id: Int32
    root_spans_per_minute: UInt32 | None = None  # 1000
    http_service: DynatraceHttpService | None = None


class OpenTelemetry(Spec, frozen=True, kw_only=True):
    """gRPC where neither `http` nor `grpc` is given."""

    service: str
    port: UInt32
    max_tag_length: UInt32 | None = None
    http: OTelHttp | None = None
    grpc: OTelGrpc | None = None
    resource_detectors: ResourceDetectors | None = None
    service_attribute_enrichment: Literal["ISTIO_CANONICAL", "OTEL_SEMANTIC_CONVENTIONS"] | None = None
    dynatrace_sampler: DynatraceSampler | None = None


class LightstepProvider(Spec, frozen=True, kw_only=True):
    """Deprecated, without effect."""

    service: str
    port: UInt32
    access_token: str | None = None
    max_tag_length: UInt32 | None = None


class OpenCensus(Spec, frozen=True, kw_only=True):
    """Deprecated, without effect."""

    service: str
    port: UInt32
    context: tuple[Literal["UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3"], ...] = ()
    max_tag_length: UInt32 | None = None


class StackdriverLogging(Spec, frozen=True, kw_only=True):
    labels: Mapping[str, str] = EMPTY


class StackdriverProvider(Spec, frozen=True, kw_only=True):
    debug: bool | None = None
    max_number_of_attributes: Int64 | None = None
    max_number_of_annotations: Int64 | None = None
    max_number_of_message_events: Int64 | None = None
    max_tag_length: UInt32 | None = None
    logging: StackdriverLogging | None = None


class LogFormat(Spec, frozen=True, kw_only=True):
    """A file's log line: at most one of `text` and `labels`; empty `labels` is the default JSON."""

    text: str | None = None
    labels: Mapping[str, Any] | None = None


class FileAccessLog(Spec, frozen=True, kw_only=True):
    path: str | None = None  # /dev/stdout
    log_format: LogFormat | None = None
    omit_empty_values: bool | None = None


class HttpAls(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    log_name: str | None = None  # http_envoy_accesslog
    filter_state_objects_to_log: tuple[str, ...] = ()
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()


class TcpAls(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    log_name: str | None = None  # tcp_envoy_accesslog
    filter_state_objects_to_log: tuple[str, ...] = ()


class OtelAls(Spec, frozen=True, kw_only=True):
    service: str
    port: UInt32
    log_name: str | None = None  # otel_envoy_accesslog
    log_format: LogFormat | None = None  # text is the body, labels are attributes; both may be given


class SdsProvider(Spec, frozen=True, kw_only=True):
    """Where gateways get the secrets `sds://<name>`."""

    name: str
    service: str
    port: UInt32


class ExtensionProvider(Spec, frozen=True, kw_only=True):
    """A name and exactly one type."""

    name: str = ""
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
    zipkin: Zipkin | None = None
    datadog: Datadog | None = None
    skywalking: SkyWalking | None = None
    opentelemetry: OpenTelemetry | None = None
    lightstep: LightstepProvider | None = None
    opencensus: OpenCensus | None = None
    stackdriver: StackdriverProvider | None = None
    prometheus: Empty | None = None
    envoy_file_access_log: FileAccessLog | None = None
    envoy_http_als: HttpAls | None = None
    envoy_tcp_als: TcpAls | None = None
    envoy_otel_als: OtelAls | None = None
    sds: SdsProvider | None = None


PROVIDER_TYPES = tuple(field.name for field in msgspec.structs.fields(ExtensionProvider) if field.name != "name")

BUILT_IN_PROVIDERS = (
    ExtensionProvider(name="prometheus", prometheus=Empty()),
    ExtensionProvider(name="stackdriver", stackdriver=StackdriverProvider()),
    ExtensionProvider(name="envoy", envoy_file_access_log=FileAccessLog(path="/dev/stdout")),
)
