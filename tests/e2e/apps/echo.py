"""A small HTTP server for tests: says who called, on request slowly; `PORT` says where it listens.

`/metrics` says how often it was asked for anything else, as Prometheus' text.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

counting, asked = threading.Lock(), [0]
APP = sys.argv[1] if len(sys.argv) > 1 else ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, the second waits 40 ms for the ACK of the first

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.tell()
            return
        with counting:
            asked[0] += 1
        query = parse_qs(urlsplit(self.path).query)
        time.sleep(float(query.get("sleep", ["0"])[0]))
        body = json.dumps(
            {
                "path": self.path,
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "pid": os.getpid(),
                "app": APP,
            }
        ).encode()
        self.send_response(int(query.get("status", ["200"])[0]))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def tell(self) -> None:
        body = f"# TYPE echo_requests_total counter\necho_requests_total {asked[0]}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at answers."""


def main() -> None:
    server = ThreadingHTTPServer((os.environ.get("BIND", "0.0.0.0"), int(os.environ.get("PORT", "9080"))), Handler)
    server.daemon_threads = False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
