"""The collector over its real sockets, and what a real Envoy reports to it by each of its tracers."""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.fakes.ports import free_ports
from tests.observe.test_spans import SPAN, TRACE, ZIPKIN, otlp

from lateen.cli import main
from lateen.errors import Refused
from lateen.observe.collector import EXPORT, MAX_REPORT_BYTES, Collector, CollectorOptions, serve_collector
from lateen.observe.traces import TraceStore
from lateen.settings import Settings
from lateen.wire.envoy import find_envoy


@dataclass
class Running:
    collector: Collector
    options: CollectorOptions
    state: Path

    async def post(self, port: int, path: str, body: bytes, *headers: str, framed: bool = False) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        length = "transfer-encoding: chunked" if framed else f"content-length: {len(body)}"
        lines = [f"POST {path} HTTP/1.1", "host: c", "connection: close", length, *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    async def command(self, capsys: Any, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["trace", "--state", str(self.state), *words])
        out, err = capsys.readouterr()
        return code, out, err


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp") as folder:  # sockets' paths are bounded
        async with collecting(Path(folder)) as found:
            yield found


@asynccontextmanager
async def collecting(state: Path) -> AsyncIterator[Running]:
    rpc, http, zipkin = free_ports(3)
    options = CollectorOptions(otlp_grpc=rpc, otlp_http=http, zipkin=zipkin)
    collector = Collector(TraceStore())
    async with serve_collector(collector, options, Settings(state=state).traces_socket):
        yield Running(collector, options, state)


async def test_each_receiver_takes_what_is_its_own(running: Running) -> None:
    options = running.options
    async with grpc.aio.insecure_channel(f"127.0.0.1:{options.otlp_grpc}") as channel:
        assert await channel.unary_unary(EXPORT)(otlp(name="by grpc")) == b""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(EXPORT)(b"\xff\xff")
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    protobuf, text = "content-type: application/x-protobuf", "content-type: application/json; charset=utf-8"
    by_http = otlp(name="by http", span_id=b"12345678")
    assert await running.post(options.otlp_http, "/v1/traces", by_http, protobuf) == (200, b"")
    body = json.dumps([{**ZIPKIN, "traceId": TRACE, "name": "by zipkin"}]).encode()
    framed = b"%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\nx: y\r\n\r\n" % (7, body[:7], len(body) - 7, body[7:])
    assert await running.post(options.zipkin, "/api/v2/spans", framed, text, framed=True) == (202, b"")
    assert sorted(span.name for span in running.collector.store.trace(TRACE)) == ["by grpc", "by http", "by zipkin"]
    assert (running.collector.reports, running.collector.refused) == (4, 1)


@pytest.mark.parametrize(
    ("path", "body", "header", "framed", "status"),
    [
        pytest.param("/v1/traces", b"{}", "content-type: application/json", False, 415, id="OTLP in JSON"),
        pytest.param("/v1/traces", b"\xff", "content-type: application/x-protobuf", False, 400, id="no OTLP"),
        pytest.param("/api/v2/spans", b"{", "x: y", False, 400, id="no JSON"),
        pytest.param("/api/v2/spans", gzip.compress(b"[]"), "content-encoding: gzip", False, 400, id="compressed"),
        pytest.param("/api/v1/spans", b"[]", "x: y", False, 404, id="elsewhere"),
        pytest.param("/traces", b"[]", "x: y", False, 404, id="traces are not shown there"),
        pytest.param("/api/v2/spans", b"zz\r\n", "x: y", True, 400, id="chunk"),
        pytest.param("/api/v2/spans", b"%x\r\n" % (MAX_REPORT_BYTES + 1), "x: y", True, 413, id="large chunk"),
        pytest.param("/api/v2/spans", b"1\r\n[\r\n", "content-length: 3", True, 400, id="two lengths"),
    ],
)
async def test_what_is_no_report(
    running: Running, path: str, body: bytes, header: str, framed: bool, status: int
) -> None:
    assert (await running.post(running.options.zipkin, path, body, header, framed=framed))[0] == status
    assert len(running.collector.store) == 0


async def test_a_report_without_end(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.options.zipkin)
    writer.write(b"POST /api/v2/spans HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_REPORT_BYTES + 1))
    assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_reports_of_reports_are_thrown_away(running: Running) -> None:
    protobuf = "content-type: application/x-protobuf"
    assert await running.post(running.options.otlp_http, "/v1/traces", otlp(name=EXPORT), protobuf) == (200, b"")
    assert (running.collector.about_reporting, len(running.collector.store)) == (1, 0)


async def test_the_command_lists_and_shows(running: Running, capsys: Any) -> None:
    assert await running.command(capsys) == (
        0,
        "no trace was reported yet; docs/observability.md says how tracing is switched on\n",
        "",
    )
    protobuf = "content-type: application/x-protobuf"
    other = TRACE[:31] + "d"
    await running.post(running.options.otlp_http, "/v1/traces", otlp(parent_span_id=b""), protobuf)
    await running.post(running.options.otlp_http, "/v1/traces", otlp(trace_id=bytes.fromhex(other)), protobuf)
    code, out, _ = await running.command(capsys)
    assert (code, len(out.splitlines())) == (0, 3)
    assert out.splitlines()[1].startswith(other)
    code, out, _ = await running.command(capsys, "-o", "json", "--limit", "1", "--service", "web")
    assert [one["traceId"] for one in json.loads(out)] == [other]
    code, out, _ = await running.command(capsys, TRACE.upper())
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["trace", TRACE])
    assert "web.shop  client reviews:9080/*" in out
    assert "503 !" in out
    code, out, _ = await running.command(capsys, TRACE, "-o", "json")
    assert [one["spanId"] for one in json.loads(out)["spans"]] == [SPAN]
    code, out, err = await running.command(capsys, TRACE[:8])
    assert (code, len(out.splitlines())) == (1, 3)
    assert "several traces are meant by" in err
    for words, told in (
        (["ffff"], "no trace 'ffff': it was not sampled"),
        (["xyz"], "up to 32 hexadecimal digits wanted, or an x-request-id, got 'xyz'"),
        (["--limit", "0"], "--limit must be between 1 and 1000, got 0"),
        (["--collector", "/nowhere"], "no collector at /nowhere: No such file"),
    ):
        code, out, err = await running.command(capsys, *words)
        assert (code, out) == (1, "")
        assert told in err


async def test_a_trace_is_found_by_what_an_access_log_tells(running: Running, capsys: Any) -> None:
    request_id = "4817027d-c881-96c1-aac8-78c61002014f"
    tags = {"guid:x-request-id": request_id}
    body = json.dumps([{**ZIPKIN, "traceId": TRACE, "tags": tags}, {**ZIPKIN, "traceId": TRACE[::-1]}]).encode()
    assert (await running.post(running.options.zipkin, "/api/v2/spans", body))[0] == 202
    code, out, _ = await running.command(capsys, request_id)
    assert (code, out.split()[1]) == (0, TRACE)
    code, _, err = await running.command(capsys, request_id.replace("4", "5"))
    assert code == 1
    assert "no trace" in err


async def test_one_collector_a_state_and_port(running: Running, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a collector runs already"):
        async with collecting(running.state):
            pass
    for port in (running.options.otlp_grpc, running.options.zipkin):
        options = CollectorOptions(otlp_grpc=port, otlp_http=port, zipkin=0)
        with pytest.raises(Refused, match=f"spans cannot be taken at 127.0.0.1:{port}: "):
            async with serve_collector(Collector(TraceStore()), options, tmp_path / "other.sock"):
                pass


# ---------------------------------------------------------------- a real Envoy

FILTERS = "type.googleapis.com/envoy.extensions.filters"


def tracer(kind: str, options: CollectorOptions) -> dict[str, Any]:
    """Return a tracer and the port of its cluster."""
    base = "type.googleapis.com/envoy.config.trace.v3"
    service = {"cluster_name": "collector"}
    if kind == "zipkin":
        return {
            "name": "envoy.tracers.zipkin",
            "typed_config": {
                "@type": f"{base}.ZipkinConfig",
                "collector_cluster": "collector",
                "collector_endpoint": "/api/v2/spans",
                "collector_endpoint_version": "HTTP_JSON",
                "shared_span_context": False,
                "trace_id_128bit": True,
            },
        }
    http = {"http_uri": {"uri": "http://c/v1/traces", "timeout": "1s", "cluster": "collector"}}
    return {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": f"{base}.OpenTelemetryConfig",
            "service_name": "web.shop",
            **({"http_service": http} if kind == "http" else {"grpc_service": {"envoy_grpc": service}}),
        },
    }


def bootstrap(port: int, kind: str, options: CollectorOptions) -> dict[str, Any]:
    ports = {"grpc": options.otlp_grpc, "http": options.otlp_http, "zipkin": options.zipkin}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "tracing": {
            "provider": tracer(kind, options),
            "random_sampling": {"value": 100},
            "spawn_upstream_span": True,
        },
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 418}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    return {
        "node": {"id": "n", "cluster": "web.shop"},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "collector",
                    "load_assignment": {
                        "cluster_name": "collector",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {
                                                "socket_address": {"address": "127.0.0.1", "port_value": ports[kind]}
                                            }
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                    **(http2 if kind == "grpc" else {}),
                }
            ],
        },
        # The first span goes at once, not after five seconds.
        "layered_runtime": {
            "layers": [
                {
                    "name": "l",
                    "static_layer": {
                        "tracing.opentelemetry.min_flush_spans": 1,
                        "tracing.zipkin.min_flush_spans": 1,
                    },
                }
            ]
        },
    }


