"""External authorizers that answer as a test tells them, and keep what they were asked: over HTTP and over gRPC."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationServicer, add_AuthorizationServicer_to_server
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.rpc.status_pb2 import Status

__all__ = ["GrpcAuthorizer", "HttpAuthorizer", "Question"]


@dataclass
class Question:
    """What an authorizer was asked. `path` is "" for connections."""

    path: str
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    principal: str = ""


class HttpAuthorizer:
    """Asked by HTTP. `verdict` gives (status, headers) of each answer: 200 lets in."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.verdict: Callable[[Question], tuple[int, dict[str, str]]] = lambda _: (200, {})
        self.port = 0

    def __enter__(self) -> Self:
        authorizer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536

            def do_GET(self) -> None:  # http.server's name
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                question = Question(self.path, self.command, headers, self.rfile.read(length).decode())
                authorizer.asked.append(question)
                status, more = authorizer.verdict(question)
                body = json.dumps({"authorizer": status}).encode()
                self.send_response(status)
                for name, value in {**more, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_GET  # http.server's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcAuthorizer(AuthorizationServicer):  # type: ignore[misc]
    """Asked by `envoy.service.auth.v3.Authorization`. `verdict` gives (status, headers): 200 lets in."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.verdict: Callable[[Question], tuple[int, dict[str, str]]] = lambda _: (200, {})
        self.port = 0

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        add_AuthorizationServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def Check(self, request: CheckRequest, context: Any) -> CheckResponse:  # gRPC's name
        http = request.attributes.request.http
        question = Question(
            http.path,
            http.method,
            dict(http.headers),
            http.body or http.raw_body.decode(),
            request.attributes.source.principal,
        )
        self.asked.append(question)
        status, more = self.verdict(question)
        headers = [HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in more.items()]
        if status == 200:
            return CheckResponse(status=Status(code=0), ok_response=OkHttpResponse(headers=headers))
        denied = DeniedHttpResponse(status=HttpStatus(code=status), headers=headers, body="no")
        return CheckResponse(status=Status(code=7), denied_response=denied)
