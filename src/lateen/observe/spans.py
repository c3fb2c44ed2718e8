"""Spans as proxies and applications report them, in one shape: OTLP's protobuf and Zipkin's JSON (v2).

In:  the bytes of one report, from anybody. Out: spans of bounded size, or `ValueError` for what is no report.
Rules: OpenTelemetry's trace proto and its conventions of 2023 and before, Zipkin's API v2. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

__all__ = ["Span", "is_about_reporting", "parse_otlp", "parse_zipkin", "status_of"]

MAX_TEXT: Final = 256  # characters of a name, and of an attribute's value
MAX_ATTRIBUTES: Final = 32
# `scope_spans`; the messages of xds-protos still have its first name, `instrumentation_library_spans`.
_SCOPES: Final[str] = ResourceSpans.DESCRIPTOR.fields_by_number[2].name
_KINDS: Final = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_ID: Final = re.compile(r"[0-9a-f]{16}([0-9a-f]{16})?", re.ASCII)
# What reports themselves are sent to: a proxy that traces all would report its reports for ever.
_REPORTING: Final = re.compile(r"(/opentelemetry\.proto\.collector\.\S+/Export|/v1/traces|/api/v2/spans)(\?|$)")
_STATUS: Final = ("http.response.status_code", "http.status_code")
_URL: Final = ("url.full", "http.url", "url.path", "http.target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span. Times are microseconds since 1970, and may be anything that a reporter's clock says."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    parent_id: str  # "" for a root
    name: str
    kind: str  # server, client, producer, consumer, internal, or ""
    service: str
    start_us: int
    duration_us: int
    error: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)


def parse_otlp(data: bytes) -> list[Span]:
    """Return the spans of an ExportTraceServiceRequest. Raises `ValueError`."""
    try:
        request = ExportTraceServiceRequest.FromString(data)
    except DecodeError as error:
        raise ValueError("no ExportTraceServiceRequest") from error
    spans = []
    for resource in request.resource_spans:
        own = _attributes(resource.resource.attributes)
        for scope in getattr(resource, _SCOPES):
            for span in scope.spans:
                if len(span.trace_id) != 16 or len(span.span_id) != 8:
                    continue  # the specification: such a span is to be thrown away
                spans.append(
                    Span(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex() if len(span.parent_span_id) == 8 else "",
                        name=_text(span.name),
                        kind=_KINDS.get(span.kind, ""),
                        service=own.get("service.name", ""),
                        start_us=span.start_time_unix_nano // 1000,
                        duration_us=max(0, span.end_time_unix_nano - span.start_time_unix_nano) // 1000,
                        error=span.status.code == 2,  # STATUS_CODE_ERROR
                        attributes=_attributes(span.attributes),
                    )
                )
    return spans


def parse_zipkin(data: bytes) -> list[Span]:
    """Return the spans of a list in JSON, version 2. Raises `ValueError`."""
    try:
        found = msgspec.json.decode(data, type=list[_ZipkinSpan])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no list of Zipkin's spans: {error}") from error
    return [_of_zipkin(span) for span in found if _ID.fullmatch(span.trace_id) and _ID.fullmatch(span.id)]


def is_about_reporting(span: Span) -> bool:
    """Tell whether a span is of a report of spans."""
    texts = (span.name, *(span.attributes.get(name, "") for name in _URL))
    return any(_REPORTING.search(text) for text in texts)


def status_of(span: Span) -> str:
    """Return the answer's status for people: `200`, `grpc 5`, `0` for no answer, "" where nobody says."""
    grpc = span.attributes.get("grpc.status_code") or span.attributes.get("rpc.grpc.status_code")
    if grpc:
        return f"grpc {grpc}"
    return next((span.attributes[name] for name in _STATUS if name in span.attributes), "")


class _Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    service_name: str | None = None


class _ZipkinSpan(msgspec.Struct, frozen=True, rename="camel"):
    trace_id: str
    id: str
    parent_id: str | None = None
    name: str | None = None
    kind: str | None = None
    timestamp: int | None = None
    duration: int | None = None
    shared: bool | None = None
    local_endpoint: _Endpoint | None = None
    tags: dict[str, str] | None = None


def _of_zipkin(span: _ZipkinSpan) -> Span:
    tags = dict(list((span.tags or {}).items())[:MAX_ATTRIBUTES])
    attributes = {_text(name): _text(value) for name, value in tags.items()}
    parent = span.parent_id or ""
    return Span(
        trace_id=span.trace_id.rjust(32, "0"),
        span_id=span.id[-16:],
        parent_id=parent[-16:] if _ID.fullmatch(parent) else "",
        name=_text(span.name or ""),
        kind=(span.kind or "").lower() if (span.kind or "").lower() in _KINDS.values() else "",
        service=_text((span.local_endpoint.service_name if span.local_endpoint else None) or ""),
        start_us=max(0, span.timestamp or 0),
        duration_us=max(0, span.duration or 0),
        error="error" in attributes and attributes["error"].lower() != "false",
        attributes=attributes,
    )


def _attributes(pairs: Iterable[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        if len(found) == MAX_ATTRIBUTES:
            break
        found[_text(pair.key)] = _text(_value(pair.value))
    return found


def _value(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return str(value.string_value)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return f"{value.double_value:g}"
        case "bytes_value":
            return str(value.bytes_value[:MAX_TEXT].hex())
    return ""  # lists and maps: nothing here shows them


def _text(text: str) -> str:
    """Return a text that a terminal can be shown."""
    cut = text[:MAX_TEXT]
    return cut if cut.isprintable() else "".join(char if char.isprintable() else "?" for char in cut)
