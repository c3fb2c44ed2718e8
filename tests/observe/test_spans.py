"""Spans of both kinds of report, and whatever else is sent in their place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lateen.observe.spans import MAX_ATTRIBUTES, MAX_TEXT, Span, is_about_reporting, parse_otlp, parse_zipkin, status_of

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def otlp(**fields: Any) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "web.shop"
    scopes = resource.DESCRIPTOR.fields_by_number[2].name  # as lateen.observe.spans finds it
    span = (
        getattr(resource, scopes)
        .add()
        .spans.add(
            **{
                "trace_id": bytes.fromhex(TRACE),
                "span_id": bytes.fromhex(SPAN),
                "parent_span_id": bytes.fromhex(PARENT),
                "name": "reviews:9080/*",
                "kind": 3,
                "start_time_unix_nano": 1_700_000_000_000_001_500,
                "end_time_unix_nano": 1_700_000_000_012_345_000,
                **fields,
            }
        )
    )
    for key, kind, value in (
        ("http.status_code", "int_value", 503),
        ("a", "bool_value", True),
        ("b", "double_value", 0.5),
        ("c", "bytes_value", b"\1\2"),
        ("d", "string_value", "x\33[31m" + "y" * 1000),
    ):
        setattr(span.attributes.add(key=key).value, kind, value)
    span.status.code = 2
    data: bytes = request.SerializeToString()
    return data


def test_otlp() -> None:
    (span,) = parse_otlp(otlp())
    attributes = dict(span.attributes)
    assert attributes.pop("d") == ("x?[31m" + "y" * 1000)[:MAX_TEXT]
    assert attributes == {"http.status_code": "503", "a": "true", "b": "0.5", "c": "0102"}
    assert span == Span(
        trace_id=TRACE,
        span_id=SPAN,
        parent_id=PARENT,
        name="reviews:9080/*",
        kind="client",
        service="web.shop",
        start_us=1_700_000_000_000_001,
        duration_us=12_343,
        error=True,
        attributes=span.attributes,
    )
    assert status_of(span) == "503"


def test_otlp_without_an_id_is_thrown_away() -> None:
    assert parse_otlp(otlp(trace_id=b"")) == []
    assert parse_otlp(otlp(span_id=b"123")) == []
    assert parse_otlp(otlp(parent_span_id=b""))[0].parent_id == ""
    assert parse_otlp(otlp(end_time_unix_nano=0))[0].duration_us == 0


ZIPKIN = {
    "traceId": TRACE[:16],
    "id": SPAN,
    "parentId": PARENT,
    "kind": "SERVER",
    "name": "get /",
    "timestamp": 1700000000000001,
    "duration": 1500,
    "shared": True,
    "localEndpoint": {"serviceName": "web.shop", "ipv4": "10.77.0.2"},
    "annotations": [{"timestamp": 1, "value": "x"}],
    "tags": {"http.status_code": "200", "error": "false", **{str(number): "x" for number in range(100)}},
}


def test_zipkin() -> None:
    (span,) = parse_zipkin(json.dumps([ZIPKIN]).encode())
    assert len(span.attributes) == MAX_ATTRIBUTES
    assert (span.trace_id, span.span_id, span.parent_id) == ("0" * 16 + TRACE[:16], SPAN, PARENT)
    assert (span.name, span.kind, span.service, span.error) == ("get /", "server", "web.shop", False)
    assert (span.start_us, span.duration_us, status_of(span)) == (1700000000000001, 1500, "200")
    (failed,) = parse_zipkin(json.dumps([{"traceId": TRACE, "id": SPAN, "tags": {"error": "reset"}}]).encode())
    assert (failed.error, failed.parent_id, failed.start_us, failed.service) == (True, "", 0, "")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'[{"id": 1}]', b"[" * 100_000, b'[{"traceId": "x"}]'])
def test_what_is_no_list_of_spans(data: bytes) -> None:
    with pytest.raises(ValueError, match="no list of Zipkin's spans"):
        parse_zipkin(data)


def test_ids_that_are_none_are_thrown_away() -> None:
    for field, value in (("traceId", "../x"), ("id", "zz"), ("id", "")):
        assert parse_zipkin(json.dumps([{**ZIPKIN, field: value}]).encode()) == []
    assert parse_zipkin(json.dumps([{**ZIPKIN, "parentId": "?"}]).encode())[0].parent_id == ""


@given(st.binary(max_size=300))
def test_anything_is_spans_or_refused(data: bytes) -> None:
    for parse in (parse_otlp, parse_zipkin):
        try:
            spans = parse(data)
        except ValueError:
            continue
        assert all(span.name.isprintable() and len(span.trace_id) == 32 for span in spans)


@pytest.mark.parametrize(
    ("name", "attributes", "own"),
    [
        pytest.param("/opentelemetry.proto.collector.trace.v1.TraceService/Export", {}, True, id="grpc"),
        pytest.param("egress", {"http.url": "http://c:4317/opentelemetry.proto.collector.x.Y/Export"}, True, id="url"),
        pytest.param("x", {"url.full": "http://c:9411/api/v2/spans"}, True, id="zipkin"),
        pytest.param("x", {"http.url": "http://c/v1/traces?x"}, True, id="otlp http"),
        pytest.param("x", {"http.url": "http://shop/v1/traces/of/deer"}, False, id="somebody's path"),
        pytest.param("reviews", {}, False, id="a request"),
    ],
)
def test_reports_of_reports(name: str, attributes: dict[str, str], own: bool) -> None:
    span = Span(
        trace_id=TRACE, span_id=SPAN, parent_id="", name=name, kind="", service="", start_us=0, duration_us=0,
        attributes=attributes,
    )  # fmt: skip
    assert is_about_reporting(span) is own
