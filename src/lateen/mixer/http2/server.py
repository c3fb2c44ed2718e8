"""Listens, and makes connections of who comes: plain, or by mutual TLS with whatever certificates are in force then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from lateen.errors import Unavailable
from lateen.mixer.http2.call import Methods
from lateen.mixer.http2.connection import Connection

__all__ = ["GrpcServer"]

BACKLOG: Final = 256
HANDSHAKE_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 1024
PAUSE_SECONDS: Final = 0.02  # where a connection cannot be taken
END_SECONDS: Final = 1.0  # for connections that are broken off

log = structlog.get_logger(__name__)


class GrpcServer:
    """Use `listen` once, and `stop`."""

    def __init__(self, methods: Methods, *, context: Callable[[], ssl.SSLContext] | None = None) -> None:
        """`context` is asked before each handshake; None: there is no TLS."""
        self._methods = methods
        self._context = context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._shaking: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, address: str) -> str:
        """Listen at `unix:PATH`, or at `IP:PORT`; return the address, with the port that was free for 0.

        A socket in the file system is nobody else's from the first moment on. Raises: Unavailable.
        """
        try:
            self._socket = _bound(address)
        except OSError as error:
            raise Unavailable(f"{address}: {error.strerror or error}") from error
        self._accepting = asyncio.create_task(self._accept(self._socket))
        if address.startswith("unix:"):
            return address
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing more; leave what is asked already so long to be answered."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        if self._socket is not None:
            self._socket.close()
        for task in list(self._shaking):
            task.cancel()
        for connection in list(self._connections):
            connection.leave()
        for patience in (grace_seconds, END_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), patience)
            for connection in list(self._connections):
                connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(sock)
            except OSError as error:
                # Too many files: what waits is taken when some are closed.
                log.error("connection not taken", reason=error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if len(self._connections) + len(self._shaking) >= MAX_CONNECTIONS:
                accepted.close()
                continue
            task = asyncio.create_task(self._begin(accepted))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _begin(self, accepted: socket.socket) -> None:
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            tls = self._context() if self._context is not None else None
            _, connection = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._methods, self._lost),
                accepted,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls is not None else None,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            log.warning("connection refused", reason=str(reason).lower().replace("_", " "))
            accepted.close()
            return
        if not connection.over:
            self._connections.add(connection)
            self._empty.clear()


def _bound(address: str) -> socket.socket:
    path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_UNIX if path is not None else socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if path is not None:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, int(port)))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
