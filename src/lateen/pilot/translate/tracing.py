"""Spans: who is told of them, of how many requests, and what they say.

In:  one `Tracing`, or None.
Out: fields of the HTTP connection manager: `tracing`, and `request_id_extension`, where a decision about a request
     travels from proxy to proxy.
Rules: Istio's Telemetry and providers, docs/api/Telemetry.md, docs/api/translation.md "Traces".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.http_service_pb2 import HttpService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.config.trace.v3.datadog_pb2 import DatadogConfig
from envoy.config.trace.v3.http_tracer_pb2 import Tracing as EnvoyTracing
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.config.trace.v3.skywalking_pb2 import ClientConfig, SkyWalkingConfig
from envoy.config.trace.v3.zipkin_pb2 import ZipkinConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    RequestIDExtension,
)
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3.environment_resource_detector_pb2 import (
    EnvironmentResourceDetectorConfig,
)
from envoy.type.metadata.v3.metadata_pb2 import MetadataKey, MetadataKind
from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values_telemetry import (
    Datadog,
    OpenTelemetry,
    SkyWalking,
    Telemetry,
    TraceTag,
    Tracing,
    Zipkin,
)
from lateen.pilot.translate.access_logs import grpc_of
from lateen.pilot.translate.pack import pack, varint_field
from lateen.pilot.translate.parts import duration, uint32
from lateen.wire.peer_env import PEER_FIELDS

__all__ = ["tracing_of"]

TRUE: Final = BoolValue(value=True)
RBAC: Final = "envoy.filters.http.rbac"
# xds-protos does not know this field of `HttpConnectionManager.Tracing` yet, so it is written by hand.
_NO_PROPAGATION: Final = varint_field(13, 1)

_ISTIO_TAGS: Final = (
    *(
        CustomTag(tag=tag, environment=CustomTag.Environment(name=PEER_FIELDS[field], default_value=default))
        for tag, field, default in (
            ("istio.canonical_revision", "canonical_revision", "latest"),
            ("istio.canonical_service", "canonical_service", "unknown"),
            ("istio.cluster_id", "cluster", "unknown"),
            ("istio.namespace", "workload_namespace", "default"),
        )
    ),
    CustomTag(tag="istio.mesh_id", literal=CustomTag.Literal(value="unknown")),  # one mesh is all there is
    # What AuthorizationPolicies on trial would have done.
    *(
        CustomTag(
            tag=f"istio.authorization.dry_run.{action}_policy.{tag}",
            metadata=CustomTag.Metadata(
                kind=MetadataKind(request=MetadataKind.Request()),
                metadata_key=MetadataKey(key=RBAC, path=[MetadataKey.PathSegment(key=f"istio_dry_run_{action}_{key}")]),
            ),
        )
        for action in ("allow", "deny")
        for tag, key in (("name", "shadow_effective_policy_id"), ("result", "shadow_engine_result"))
    ),
)


def tracing_of(telemetry: Telemetry, *, gateway: bool = False) -> dict[str, Any]:
    """Return the fields of a connection manager. A `gateway` starts a span of its own for what it asks for."""
    return _fields(telemetry.tracing, gateway)


@lru_cache(maxsize=256)
def _fields(tracing: Tracing | None, gateway: bool) -> dict[str, Any]:
    by_request_id = tracing is None or tracing.decide_by_request_id
    return {
        "tracing": _tracing(tracing, gateway) if tracing is not None else None,
        "request_id_extension": RequestIDExtension(
            typed_config=pack(UuidRequestIdConfig(use_request_id_for_trace_sampling=BoolValue(value=by_request_id)))
        ),
    }


def _tracing(tracing: Tracing, gateway: bool) -> HttpConnectionManager.Tracing:
    built = HttpConnectionManager.Tracing(
        client_sampling=Percent(value=100),
        random_sampling=Percent(value=tracing.percent),
        overall_sampling=Percent(value=100),
        custom_tags=sorted(
            (*(_ISTIO_TAGS if tracing.istio_tags else ()), *map(_tag, tracing.tags)), key=lambda tag: str(tag.tag)
        ),
        max_path_tag_length=uint32(tracing.max_path_length) if tracing.max_path_length else None,
        spawn_upstream_span=TRUE if gateway or isinstance(tracing.tracer, SkyWalking) else None,
        provider=_provider(tracing.tracer) if tracing.tracer is not None else None,
    )
    if not tracing.propagate:
        built.MergeFromString(_NO_PROPAGATION)
    return built


def _tag(tag: TraceTag) -> CustomTag:
    if tag.kind == "literal":
        return CustomTag(tag=tag.name, literal=CustomTag.Literal(value=tag.source))
    if tag.kind == "environment":
        return CustomTag(tag=tag.name, environment=CustomTag.Environment(name=tag.source, default_value=tag.default))
    if tag.kind == "header":
        return CustomTag(tag=tag.name, request_header=CustomTag.Header(name=tag.source, default_value=tag.default))
    return CustomTag(tag=tag.name, value=tag.source)


def _provider(tracer: Any) -> EnvoyTracing.Http:
    name, config = _config(tracer)
    return EnvoyTracing.Http(name=f"envoy.tracers.{name}", typed_config=pack(config))


def _config(tracer: Zipkin | OpenTelemetry | Datadog | SkyWalking) -> tuple[str, Message]:
    if isinstance(tracer, Zipkin):
        return "zipkin", _zipkin(tracer)
    if isinstance(tracer, OpenTelemetry):
        return "opentelemetry", _opentelemetry(tracer)
    if isinstance(tracer, Datadog):
        return "datadog", DatadogConfig(
            collector_cluster=tracer.collector.cluster, collector_hostname=tracer.collector.authority
        )
    return "skywalking", SkyWalkingConfig(
        grpc_service=grpc_of(tracer.collector),
        client_config=ClientConfig(backend_token=tracer.token) if tracer.token else None,
    )


def _zipkin(tracer: Zipkin) -> ZipkinConfig:
    return ZipkinConfig(
        collector_endpoint_version=ZipkinConfig.HTTP_JSON,
        trace_id_128bit=not tracer.short_ids,
        shared_span_context=BoolValue(value=False),
        trace_context_option=ZipkinConfig.USE_B3_WITH_W3C_PROPAGATION if tracer.w3c else ZipkinConfig.USE_B3,
        collector_service=HttpService(
            http_uri=HttpUri(
                uri=f"http://{tracer.collector.authority}{tracer.path}",
                cluster=tracer.collector.cluster,
                timeout=duration(tracer.timeout),
            ),
            request_headers_to_add=_headers(tracer.headers),
        ),
    )


def _opentelemetry(tracer: OpenTelemetry) -> OpenTelemetryConfig:
    config = OpenTelemetryConfig(
        resource_detectors=[
            # The agent puts the service's name there: all proxies that share this listener have their own.
            TypedExtensionConfig(
                name="envoy.tracers.opentelemetry.resource_detectors.environment",
                typed_config=pack(EnvironmentResourceDetectorConfig()),
            )
        ]
    )
    if tracer.path:
        config.http_service.CopyFrom(
            HttpService(
                http_uri=HttpUri(
                    uri=f"http://{tracer.collector.authority}:{tracer.port}{tracer.path}",
                    cluster=tracer.collector.cluster,
                    timeout=duration(tracer.timeout),
                ),
                request_headers_to_add=_headers(tracer.headers),
            )
        )
        return config
    service = grpc_of(tracer.collector)
    if tracer.timeout:
        service.timeout.CopyFrom(duration(tracer.timeout))
    service.initial_metadata.extend(HeaderValue(key=name, value=value) for name, value in tracer.headers)
    config.grpc_service.CopyFrom(service)
    return config


def _headers(headers: tuple[tuple[str, str], ...]) -> list[HeaderValueOption]:
    return [
        HeaderValueOption(
            header=HeaderValue(key=name, value=value), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        )
        for name, value in headers
    ]
