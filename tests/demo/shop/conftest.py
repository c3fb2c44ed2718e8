"""Starts the shop's real processes on loopback, and speaks HTTP to them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens there


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Service:
    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: Any = None) -> Reply:
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            conn.request(method, path, body=body, headers=dict(headers or {}))
            response = conn.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, fields, response.read())
        finally:
            conn.close()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)


Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start one service by name; keyword arguments are its environment. Returns once it listens."""
    running: list[subprocess.Popen[str]] = []

    def run(name: str, **env: str) -> Service:
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        # Upstreams that a test does not name are refused at once, whatever this machine's DNS knows.
        nowhere = {f"{upstream}_ADDRESS": UNUSED for upstream in ("DETAILS", "REVIEWS", "RATINGS")}
        process = subprocess.Popen(
            [sys.executable, "-m", f"lateen.demo.shop.{name}"],
            env={**clean, **nowhere, "PORT": "0", "BIND": "127.0.0.1", **env},
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listens on" in line, line
        return Service(process, line.split()[-1])

    yield run
    for process in running:
        process.kill()
        process.communicate()


@dataclass
class FakeUpstream:
    """An HTTP server that says what a test tells it to, and remembers what it was asked."""

    answer: Callable[[str], tuple[int, Any]]
    release: threading.Event = field(default_factory=threading.Event)  # answers wait for it
    asked: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # request target, headers
    connections: set[int] = field(default_factory=set)
    address: str = ""


@pytest.fixture
def upstream() -> Iterator[Callable[..., FakeUpstream]]:
    """Serve `answer(target) -> (status, JSON)`; `held=True` keeps answers back until `release` is set."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread, FakeUpstream]] = []

    def serve(answer: Callable[[str], tuple[int, Any]], held: bool = False) -> FakeUpstream:
        fake = FakeUpstream(answer)
        if not held:
            fake.release.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                fake.connections.add(self.client_address[1])
                fake.asked.set()
                fake.release.wait(20)
                status, value = fake.answer(self.path)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test's output clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that gave up waiting is what some tests want."""

        server = Server(("127.0.0.1", 0), Handler)
        fake.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread, fake))
        return fake

    yield serve
    for server, thread, fake in servers:
        fake.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
