"""The access logs of a listener: lines that people read, and entries for collectors.

In:  what a listener reports. Out: `envoy.config.accesslog.v3.AccessLog`s, in the order of the providers.
Rules: Istio's formats and providers, docs/api/Telemetry.md, docs/api/translation.md "Access logs".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog as EnvoyAccessLog
from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLogFilter,
    AndFilter,
    LogTypeFilter,
    ResponseFlagFilter,
)
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2 import OpenTelemetryAccessLogConfig
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from lateen.pilot.model.values_telemetry import AccessLog, Collector, FileLog, GrpcLog, OtelLog, Telemetry
from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.parts import cel_filter, struct

__all__ = ["DEFAULT_JSON", "DEFAULT_TEXT", "chain_logs", "grpc_of", "listener_logs"]

# The formats are Istio's, because log pipelines parse them.
DEFAULT_TEXT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" '
    "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
DEFAULT_JSON: Final = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
# A listener itself logs only what no filter chain took; everything else is logged by the chain.
_NO_CHAIN: Final = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NR"]))
# A connection of bytes is told of when it is connected as well, for what counts connections; a line is of the whole.
_ENDED: Final = AccessLogFilter(log_type_filter=LogTypeFilter(types=[AccessLogType.TcpConnectionEnd]))
# Envoy logs connections of a listener to collectors under a name of their own.
_LISTENER_LOG: Final = "listener_envoy_accesslog"


def chain_logs(telemetry: Telemetry, *, http: bool) -> tuple[EnvoyAccessLog, ...]:
    """Return the logs of a filter chain: of its requests (`http`), or of its connections."""
    return _logs(telemetry.access_logs, http, False)


def listener_logs(telemetry: Telemetry) -> tuple[EnvoyAccessLog, ...]:
    """Return the logs of a listener, for connections that no filter chain took."""
    return _logs(telemetry.access_logs, False, True) if telemetry.listener_logs else ()


@lru_cache(maxsize=256)
def _logs(logs: tuple[AccessLog, ...], http: bool, listener: bool) -> tuple[EnvoyAccessLog, ...]:
    return tuple(_built(logs, http, listener))


def _built(logs: tuple[AccessLog, ...], http: bool, listener: bool) -> Iterator[EnvoyAccessLog]:
    for log in logs:
        when = _when(log.when, http, listener)
        if isinstance(log.sink, FileLog):
            yield EnvoyAccessLog(name="envoy.access_loggers.file", filter=when, typed_config=pack(_file(log.sink)))
        elif isinstance(log.sink, OtelLog):
            yield EnvoyAccessLog(
                name="envoy.access_loggers.open_telemetry", filter=when, typed_config=pack(_otel(log.sink))
            )
        elif log.sink.http == http:
            name, config = _grpc(log.sink, listener)
            yield EnvoyAccessLog(name=name, filter=when, typed_config=pack(config))


def _when(expression: str, http: bool, listener: bool) -> AccessLogFilter | None:
    filters = [_NO_CHAIN] if listener else [] if http else [_ENDED]
    if expression:
        filters.append(cel_filter(expression))
    if len(filters) == 2:
        return AccessLogFilter(and_filter=AndFilter(filters=filters))
    return filters[0] if filters else None


def _file(sink: FileLog) -> FileAccessLog:
    return FileAccessLog(
        path=sink.path,
        log_format=_json(sink.format, sink.omit_empty) if sink.json else _text(sink.format, sink.omit_empty),
    )


def _text(written: str, omit_empty: bool) -> SubstitutionFormatString:
    text = written or DEFAULT_TEXT
    return SubstitutionFormatString(
        text_format_source=DataSource(inline_string=text if text.endswith("\n") else f"{text}\n"),
        omit_empty_values=omit_empty,
    )


def _json(written: str, omit_empty: bool) -> SubstitutionFormatString:
    return SubstitutionFormatString(json_format=struct(_object(written) or DEFAULT_JSON), omit_empty_values=omit_empty)


def _object(written: str) -> dict[str, Any]:
    """Return a JSON object. What is none is told by `lateen.api`; here it is as if nothing were written."""
    try:
        fields: Any = json.loads(written) if written else {}
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def grpc_of(collector: Collector) -> GrpcService:
    """Return the service that takes reports, as this proxy reaches it."""
    return GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=collector.cluster, authority=collector.authority))


def _common(collector: Collector, log_name: str) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=log_name, grpc_service=grpc_of(collector), transport_api_version=ApiVersion.V3
    )


def _grpc(sink: GrpcLog, listener: bool) -> tuple[str, Message]:
    common = _common(sink.collector, _LISTENER_LOG if listener else sink.log_name)
    if not sink.http:
        return "envoy.access_loggers.tcp_grpc", TcpGrpcAccessLogConfig(common_config=common)
    return "envoy.access_loggers.http_grpc", HttpGrpcAccessLogConfig(
        common_config=common,
        additional_request_headers_to_log=sink.request_headers,
        additional_response_headers_to_log=sink.response_headers,
        additional_response_trailers_to_log=sink.response_trailers,
    )


def _otel(sink: OtelLog) -> OpenTelemetryAccessLogConfig:
    attributes = _object(sink.attributes)
    return OpenTelemetryAccessLogConfig(
        common_config=_common(sink.collector, sink.log_name),
        disable_builtin_labels=True,
        body=AnyValue(string_value=sink.body or DEFAULT_TEXT.rstrip("\n")),
        attributes=_key_values(attributes) if attributes else None,
    )


def _key_values(fields: dict[str, Any]) -> KeyValueList:
    return KeyValueList(values=[KeyValue(key=name, value=_any_value(fields[name])) for name in sorted(fields)])


def _any_value(value: Any) -> AnyValue:
    """Return one value of an attribute. Envoy takes texts alone as formats; what is no text is written as JSON is."""
    if isinstance(value, dict):
        return AnyValue(kvlist_value=_key_values(value))
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))
    return AnyValue(string_value=value if isinstance(value, str) else json.dumps(value))
