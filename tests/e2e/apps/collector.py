"""A collector of reports for tests: access logs, log records and spans, as JSON lines in the file `OUT`.

gRPC on `PORT`: Envoy's access log service, OpenTelemetry's logs and traces. HTTP on `HTTP_PORT`: Zipkin's and
OpenTelemetry's spans.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

OUT = Path(os.environ["OUT"])
LOCK = threading.Lock()


def write(kind: str, content: Any, **more: Any) -> None:
    with LOCK, OUT.open("a") as out:
        out.write(json.dumps({"kind": kind, "content": content, **more}) + "\n")


def plain(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def field(message: Message, number: int) -> Any:
    """Return a field by its number: the messages at hand call it by an older name than OpenTelemetry does now."""
    return getattr(message, message.DESCRIPTOR.fields_by_number[number].name)


def entries(messages: Iterator[StreamAccessLogsMessage], context: grpc.ServicerContext) -> StreamAccessLogsResponse:
    name = ""
    for message in messages:
        name = message.identifier.log_name or name
        for entry in (*message.http_logs.log_entry, *message.tcp_logs.log_entry):
            write("als", plain(entry), log=name)
    return StreamAccessLogsResponse()


def records(request: ExportLogsServiceRequest, context: grpc.ServicerContext) -> ExportLogsServiceResponse:
    for resource in request.resource_logs:
        for scope in field(resource, 2):
            for record in field(scope, 2):
                write("otel-log", plain(record), resource=plain(resource.resource))
    return ExportLogsServiceResponse()


def spans(request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
    tenant = dict(context.invocation_metadata()).get("x-tenant", "")
    for resource in request.resource_spans:
        for scope in field(resource, 2):
            for span in field(scope, 2):
                write("otel-span", plain(span), resource=plain(resource.resource), metadata=tenant)
    return ExportTraceServiceResponse()


class Spans(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.body()
        if self.path.startswith("/api/v2/spans"):
            for span in json.loads(body):
                write("zipkin", span)
        else:
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in field(resource, 2):
                    for span in field(scope, 2):
                        write("otel-http-span", plain(span), resource=plain(resource.resource))
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def body(self) -> bytes:
        """Return the body, which Envoy sends in chunks."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at the file."""


def method(service: str, name: str, handler: Any) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(service, {name: handler})


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=32))
    serve = grpc.unary_unary_rpc_method_handler
    server.add_generic_rpc_handlers(
        (
            method(
                "envoy.service.accesslog.v3.AccessLogService",
                "StreamAccessLogs",
                grpc.stream_unary_rpc_method_handler(
                    entries, StreamAccessLogsMessage.FromString, StreamAccessLogsResponse.SerializeToString
                ),
            ),
            method(
                "opentelemetry.proto.collector.logs.v1.LogsService",
                "Export",
                serve(records, ExportLogsServiceRequest.FromString, ExportLogsServiceResponse.SerializeToString),
            ),
            method(
                "opentelemetry.proto.collector.trace.v1.TraceService",
                "Export",
                serve(spans, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString),
            ),
        )
    )
    server.add_insecure_port(f"0.0.0.0:{os.environ['PORT']}")
    server.start()
    http = ThreadingHTTPServer(("0.0.0.0", int(os.environ["HTTP_PORT"])), Spans)
    http.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.serve_forever()


if __name__ == "__main__":
    main()
