"""Serve one handler over HTTP/1.1, a thread a connection, and end without cutting a request short.

On SIGTERM or SIGINT: connections that already wait to be accepted still are, idle ones are closed, each request that
has begun gets its whole answer (with `Connection: close`), and then the process ends, at the latest after
`GRACE_SECONDS`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from time import monotonic
from typing import Any

from lateen.demo.shop.messages import Handler, Request, Response, json_response
from lateen.demo.shop.settings import Address, BadSetting, ShopSettings

__all__ = ["GRACE_SECONDS", "ShopServer", "run_service"]

GRACE_SECONDS = 10.0  # longer than the slowest answer here, a page that waits for two timeouts of 3 s
BODY_LIMIT_BYTES = 64 * 1024


class _BadBody(Exception):
    """A request's body cannot be read; holds the status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ShopServer(ThreadingMixIn, HTTPServer):
    """Listens from its making on; `serve` accepts until `stop`, then lets every request end."""

    daemon_threads = True  # a connection that outlives the grace period does not keep the process
    request_queue_size = 1024
    address_family = socket.AF_INET

    def __init__(self, address: Address, handler: Handler) -> None:
        self.handler = handler
        self.draining = False
        self._open: dict[socket.socket, bool] = {}  # each connection, and whether it is in a request
        self._changed = threading.Condition()
        self._wake, self._stop = socket.socketpair()
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), _Connection)

    @property
    def address(self) -> Address:
        """Where it listens; the real port if it was told 0."""
        host, port = self.server_address[:2]
        return Address(str(host), int(port))

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks DNS for this host's name and so can hang where there is none.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def stop(self) -> None:
        """Make `serve` end; fit for a signal handler and for any thread."""
        self._stop.send(b"x")

    def serve(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Accept and answer until `stop`; return whether every request had ended within the grace period."""
        self.socket.setblocking(False)
        while self._wake not in select.select([self.socket, self._wake], [], [])[0]:
            self._accept()
        while select.select([self.socket], [], [], 0)[0]:
            self._accept()
        self.server_close()
        return self._drain(monotonic() + grace_seconds)

    def _accept(self) -> None:
        try:
            conn, peer = self.socket.accept()
        except OSError:
            return  # the client has gone already
        conn.setblocking(True)
        with self._changed:
            self._open[conn] = False
        self.process_request(conn, peer)

    def _drain(self, deadline: float) -> bool:
        with self._changed:
            self.draining = True
            for conn, busy in self._open.items():
                if not busy:
                    _end_reading(conn)
            return self._changed.wait_for(lambda: not self._open, deadline - monotonic())

    def begin_request(self, conn: socket.socket) -> None:
        with self._changed:
            self._open[conn] = True

    def end_request(self, conn: socket.socket) -> None:
        with self._changed:
            self._open[conn] = False
            if self.draining:
                _end_reading(conn)

    def server_close(self) -> None:
        self.socket.close()  # without waiting for threads, as the mix-in would: `_drain` does, with a deadline

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc()


def _end_reading(conn: socket.socket) -> None:
    """Give the reader what has arrived and then the end; what is being answered still goes out."""
    try:
        conn.shutdown(socket.SHUT_RD)
    except OSError:
        return  # closed by the other side


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lateen-shop"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered: head and body leave together
    server: ShopServer

    def parse_request(self) -> bool:
        self.server.begin_request(self.connection)
        return super().parse_request()

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.server.end_request(self.connection)

    def _answer(self) -> None:
        try:
            response = self._handle(self._read_body())
        except _BadBody as err:
            self.close_connection = True  # what follows on this connection could be the rest of the body
            response = json_response({"error": str(err)}, err.status)
        self.send_response(response.status)
        self.send_header("content-type", response.content_type)
        self.send_header("content-length", str(len(response.body)))
        for name, value in response.headers:
            self.send_header(name, value)
        if self.close_connection or self.server.draining:
            self.send_header("connection", "close")  # also sets close_connection
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    def _handle(self, body: bytes) -> Response:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]},{value}" if key in headers else value  # RFC 9110 section 5.3
        method = "GET" if self.command == "HEAD" else self.command
        try:
            return self.server.handler(
                Request(method=method, path=self.path.partition("?")[0], headers=headers, body=body)
            )
        except Exception:  # one request's fault must not end its connection's thread without an answer
            traceback.print_exc()
            return json_response({"error": "this service failed to answer; its log says why"}, 500)

    def _read_body(self) -> bytes:
        if "chunked" in (self.headers.get("transfer-encoding") or "").lower():
            return self._read_chunks()
        length = self.headers.get("content-length") or "0"
        if not length.isascii() or not length.isdigit():
            raise _BadBody(400, f"content-length must be a number, got {length!r}")
        return self._read_exactly(int(length))

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            line = self.rfile.readline(256).partition(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise _BadBody(400, f"a chunk's size must be a hexadecimal number, got {line!r}") from None
            if len(body) + size > BODY_LIMIT_BYTES or size < 0:
                raise _BadBody(413, f"a body may have at most {BODY_LIMIT_BYTES} bytes")
            if size == 0:
                break
            body += self._read_exactly(size)
            self.rfile.readline(3)
        while self.rfile.readline(8192).strip():
            continue  # trailers say nothing to us
        return body

    def _read_exactly(self, length: int) -> bytes:
        if length > BODY_LIMIT_BYTES:
            raise _BadBody(413, f"a body may have at most {BODY_LIMIT_BYTES} bytes, got {length}")
        body = self.rfile.read(length)
        if len(body) < length:
            raise _BadBody(400, f"the body ended after {len(body)} of {length} bytes")
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the sidecar counts and logs requests."""


def run_service(name: str, build: Callable[[ShopSettings], Handler]) -> int:
    """Read the environment, serve `build(settings)` until SIGTERM or SIGINT; return the process's exit code."""
    try:
        settings = ShopSettings.from_env(os.environ)
        server = ShopServer(Address(settings.bind, settings.port), build(settings))
    except (BadSetting, OSError) as err:
        print(f"{name}: {err}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    print(f"{name} {settings.version} listens on {server.address}", file=sys.stderr, flush=True)
    return 0 if server.serve() else 1
