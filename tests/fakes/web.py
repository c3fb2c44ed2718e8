"""A web server that says exactly what a test has it say, honest or not, over real sockets, with or without TLS."""

from __future__ import annotations

import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DNSName
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of

__all__ = ["Drip", "Web", "json_answer", "redirect"]


class Drip:
    """An answer that comes a byte at a time, each after `seconds`, for as long as anybody listens."""

    def __init__(self, start: bytes, seconds: float) -> None:
        self.start = start
        self.seconds = seconds


def json_answer(body: str | bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    web: Web

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is what several tests are about."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def setup(self) -> None:
        if self.server.web.context is not None:
            self.request = self.server.web.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()  # around TLS the server knows the bare socket only

    def handle(self) -> None:
        web = self.server.web
        line = self.rfile.readline(8192).decode("latin-1").split(" ")
        headers = {}
        while (text := self.rfile.readline(8192).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        path = line[1] if len(line) > 1 else ""
        with web.lock:
            web.asked.append((path, headers))
            answer = web.answers.get(path.partition("?")[0], json_answer("{}", status="404 Not Found"))
        if isinstance(answer, Drip):
            self.wfile.write(answer.start)
            while True:
                time.sleep(answer.seconds)
                self.wfile.write(b" ")
        self.wfile.write(answer)


class Web:
    """Serves `answers` (path -> the whole answer) on `host`; what was asked stands in `asked` as (path, headers).

    `names`: it speaks TLS and proves these names by a certificate of `authority`. Use it as a context.
    """

    def __init__(
        self,
        answers: Mapping[str, bytes | Drip] | None = None,
        *,
        host: str = "127.0.0.1",
        authority: StrangeAuthority | None = None,
        names: Iterable[str] = (),
        port: int = 0,
    ) -> None:
        self.answers: dict[str, bytes | Drip] = dict(answers or {})
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.context: ssl.SSLContext | None = None
        self.host = host
        if authority is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = authority.certify(key, names=[DNSName(name) for name in names])
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "chain.pem"
                path.write_bytes(pem_of(certificate) + key_pem(key))
                self.context.load_cert_chain(path)
        self._server = _Server((host, port), _Handler)
        self._server.web = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def paths(self) -> list[str]:
        with self.lock:
            return [path for path, _ in self.asked]

    def url(self, path: str = "/", host: str = "") -> str:
        return f"{'https' if self.context is not None else 'http'}://{host or self.host}:{self.port}{path}"

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
