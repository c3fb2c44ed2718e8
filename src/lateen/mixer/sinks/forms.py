"""What other servers are told: OpenTelemetry's logs and spans, Zipkin's spans, events as JSON. Pure, but for new ids.

In:  what a rule's expressions say of one request (names that begin with a zero byte are what the form itself needs).
Out: an `Entry`; None: there is nothing to tell. And a body of many entries.
Rules: OTLP/HTTP 1.3 in protobuf, Zipkin API v2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationLibrary,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.logs.v1.logs_pb2 import InstrumentationLibraryLogs, LogRecord, ResourceLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import InstrumentationLibrarySpans, ResourceSpans, Span, Status

from lateen.mixer.sinks.queue import Entry
from lateen.mixer.sinks.tracing import place_of

__all__ = ["JSON", "PROTOBUF", "event", "join_json", "otel_log", "otel_span", "pack_logs", "pack_spans", "zipkin_span"]

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
# The messages of xds-protos still have the first names of what is called a scope now; the bytes are the same.
SCOPE: Final = InstrumentationLibrary(name="lateen.mixer")
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)
_SEVERITIES: Final = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17}
Values = Mapping[str, Any]


def otel_log(rule: str, severity: str, values: Values) -> Entry:
    """Return one record. `\\0body`: its text, the rule's name where there is none."""
    now = time.time_ns()
    body = values.get("\0body", rule)
    record = LogRecord(
        time_unix_nano=now,
        severity_number=_SEVERITIES[severity],
        severity_text=severity,
        body=_any(body),
        attributes=[*_pairs(_told(values)), KeyValue(key="lateen.rule", value=AnyValue(string_value=rule))],
    )
    return Entry(_group(values), InstrumentationLibraryLogs(logs=[record]).SerializeToString())


def pack_logs(entries: Sequence[Entry]) -> bytes:
    """Return the request of many records."""
    found = ExportLogsServiceRequest()
    for group, data in _by_group(entries):
        scope = InstrumentationLibraryLogs.FromString(data)  # records of many messages, joined
        scope.instrumentation_library.CopyFrom(SCOPE)
        found.resource_logs.append(ResourceLogs(resource=_resource(group), instrumentation_library_logs=[scope]))
    return bytes(found.SerializeToString())


def otel_span(rule: str, values: Values) -> Entry | None:
    place = place_of(values.get("\0trace"))
    if place is None:
        return None
    start, duration = _times(values)
    code = values.get("\0code")
    failed = isinstance(code, int) and code >= 500
    span = Span(
        trace_id=bytes.fromhex(place.trace),
        span_id=bytes.fromhex(place.span),
        parent_span_id=bytes.fromhex(place.parent),
        name=_name(rule, values),
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=start,
        end_time_unix_nano=start + duration,
        attributes=[*_pairs(_told(values)), KeyValue(key="lateen.rule", value=AnyValue(string_value=rule))],
        status=Status(code=Status.STATUS_CODE_ERROR) if failed else None,
    )
    return Entry(_group(values), InstrumentationLibrarySpans(spans=[span]).SerializeToString())


def pack_spans(entries: Sequence[Entry]) -> bytes:
    """Return the request of many spans."""
    found = ExportTraceServiceRequest()
    for group, data in _by_group(entries):
        scope = InstrumentationLibrarySpans.FromString(data)
        scope.instrumentation_library.CopyFrom(SCOPE)
        found.resource_spans.append(ResourceSpans(resource=_resource(group), instrumentation_library_spans=[scope]))
    return bytes(found.SerializeToString())


def zipkin_span(rule: str, values: Values) -> Entry | None:
    place = place_of(values.get("\0trace"))
    if place is None:
        return None
    start, duration = _times(values)
    code = values.get("\0code")
    tags = {name: _tag(value) for name, value in _told(values).items()} | {"lateen.rule": rule}
    if isinstance(code, int) and code >= 500:
        tags["error"] = str(code)
    span = {
        "traceId": place.trace,
        "id": place.span,
        **({"parentId": place.parent} if place.parent else {}),
        "name": _name(rule, values),
        "kind": "SERVER",
        "timestamp": start // 1000,
        "duration": max(duration // 1000, 1),
        "localEndpoint": {"serviceName": _group(values)},
        "tags": tags,
    }
    return Entry("", _ENCODER.encode(span))


def event(rule: str, values: Values) -> Entry:
    """Return one event: what the rule says, with its name and the time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Entry("", _ENCODER.encode({"time": now, "rule": rule, **_told(values)}))


def join_json(entries: Sequence[Entry]) -> bytes:
    """Return a list of them."""
    return b"[" + b",".join(entry.data for entry in entries) + b"]"


def _told(values: Values) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("\0")}


def _group(values: Values) -> str:
    return str(values.get("\0reporter", "unknown"))


def _name(rule: str, values: Values) -> str:
    return str(values.get("\0name", rule))


def _times(values: Values) -> tuple[int, int]:
    """Return when it began and how long it took, in nanoseconds."""
    duration = values.get("\0duration", 0.0)
    took = int(duration * 1e9) if isinstance(duration, int | float) else 0
    began = values.get("\0start")
    if isinstance(began, datetime):
        return int(began.timestamp() * 1_000_000) * 1000, took
    return time.time_ns() - took, took


def _by_group(entries: Sequence[Entry]) -> Iterable[tuple[str, bytes]]:
    """Yield the messages of each workload as one: protobuf joins what is put one behind the other."""
    by_name: Callable[[Entry], str] = lambda entry: entry.group  # noqa: E731
    for group, found in groupby(sorted(entries, key=by_name), key=by_name):
        yield group, b"".join(entry.data for entry in found)


def _resource(group: str) -> Resource:
    return Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value=group))])


def _pairs(values: Values) -> list[KeyValue]:
    return [KeyValue(key=name, value=_any(value)) for name, value in values.items()]


def _any(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list() | tuple():
            return AnyValue(array_value=ArrayValue(values=[_any(one) for one in value]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=_pairs(value)))
    return AnyValue(string_value="" if value is None else str(value))


def _tag(value: Any) -> str:
    return value if isinstance(value, str) else _ENCODER.encode(value).decode()
