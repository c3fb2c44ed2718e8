"""Servers that write down what a proxy sends them, byte for byte, and answer as little as they must."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["ConnectProxy", "Full", "Tape"]

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2_SETTINGS = bytes(3) + b"\x04" + bytes(5)  # an empty SETTINGS frame
H2_PING = 0x06


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


@dataclass
class Tape:
    """Keeps what came on each connection. `answer` is sent once something came; HTTP/2 clients get their SETTINGS."""

    answer: bytes = b""
    connections: list[bytearray] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        tape = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data = bytearray()
                tape.connections.append(data)
                with suppress(OSError):
                    while chunk := self.request.recv(65536):
                        fresh = not data
                        data += chunk
                        if fresh and data.startswith(H2_PREFACE):
                            self.request.sendall(H2_SETTINGS)
                        elif fresh and tape.answer:
                            self.request.sendall(tape.answer)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def frames(self) -> list[tuple[int, int]]:
        """Return (connection, type) of the HTTP/2 frames that came, in order of their connections."""
        found = []
        for number, data in enumerate(self.connections):
            rest = bytes(data).removeprefix(H2_PREFACE)
            while len(rest) >= 9:
                length = int.from_bytes(rest[:3], "big")
                found.append((number, rest[3]))
                rest = rest[9 + length :]
        return found


@dataclass
class ConnectProxy:
    """A forward proxy over HTTP/1.1: CONNECT, and POST in the way of Envoy; keeps what it was asked for."""

    leads_to: int  # whatever is asked for, connections go to this port
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    head = [self.rfile.readline()]
                    while (line := self.rfile.readline()).strip():
                        head.append(line)
                    proxy.asked.append(b"".join(head).decode())
                    chunked = head[0].startswith(b"POST")
                    with socket.create_connection(("127.0.0.1", proxy.leads_to)) as target:
                        framing = b"transfer-encoding: chunked\r\n" if chunked else b""
                        self.request.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
                        back = threading.Thread(target=self._back, args=(target, chunked), daemon=True)
                        back.start()
                        while data := self._forth(chunked):
                            target.sendall(data)
                        target.shutdown(socket.SHUT_WR)
                        back.join()

            def _forth(self, chunked: bool) -> bytes:
                if not chunked:
                    return self.rfile.read1(65536)  # type: ignore[attr-defined]  # a BufferedReader
                size = int(self.rfile.readline() or b"0", 16)
                data: bytes = self.rfile.read(size)
                self.rfile.readline()
                return data

            def _back(self, target: socket.socket, chunked: bool) -> None:
                with suppress(OSError):
                    while data := target.recv(65536):
                        self.request.sendall(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                    self.request.sendall(b"0\r\n\r\n" if chunked else b"")
                    self.request.shutdown(socket.SHUT_WR)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Full:
    """A port that takes no connection: its queue is full, so that to connect lasts until somebody gives up."""

    def __enter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0)
        self.port: int = self._socket.getsockname()[1]
        self._fillers: list[socket.socket] = []
        for _ in range(8):
            filler = socket.socket()
            filler.settimeout(0.05)
            self._fillers.append(filler)
            if filler.connect_ex(("127.0.0.1", self.port)):
                break
        return self

    def __exit__(self, *_: Any) -> None:
        for filler in self._fillers:
            filler.close()
        self._socket.close()
