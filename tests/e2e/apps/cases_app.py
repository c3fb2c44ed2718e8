"""The application of the traffic cases: HTTP on 8080 and 8090, lines on 9000, TLS (with a line inside) on 9443.

An HTTP answer is JSON: who answered (`service`, `version`), on which `port`, and what was `seen`. The query steers it:
`status=503`, `sleep=0.5`, `header=name:value` of the answer, `fail=2` (so many 503s for this path and `key` first).
What was asked is kept: `/_seen?id=X` tells the requests whose header `x-case-id` is X.

Started as: cases_app.py SERVICE VERSION.
"""

from __future__ import annotations

import datetime
import json
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SERVICE, VERSION = sys.argv[1], sys.argv[2]
EVERYWHERE = "0.0.0.0"
KEPT = 1000  # requests that are remembered

seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
failed: Counter[str] = Counter()


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, the second waits 40 ms for the ACK of the first

    def answer(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/_seen":
            self.say(200, seen.get(query.get("id", [""])[0], []))
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(errors="replace")
        asked = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): ",".join(self.headers.get_all(name, ())) for name in self.headers},
            "body": body,
        }
        if len(seen) > KEPT:
            seen.clear()
        seen[self.headers.get("x-case-id", "")].append(asked)
        time.sleep(float(query.get("sleep", ["0"])[0]))
        status = int(query.get("status", ["200"])[0])
        key = url.path + query.get("key", [""])[0]
        if failed[key] < int(query.get("fail", ["0"])[0]):
            failed[key] += 1
            status = 503
        extra = [entry.partition(":") for entry in query.get("header", [])]
        self.say(
            status,
            {"service": SERVICE, "version": VERSION, "port": self.server.server_address[1], "seen": asked},
            {name: value for name, _, value in extra},
        )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer  # http.server's names

    def say(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Keep quiet: the tests look at answers."""


class Lines(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(f"{SERVICE} {VERSION} ".encode() + line)


class TlsLines(Lines):
    def setup(self) -> None:
        self.request = context().wrap_socket(self.request, server_side=True)
        super().setup()


_context: list[ssl.SSLContext] = []


def context() -> ssl.SSLContext:
    """Return TLS with a certificate of its own: what passes through the mesh is the application's business."""
    if not _context:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVICE)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=12))
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate.public_bytes(pem))
            file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
            file.flush()
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.load_cert_chain(file.name)
        _context.append(made)
    return _context[0]


def main() -> None:
    context()
    ThreadingTCPServer.allow_reuse_address = True
    ThreadingTCPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    for server in (
        ThreadingHTTPServer((EVERYWHERE, 8080), Http),
        ThreadingHTTPServer((EVERYWHERE, 8090), Http),
        ThreadingTCPServer((EVERYWHERE, 9000), Lines),
        ThreadingTCPServer((EVERYWHERE, 9443), TlsLines),
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
