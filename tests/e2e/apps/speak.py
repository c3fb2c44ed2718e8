"""A server of every kind of HTTP for tests; `KIND:PORT` words say what is served where.

h1      HTTP/1.1: GET /size/N sends N bytes, in chunks for /chunks/N; POST answers how much came; `?sleep=S` first
h2      HTTP/2 without TLS, from the preface on: answers with the body it got, its head in JSON in `x-head`, and the
        trailer `x-total` with the length
ws      WebSocket: repeats messages
grpc    /speak.Speak/{Say,Count,Chat}: one message, as many as asked, as many as come. Metadata `fail` is a status
        that the first `times` calls of a `key` end with; `/speak.Speak/Calls` tells how often a key was called
connect an HTTP proxy that knows CONNECT
https   as h1, behind TLS: certificate and key are the files CERT and KEY
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOST = os.environ.get("BIND", "0.0.0.0")
PIECE = 64 * 1024


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        time.sleep(float(parse_qs(url.query).get("sleep", ["0"])[0]))
        kind, _, rest = url.path.strip("/").partition("/")
        if kind in ("size", "chunks") and rest.isdecimal():
            self.send_pieces(int(rest), chunked=kind == "chunks")
        else:
            self.answer({})

    def do_POST(self) -> None:
        total = 0
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            left = int(self.headers.get("content-length", "0"))
            while left:
                piece = self.rfile.read(min(left, PIECE))
                total, left = total + len(piece), left - len(piece)
        self.answer({"got": total})

    def send_pieces(self, size: int, *, chunked: bool) -> None:
        self.send_response(200)
        self.send_header(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(size))))
        self.end_headers()
        while size:
            piece = b"x" * min(size, PIECE)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            size -= len(piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def answer(self, fields: dict[str, Any]) -> None:
        seen = {key.lower(): value for key, value in self.headers.items()}
        body = json.dumps(
            {**fields, "method": self.command, "version": self.request_version, "path": self.path, "headers": seen}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at answers."""


class Https(Http):
    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()


class Http2(BaseRequestHandler):
    """One connection; requests are answered when they are complete."""

    def handle(self) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.events import DataReceived, RequestReceived, StreamEnded, TrailersReceived

        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        self.request.sendall(connection.data_to_send())
        heads: dict[int, dict[str, Any]] = {}
        bodies: dict[int, bytes] = {}
        while data := self.request.recv(PIECE):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    heads[event.stream_id], bodies[event.stream_id] = dict(event.headers), b""
                elif isinstance(event, DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, TrailersReceived):
                    heads[event.stream_id]["trailers"] = dict(event.headers)
                elif isinstance(event, StreamEnded):
                    stream, body = event.stream_id, bodies.pop(event.stream_id)
                    head = json.dumps(heads.pop(stream))
                    connection.send_headers(stream, [(":status", "200"), ("x-head", head)])
                    connection.send_data(stream, body[:16384])
                    connection.send_headers(stream, [("x-total", str(len(body)))], end_stream=True)
            self.request.sendall(connection.data_to_send())


class Proxy(BaseRequestHandler):
    """CONNECT: answers and then carries bytes both ways."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(1)
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT":
            self.request.sendall(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            return
        host, _, port = target.decode().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as far:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_carry, args=(far, self.request), daemon=True).start()
            _carry(self.request, far)


def _carry(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(PIECE):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _threads(handler: type[BaseRequestHandler], port: int) -> None:
    ThreadingTCPServer.allow_reuse_address = True
    ThreadingTCPServer.daemon_threads = True
    kind = ThreadingHTTPServer if issubclass(handler, BaseHTTPRequestHandler) else ThreadingTCPServer
    server = kind((HOST, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def websocket(port: int) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def run() -> None:
        async with serve(echo, HOST, port, max_size=None):
            await asyncio.get_running_loop().create_future()

    threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()


def grpc_server(port: int) -> None:
    import grpc

    calls: Counter[str] = Counter()

    def judged(context: Any) -> None:
        told = dict(context.invocation_metadata())
        if "key" in told:
            calls[told["key"]] += 1
        if "fail" in told and calls[told["key"]] <= int(told["times"]):
            context.abort(getattr(grpc.StatusCode, told["fail"]), "as asked")

    def say(request: bytes, context: Any) -> bytes:
        judged(context)
        return b"heard " + request

    def count(request: bytes, context: Any) -> Iterator[bytes]:
        judged(context)
        for number in range(int(request)):
            yield b"%d" % number

    def chat(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        judged(context)
        for request in requests:
            yield b"heard " + request

    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Calls": grpc.unary_unary_rpc_method_handler(lambda request, _: b"%d" % calls[request.decode()]),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("speak.Speak", methods),))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    _kept.append(server)


_kept: list[Any] = []
KINDS: dict[str, Callable[[int], None]] = {
    "h1": lambda port: _threads(Http, port),
    "h2": lambda port: _threads(Http2, port),
    "https": lambda port: _threads(Https, port),
    "connect": lambda port: _threads(Proxy, port),
    "ws": websocket,
    "grpc": grpc_server,
}


def main() -> None:
    for word in sys.argv[1:]:
        kind, _, port = word.partition(":")
        KINDS[kind](int(port))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
