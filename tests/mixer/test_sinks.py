"""Reports that go to other servers: what real servers get, and what becomes of it when they are away."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from tests.mixer.test_engine import HERE, rules

from lateen.api.rule_reading import told_of
from lateen.expr import Activation, compile_expression
from lateen.fetch import Guard
from lateen.mixer.court import make_court
from lateen.mixer.means import Means
from lateen.mixer.sinks.queue import MOST, Entry, SinkQueue
from lateen.mixer.sinks.tracing import place_of
from lateen.observe.spans import parse_otlp, parse_zipkin

LOOPBACK = Means(guard=Guard(allowed=(ip_network("127.0.0.0/8"),)))
BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Receiver:
    """A server that takes what it is told, or answers as `status` says."""

    port: int = 0
    status: int = 200
    told: list[tuple[str, str, bytes]] = field(default_factory=list)  # path, content type, body

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["content-length"]))
            made.told.append((self.path, self.headers["content-type"], body))
            self.send_response(made.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with closing(server.socket):
        yield made
        server.shutdown()


def request(path: str = "/", code: int = 200, **headers: str) -> dict[str, Any]:
    return {
        "request": {
            "path": path,
            "method": "GET",
            "time": Timestamp(seconds=int(BEGAN.timestamp()), nanos=678_000_000),
            "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        },
        "response": {"code": code, "duration": Duration(nanos=12_000_000)},
        "context": {"reporter": {"uid": "orders.shop"}},
    }


def reported(receiver: Receiver, spec: str, *what: dict[str, Any], tcp: bool = False) -> str:
    """Report by a rule, close Mixer, and return its metrics."""

    async def work() -> str:
        court = make_court(means=LOOPBACK)
        court.judge(rules(spec)).report(what, HERE, tcp=tcp)
        await court.close()
        return court.metrics()

    return asyncio.run(work())


def test_logs_of_opentelemetry(receiver: Receiver) -> None:
    fields = "{path: request.path, code: response.code, took: response.duration, ok: response.code < 500}"
    url = receiver.url("/v1/logs")
    spec = f"{{report: {{otelLog: {{url: '{url}', severity: ERROR, body: request.method, fields: {fields}}}}}}}"
    metrics = reported(receiver, spec, request("/a"), request("/b", 503))
    ((path, content, body),) = receiver.told
    assert (path, content) == ("/v1/logs", "application/x-protobuf")
    (resource,) = ExportLogsServiceRequest.FromString(body).resource_logs
    assert {one.key: one.value.string_value for one in resource.resource.attributes} == {"service.name": "orders.shop"}
    first, second = resource.instrumentation_library_logs[0].logs
    assert (first.severity_text, first.severity_number, first.body.string_value) == ("ERROR", 17, "GET")
    assert time.time_ns() - first.time_unix_nano < 60e9
    values = {one.key: one.value for one in second.attributes}
    assert values["path"].string_value == "/b"
    assert values["code"].int_value == 503
    assert values["took"].double_value == 0.012
    assert values["ok"].WhichOneof("value") == "bool_value"
    assert values["lateen.rule"].string_value == "shop/r0"
    assert f'mixer_sink_entries_sent_total{{sink="otelLog",url="{receiver.url("/v1/logs")}"}} 2\n' in metrics


def test_logs_of_connections(receiver: Receiver) -> None:
    spec = f"{{report: {{otelLog: {{url: '{receiver.url('/v1/logs')}', fields: {{ip: source.ip}}}}}}}}"
    reported(receiver, spec, {"source": {"ip": "10.0.0.7"}}, tcp=True)
    (resource,) = ExportLogsServiceRequest.FromString(receiver.told[0][2]).resource_logs
    (record,) = resource.instrumentation_library_logs[0].logs
    assert record.body.string_value == "shop/r0"
    assert {one.key: one.value.string_value for one in record.attributes}["ip"] == "10.0.0.7"


SPANS = {
    "otelSpan": ("/v1/traces", "attributes", parse_otlp),
    "zipkin": ("/api/v2/spans", "tags", parse_zipkin),
}


@pytest.mark.parametrize("form", SPANS)
def test_spans_are_put_into_their_traces(receiver: Receiver, form: str) -> None:
    """As whoever collects them reads them."""
    path, told, parse = SPANS[form]
    sent = f"{{url: '{receiver.url(path)}', name: request.method, {told}: {{code: response.code}}}}"
    spec = f"{{report: {{{form}: {sent}}}}}"
    w3c = request(code=503, traceparent=f"00-{TRACE}-{PARENT}-01")
    reported(receiver, spec, w3c, request(), request(traceparent=f"00-{TRACE}-{PARENT}-00"))
    spans = [span for got, _, body in receiver.told if got == path for span in parse(body)]
    assert len(spans) == 2, "one of the three was decided not to be recorded"
    first = next(span for span in spans if span.parent_id)
    assert (first.trace_id, first.parent_id, first.name) == (TRACE, PARENT, "GET")
    assert first.service == "orders.shop"
    assert first.start_us == int(BEGAN.timestamp() * 1e6)
    assert first.duration_us == 12_000
    assert first.error
    other = next(span for span in spans if not span.parent_id)
    assert other.trace_id not in ("", TRACE)
    assert not other.error


@pytest.mark.parametrize(
    ("headers", "trace", "parent"),
    [
        ({"traceparent": f"00-{TRACE}-{PARENT}-01"}, TRACE, PARENT),
        ({"traceparent": f"00-{TRACE.upper()}-{PARENT}-03", "b3": "0"}, TRACE, PARENT),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, None, ""),
        ({"traceparent": "nonsense"}, None, ""),
        ({"b3": f"{TRACE}-{PARENT}-1"}, TRACE, PARENT),
        ({"b3": f"{TRACE[:16]}-{PARENT}"}, "0" * 16 + TRACE[:16], PARENT),
        ({"b3": f"{TRACE}-{PARENT}-d-{PARENT}"}, TRACE, PARENT),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": PARENT, "x-b3-sampled": "1"}, TRACE, PARENT),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": PARENT}, TRACE, PARENT),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": "../../etc"}, None, ""),
        ({}, None, ""),
    ],
)
def test_whose_trace_it_is(headers: dict[str, str], trace: str | None, parent: str) -> None:
    found = place_of(trace_of(headers))
    assert found is not None
    assert found.parent == parent
    assert found.trace == trace if trace is not None else len(found.trace) == 32
    assert len(found.span) == 16


def trace_of(headers: dict[str, str]) -> Any:
    spec = rules("{report: {zipkin: {url: 'http://a/'}}}")[0].spec
    ((_, values),) = told_of(spec)
    return compile_expression(values["\0trace"]).evaluate(Activation({"request": {"headers": headers}}))


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{TRACE}-{PARENT}-00"},
        {"b3": "0"},
        {"b3": f"{TRACE}-{PARENT}-0"},
        {"x-b3-traceid": TRACE, "x-b3-spanid": PARENT, "x-b3-sampled": "0"},
        {"x-b3-sampled": "false"},
    ],
)
def test_what_was_decided_not_to_be_recorded_is_not(headers: dict[str, str]) -> None:
    assert place_of(trace_of(headers)) is None


def test_events(receiver: Receiver) -> None:
    spec = f"{{report: {{event: {{url: '{receiver.url('/hook?key=secret')}', fields: {{path: request.path}}}}}}}}"
    metrics = reported(receiver, spec, *[request(f"/{i}") for i in range(600)])
    assert [(path, content) for path, content, _ in receiver.told] == [("/hook?key=secret", "application/json")] * 2
    events = [one for _, _, body in receiver.told for one in json.loads(body)]
    assert [one["path"] for one in events] == [f"/{i}" for i in range(600)]
    assert events[0]["rule"] == "shop/r0"
    assert "secret" not in metrics


def test_what_a_server_does_not_take_waits_for_it(receiver: Receiver) -> None:
    async def work() -> None:
        now = 0.0
        court = make_court(means=LOOPBACK)
        court._outside.sinks._clock = lambda: now
        spec = f"{{report: {{event: {{url: '{receiver.url('/hook')}', fields: {{path: request.path}}}}}}}}"
        judge = court.judge(rules(spec))
        sinks = court._outside.sinks
        receiver.status = 503
        judge.report([request(f"/{i}") for i in range(100)], HERE, tcp=False)
        await sinks._flush()
        (problem,) = court.problems()
        assert (problem.field, problem.level) == ("spec.report.event.url", "warning")
        assert "it answers 503" in problem.message
        await sinks._flush()
        assert len(receiver.told) == 1, "it is not asked again at once"
        for now in (0.6, 1.7, 3.8):  # noqa: B007  # the clock reads it
            await sinks._flush()
        assert len(receiver.told) == 4
        receiver.status = 200
        now = 8.0
        await sinks._flush()
        assert len(json.loads(receiver.told[-1][2])) == 100
        assert court.problems() == []
        # What is older than a minute goes, and is counted.
        receiver.status = 500
        judge.report([request()] * 7, HERE, tcp=False)
        await sinks._flush()
        now = 70.0
        await sinks._flush()
        ((_, _, sent, dropped),) = sinks.counts()
        assert (sent, dropped) == (100, 7)
        await court.close()

    asyncio.run(work())


def test_what_a_server_refuses_is_dropped_and_what_comes_after_is_sent(receiver: Receiver) -> None:
    async def work() -> None:
        court = make_court(means=LOOPBACK)
        spec = f"{{report: {{event: {{url: '{receiver.url('/hook')}', fields: {{path: request.path}}}}}}}}"
        judge = court.judge(rules(spec))
        receiver.status = 400
        judge.report([request()] * 3, HERE, tcp=False)
        await court._outside.sinks._flush()
        assert "it answers 400, and what it was told is dropped" in str(court.problems()[0])
        receiver.status = 200
        judge.report([request()] * 2, HERE, tcp=False)
        await court._outside.sinks._flush()
        ((_, _, sent, dropped),) = court._outside.sinks.counts()
        assert (sent, dropped) == (2, 3)
        await court.close()

    asyncio.run(work())


def test_what_has_no_room_is_dropped_and_counted(receiver: Receiver) -> None:
    async def work() -> None:
        court = make_court(means=LOOPBACK)
        spec = f"{{report: {{event: {{url: '{receiver.url('/hook')}', fields: {{path: request.path}}}}}}}}"
        court.judge(rules(spec)).report([request()] * (MOST + 5), HERE, tcp=False)
        assert court.stats.reported == {("shop/r0", "taken"): MOST, ("shop/r0", "dropped"): 5}
        queue = next(iter(court._outside.sinks._queues.values()))
        assert (len(queue), queue.dropped) == (MOST, 5)
        await court.close()

    asyncio.run(work())


def test_a_queue_is_bounded_in_bytes() -> None:
    queue = SinkQueue(None, "http://nowhere/", pack=lambda _: b"", content_type="x")  # type: ignore[arg-type]  # not sent
    taken = [queue.put(Entry("", b"x" * (1 << 20))) for _ in range(20)]
    assert sum(taken) == 16
    assert queue.dropped == 4


def test_a_server_that_is_not_open_is_told(receiver: Receiver) -> None:
    async def work() -> None:
        court = make_court()
        spec = f"{{report: {{event: {{url: '{receiver.url('/hook')}', fields: {{path: request.path}}}}}}}}"
        court.judge(rules(spec)).report([request()], HERE, tcp=False)
        await court._outside.sinks._flush()
        assert "which is loopback; `lateen up --allow-fetch CIDR` would open it" in str(court.problems()[0])
        with suppress(TimeoutError):
            await court.close()

    asyncio.run(work())
    assert receiver.told == []


def test_rules_that_go_leave_what_they_reported(receiver: Receiver) -> None:
    async def work() -> None:
        court = make_court(means=LOOPBACK)
        spec = f"{{report: {{event: {{url: '{receiver.url('/hook')}', fields: {{path: request.path}}}}}}}}"
        court.judge(rules(spec)).report([request()], HERE, tcp=False)
        court.judge([])
        assert not court._outside.sinks._queues
        await court.close()

    asyncio.run(work())
    assert len(receiver.told) == 1
