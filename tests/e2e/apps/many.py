"""Serve many ports: `http:PORT` answers as echo.py does and says on which port, `tcp:PORT` repeats each line.

`SERVICE_VERSION` is told in each answer: in JSON, or before the line. Listens on every address, or on `BIND`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer

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
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at answers."""


class Lines(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(VERSION.encode() + b" " + line)


def main() -> None:
    ThreadingTCPServer.allow_reuse_address = True
    ThreadingTCPServer.daemon_threads = True
    for word in sys.argv[1:]:
        kind, _, port = word.partition(":")
        where = (os.environ.get("BIND", "0.0.0.0"), int(port))
        server = ThreadingHTTPServer(where, Http) if kind == "http" else ThreadingTCPServer(where, Lines)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
