"""A server of bytes for tests; `KIND:PORT` words say what is served where. `SERVICE_VERSION` is told in each answer.

lines   repeats each line, the version before it
banner  says "220 VERSION ready" before it is spoken to, as SMTP does, then as lines
whole   reads to the end of what the client sends, then answers its length and version, and ends
tls     as lines, behind TLS of its own: certificate and key are the files CERT and KEY
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer

VERSION = os.environ.get("SERVICE_VERSION", "")
HOST = os.environ.get("BIND", "0.0.0.0")


class Lines(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(VERSION.encode() + b" " + line)


class Banner(Lines):
    def handle(self) -> None:
        self.wfile.write(f"220 {VERSION} ready\n".encode())
        super().handle()


class Whole(StreamRequestHandler):
    def handle(self) -> None:
        total = 0
        while data := self.rfile.read1(65536):
            total += len(data)
        self.wfile.write(f"{VERSION} {total}\n".encode())


class Tls(Lines):
    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()


KINDS = {"lines": Lines, "banner": Banner, "whole": Whole, "tls": Tls}


def main() -> None:
    ThreadingTCPServer.allow_reuse_address = True
    ThreadingTCPServer.daemon_threads = True
    for word in sys.argv[1:]:
        kind, _, port = word.partition(":")
        server = ThreadingTCPServer((HOST, int(port)), KINDS[kind])
        threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
