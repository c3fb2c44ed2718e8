"""Take spans from whoever sends them, keep the last traces in memory, and show them to the user of this machine.

    4317    gRPC: OTLP's TraceService/Export
    4318    HTTP: POST /v1/traces, OTLP in protobuf
    9411    HTTP: POST /api/v2/spans, Zipkin's JSON
    run/traces.sock     HTTP: GET /traces?limit=N&service=S, /traces/ID, /stats

ID is a trace's, or the beginning of it, or the `x-request-id` of a request of it.

Spans are untrusted: reports are bounded in size, spans in length, all of them together in number. What they say is
shown on the Unix socket alone. Reports of reports are thrown away: the collector's own proxy would write them for ever.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import grpc
import grpc.aio
import msgspec
import structlog

from lateen.errors import Refused
from lateen.observe.spans import Span, is_about_reporting, parse_otlp, parse_zipkin
from lateen.observe.traces import TraceStore, summary
from lateen.wire.http_server import HttpServer, Request, Response, text_response

__all__ = ["MAX_REPORT_BYTES", "Collector", "CollectorOptions", "serve_collector"]

MAX_REPORT_BYTES: Final = 4 << 20  # gRPC's own limit
MAX_LISTED: Final = 1000
MAX_CONNECTIONS: Final = 256
BACKLOG: Final = 128
EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorOptions:
    """Where it listens; port 0: there is no such receiver."""

    address: str = "127.0.0.1"
    otlp_grpc: int = 4317
    otlp_http: int = 4318
    zipkin: int = 9411


class Collector:
    """What reports mean, and what is answered to those who look. No sockets in here."""

    def __init__(self, store: TraceStore) -> None:
        self.store = store
        self.reports = 0
        self.refused = 0  # reports that are none
        self.about_reporting = 0  # spans of reports themselves

    async def http(self, request: Request) -> Response:
        """Answer a report over HTTP."""
        parse: Callable[[bytes], list[Span]]
        match request.path:
            case "/v1/traces":
                if request.content_type != PROTOBUF:
                    return text_response(415, f"{PROTOBUF} wanted\n")
                parse, answer = parse_otlp, Response(200, b"", PROTOBUF)  # an ExportTraceServiceResponse without fields
            case "/api/v2/spans":
                if request.content_type not in ("", JSON):
                    return text_response(415, f"{JSON} wanted\n")
                parse, answer = parse_zipkin, Response(202, b"")
            case _:
                return text_response(404, "spans are taken at /v1/traces (OTLP) and /api/v2/spans (Zipkin)\n")
        if request.method != "POST":
            return text_response(405, "POST wanted\n")
        try:
            self._take(request.body, parse)
        except ValueError as error:
            return text_response(400, f"{error}\n")
        return answer

    async def export(self, data: bytes, context: Any) -> bytes:
        """Answer a report over gRPC."""
        try:
            self._take(data, parse_otlp)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return b""

    async def show(self, request: Request) -> Response:
        """Answer the user of this machine."""
        path, query = request.path, parse_qs(request.query)
        if path == "/traces":
            text = query.get("limit", ["20"])[0]
            limit = min(int(text), MAX_LISTED) if text.isascii() and text.isdecimal() and len(text) < 10 else 20
            return _json(self.store.recent(limit, query.get("service", [""])[0]))
        if path == "/stats":
            return _json(
                {
                    "reports": self.reports,
                    "refused": self.refused,
                    "spans": self.store.received,
                    "dropped": self.store.dropped,
                    "aboutReporting": self.about_reporting,
                    "traces": len(self.store),
                }
            )
        if path.startswith("/traces/"):
            wanted = path.removeprefix("/traces/").lower()
            ids = self.store.of_request(wanted) if "-" in wanted else self.store.named(wanted)
            if not ids:
                return text_response(404, "no such trace\n")
            if len(ids) > 1:
                return _json([summary(self.store.trace(one)) for one in ids[:MAX_LISTED]], 300)
            return _json(self.store.trace(ids[0]))
        return text_response(404, "there are /traces, /traces/ID and /stats\n")

    def _take(self, data: bytes, parse: Callable[[bytes], list[Span]]) -> None:
        self.reports += 1
        try:
            spans = parse(data)
        except ValueError:
            self.refused += 1
            raise
        own = [span for span in spans if is_about_reporting(span)]
        self.about_reporting += len(own)
        self.store.add(span for span in spans if span not in own) if own else self.store.add(spans)


@contextlib.asynccontextmanager
async def serve_collector(collector: Collector, options: CollectorOptions, looked_at: Path) -> AsyncIterator[None]:
    """Listen while the body runs. Raises `Refused` for a port that is taken, or another collector of this state."""
    log = structlog.get_logger()
    _check_alone(looked_at)
    async with contextlib.AsyncExitStack() as stack:
        for port in sorted({options.otlp_http, options.zipkin} - {0}):
            # Either of the two answers both: what is sent to the wrong one is understood all the same.
            server = HttpServer(collector.http, log, max_connections=MAX_CONNECTIONS, max_body=MAX_REPORT_BYTES)
            stack.push_async_callback(server.stop)
            await server.serve_socket(_listening(options.address, port))
        if options.otlp_grpc:
            _listening(options.address, options.otlp_grpc).close()  # taken by somebody else: told with its port
            rpc = grpc.aio.server(
                options=[("grpc.max_receive_message_length", MAX_REPORT_BYTES), ("grpc.so_reuseport", 0)],
                maximum_concurrent_rpcs=MAX_CONNECTIONS,
            )
            rpc.add_generic_rpc_handlers((_Handlers(collector),))
            rpc.add_insecure_port(_with_port(options.address, options.otlp_grpc))
            await rpc.start()
            stack.push_async_callback(rpc.stop, 0.5)
        looked_at.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shown = HttpServer(collector.show, log)
        stack.push_async_callback(shown.stop)
        await shown.serve_path(looked_at)
        stack.callback(lambda: looked_at.unlink(missing_ok=True))
        yield


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def __init__(self, collector: Collector) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(collector.export)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handler if details.method == EXPORT else None


def _listening(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Refused(f"spans cannot be taken at {_with_port(address, port)}: {error.strerror}") from error
    return sock


def _check_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise Refused(f"a collector runs already on {path}; stop it, or name another state folder with --state")


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _json(value: object, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value), JSON)
