"""Serve many ports: `http:PORT` answers as echo.py does and says on which port, `tcp:PORT` repeats each line.

`tls:PORT` is HTTP over TLS with `CERT` and `KEY`; with `CLIENTS`, roots, it takes only clients that these vouch for.
`SERVICE_VERSION` is told in each answer: in JSON, or before the line. Listens on every address, or on `BIND`.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

VERSION = os.environ.get("SERVICE_VERSION", "")


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, the second waits 40 ms for the ACK of the first

    def do_GET(self) -> None:
        body = json.dumps(
            {
                "version": VERSION,
                "port": self.server.server_address[1],
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "client": self.client_names(),
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def client_names(self) -> list[str]:
        """Return the names in the certificate that the client showed."""
        if not isinstance(self.connection, ssl.SSLSocket):
            return []
        shown: dict[str, Any] = dict(self.connection.getpeercert() or {})
        return [name for _, name in shown.get("subjectAltName", ())]

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at answers."""


class Lines(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(VERSION.encode() + b" " + line)


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
    if clients := os.environ.get("CLIENTS"):
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def main() -> None:
    ThreadingTCPServer.allow_reuse_address = True
    ThreadingTCPServer.daemon_threads = True
    for word in sys.argv[1:]:
        kind, _, port = word.partition(":")
        where = (os.environ.get("BIND", "0.0.0.0"), int(port))
        server = ThreadingTCPServer(where, Lines) if kind == "tcp" else ThreadingHTTPServer(where, Http)
        if kind == "tls":
            server.socket = tls_context().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