@pytest.mark.envoy
@pytest.mark.parametrize("kind", ["grpc", "http", "zipkin"])
async def test_what_an_envoy_reports(running: Running, kind: str, until: Callable[..., Any]) -> None:
    (port,) = free_ports(1)
    config = running.state / "envoy.json"
    config.write_text(json.dumps(bootstrap(port, kind, running.options)))
    process = await asyncio.create_subprocess_exec(
        *(str(find_envoy()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error")
    )
    try:
        parent = f"00-{TRACE}-{SPAN}-01"
        b3 = (f"x-b3-traceid: {TRACE}", f"x-b3-spanid: {SPAN}", "x-b3-sampled: 1")
        headers = "\r\n".join(b3 if kind == "zipkin" else (f"traceparent: {parent}",))

        async def ask() -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.write(f"GET /tea HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer.startswith(b"HTTP/1.1 418")

        async with asyncio.timeout(20):
            while not await ask():  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.02)
        await until(lambda: running.collector.store.trace(TRACE), seconds=20)
        span = running.collector.store.trace(TRACE)[0]
        assert (span.service, span.kind, span.attributes["http.status_code"]) == ("web.shop", "server", "418")
        assert span.parent_id == SPAN
        assert span.start_us > 1_700_000_000_000_000
    finally:
        process.kill()
        await process.wait()
