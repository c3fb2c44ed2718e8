"""An application for tests: `/slow` answers when `/release` was asked for, everything else at once.

`/metrics` is OpenMetrics.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/release":
            released.set()
        if self.path == "/slow":
            released.wait(20)
        body = f"{os.getpid()} {self.path}".encode()
        self.send_response(200)
        if self.path == "/metrics":
            body = b"# TYPE orders counter\norders_total 7\n# EOF\n"
            self.send_header("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Server((os.environ.get("BIND", "0.0.0.0"), int(os.environ["PORT"])), Handler).serve_forever()
