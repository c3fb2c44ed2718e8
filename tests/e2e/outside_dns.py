"""The DNS of the world outside of a mesh, on the host: names below one domain are one address, others do not exist."""

from __future__ import annotations

import socketserver
import threading
from typing import Any, Self

import dnslib

__all__ = ["OutsideDns"]

DOMAIN = ".outside.test"


class OutsideDns:
    """Answers over UDP on `port`. Use as a context manager; `address` is what names are, once it is known."""

    def __init__(self) -> None:
        self.address = ""
        outside = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                sock.sendto(outside.answer(data), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answer(self, data: bytes) -> bytes:
        query = dnslib.DNSRecord.parse(data)
        reply = query.reply()
        if not self.address or not str(query.q.qname).rstrip(".").lower().endswith(DOMAIN):
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif query.q.qtype == dnslib.QTYPE.A:
            reply.add_answer(dnslib.RR(query.q.qname, ttl=60, rdata=dnslib.A(self.address)))
        return bytes(reply.pack())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
