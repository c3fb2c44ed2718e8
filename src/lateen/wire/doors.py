"""Who is let in to a gRPC server: connections are accepted here, looked at, and handed on to a port without a name.

gRPC's Python server does not tell the credentials of a Unix socket's peer, and takes one kind of TLS client a port. A
`Door` accepts, asks its admission (the kernel's word on the peer's user, or what a TLS client says first), and relays
bytes to a `HiddenPort`: a Unix socket whose name is removed as soon as it is bound, so that only this process, which
holds its descriptor, can connect. What is known of the peer travels as the name of the relay's own end, which gRPC
shows as `context.peer()`; `peer_text` reads it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from lateen.errors import Refused, Unavailable
from lateen.wire.peer import PEER_PREFIX

__all__ = [
    "CONNECTIONS_OF_ONE",
    "Admission",
    "Admitted",
    "Door",
    "HiddenPort",
    "LocalUsers",
    "address_text",
    "listen_local",
    "local_door",
    "peer_process",
]

BACKLOG: Final = 4096
CONNECTIONS: Final = 20_000  # of one door; each takes three descriptors
CONNECTIONS_OF_ONE: Final = 64  # of one process, where certificates are asked for; an agent has three
ADMISSION_SECONDS: Final = 10.0  # for a connection to say what admission waits for
FULL_SECONDS: Final = 0.1  # pause when this process has no descriptor left
BUSY_SECONDS: Final = 0.01  # pause when the server has not accepted what waits
BUSY_TRIES: Final = 500
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred, unix(7)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Where a connection goes, who it is for the record, and what was read from it already."""

    port: HiddenPort
    peer: str  # ASCII, at most 60 characters
    first: bytes = b""
    source: str = ""  # who is not to take up the door alone: a process, an address; "": nobody is counted


class Log(Protocol):
    """Where is told what goes on at a door: an agent's log, or structlog's."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


# Raises `Refused` for a connection that is to be closed.
Admission = Callable[[socket.socket], Awaitable[Admitted]]


class HiddenPort:
    """A port of a `grpc.aio` server, to be opened before the server starts, that has no name in any file system."""

    def __init__(self, server: Any, folder: Path, credentials: Any = None) -> None:
        """`folder` is for the moment in which the socket has a name. Raises `OSError`."""
        with tempfile.TemporaryDirectory(prefix=".p", dir=folder) as private:  # mode 0700
            path = f"{private}/s"
            if credentials is None:
                server.add_insecure_port(f"unix:{path}")
            else:
                server.add_secure_port(f"unix:{path}", credentials)
            self._descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)

    async def connect(self, peer: str) -> socket.socket:
        """Return a connection that gRPC shows as `peer`'s. Raises `Unavailable`, `OSError`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # Nobody else's in this network namespace, nor to be known before: whoever had such names first, and anybody
            # may bind any, would keep others out.
            sock.bind(f"\0{PEER_PREFIX}{secrets.token_hex(8)}/{peer}")
            for _ in range(BUSY_TRIES):
                try:
                    # The kernel follows the descriptor to the socket, although its name is gone.
                    sock.connect(f"/proc/self/fd/{self._descriptor}")
                except BlockingIOError:  # unix(7): as many wait as listen(2) allows
                    await asyncio.sleep(BUSY_SECONDS)
                else:
                    return sock
            raise Unavailable("the server accepts no connections")
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Let nobody in any more; what is connected stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Door:
    """Accepts on one listening socket, which it owns, and relays whom `admit` lets in. `run` until cancelled.

    `on_refused` is told why somebody was not let in. `refused` and `admitted` count; `open` is how many are inside.
    """

    def __init__(
        self,
        listener: socket.socket,
        admit: Admission,
        *,
        on_refused: Callable[[str], None],
        connections: int = CONNECTIONS,
        connections_of_one: int = CONNECTIONS,
        admission_seconds: float = ADMISSION_SECONDS,
        log: Log | None = None,
    ) -> None:
        """`connections_of_one`: of what `Admitted.source` names, out of all `connections`.

        `log` is structlog's unless given: agents do without that library, which costs 6 MB.
        """
        if log is None:
            import structlog

            log = structlog.get_logger(__name__)
        listener.setblocking(False)
        self.admitted = 0
        self.refused = 0
        self._listener = listener
        self._admit = admit
        self._on_refused = on_refused
        self._connections = connections
        self._connections_of_one = connections_of_one
        self._sources: Counter[str] = Counter()
        self._admission_seconds = admission_seconds
        self._log: Log = log
        self._entering: set[asyncio.Task[None]] = set()
        self._inside: set[_Pipe] = set()

    @property
    def address(self) -> str:
        """Where it listens: a path, or `IP:PORT`."""
        name = self._listener.getsockname()
        return str(name) if isinstance(name, str) else address_text(name)

    @property
    def open(self) -> int:
        return len(self._entering) + len(self._inside)

    async def run(self) -> None:
        """Accept until cancelled; then close everything."""
        loop = asyncio.get_running_loop()
        told_full = False
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._listener)
                except OSError as error:  # no descriptors, or a connection that was gone again
                    if not told_full:
                        self._log.error("connection not accepted", reason=str(error))
                        told_full = True
                    await asyncio.sleep(FULL_SECONDS)
                    continue
                told_full = False
                if self.open >= self._connections:
                    sock.close()
                    self.refused += 1
                    self._log.warning("connection refused", reason=f"{self.open} are open already")
                    continue
                task = asyncio.create_task(self._enter(sock), name="connection enters")
                self._entering.add(task)
                task.add_done_callback(self._entering.discard)
        finally:
            self._listener.close()
            for task in self._entering:
                task.cancel()
            await asyncio.gather(*self._entering, return_exceptions=True)
            for pipe in tuple(self._inside):
                pipe.abort()

    async def _enter(self, sock: socket.socket) -> None:
        up: socket.socket | None = None
        try:
            sock.setblocking(False)
            async with asyncio.timeout(self._admission_seconds):
                admitted = await self._admit(sock)
                self._count(admitted.source)
                try:
                    up = await admitted.port.connect(admitted.peer)
                    await self._relay(sock, up, admitted)
                except BaseException:
                    self._uncount(admitted.source)
                    raise
        except Refused as error:
            _close(sock, up)
            self.refused += 1
            self._on_refused(str(error))
        except (OSError, Unavailable, TimeoutError) as error:
            _close(sock, up)
            self._log.info("connection not served", reason=str(error) or "said nothing in time")
        except BaseException:
            _close(sock, up)
            raise

    def _count(self, source: str) -> None:
        if source and self._sources[source] >= self._connections_of_one:
            self.refused += 1
            raise Unavailable(f"{self._sources[source]} connections of {source} are open already")
        self._sources[source] += 1

    async def _relay(self, sock: socket.socket, up: socket.socket, admitted: Admitted) -> None:
        """Begin to relay. What has begun is counted out when it ends; what raises is the caller's to count out."""
        loop = asyncio.get_running_loop()
        outer, inner = _Pipe(), _Pipe()
        outer.other, inner.other = inner, outer
        await loop.connect_accepted_socket(lambda: inner, up)
        assert inner.transport is not None
        inner.transport.pause_reading()  # until there is somebody to write to
        inner.transport.write(admitted.first)
        try:
            await loop.connect_accepted_socket(lambda: outer, sock)
            if inner.lost:
                raise OSError("the server closed the connection")
        except BaseException:
            inner.abort()
            raise
        inner.on_lost = lambda: self._leave(inner, admitted.source)
        self._inside.add(inner)
        self.admitted += 1
        inner.transport.resume_reading()

    def _leave(self, pipe: _Pipe, source: str) -> None:
        self._inside.discard(pipe)
        self._uncount(source)

    def _uncount(self, source: str) -> None:
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]


class _Pipe(asyncio.Protocol):
    """One end of a relay. What one end receives the other sends; a slow end stops the other from reading."""

    def __init__(self) -> None:
        self.other: _Pipe | None = None
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.on_lost: Callable[[], None] | None = None

    def abort(self) -> None:
        for pipe in (self, self.other):
            if pipe is not None and pipe.transport is not None:
                pipe.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()  # once all is sent
        self.lost = True
        if self.on_lost is not None:
            self.on_lost()


class LocalUsers:
    """Admits the connections of these users, as the kernel names them (SO_PEERCRED: whoever called connect(2))."""

    def __init__(self, port: HiddenPort, where: str, users: Collection[int]) -> None:
        self._port = port
        self._where = where  # named in refusals
        self._users = frozenset(users)

    async def __call__(self, sock: socket.socket) -> Admitted:
        pid, uid = peer_process(sock)
        if uid not in self._users:
            raise Refused(
                f"{self._where}: connection of user {uid}, process {pid}; only user {os.geteuid()} and root may connect"
            )
        return Admitted(self._port, f"uid={uid},pid={pid}", source=str(pid))


def peer_process(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end of a Unix socket: of whoever called connect(2), when they did."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid), int(uid)


def _close(*socks: socket.socket | None) -> None:
    for sock in socks:
        if sock is not None:
            sock.close()


def address_text(name: Any) -> str:
    """Return what getsockname(2) and getpeername(2) give for an IP socket as `IP:PORT`, `[IP]:PORT`."""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def listen_local(path: Path) -> socket.socket:
    """Return a listening Unix socket of mode 0600 in place of what was at `path`. Raises `OSError`."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # before it listens, nobody can connect
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def local_door(
    server: Any, path: Path, on_refused: Callable[[str], None], *, connections_of_one: int = CONNECTIONS
) -> AsyncIterator[Door]:
    """Serve a `grpc.aio` server that is about to start at `path`, for this process's user and root only.

    The folder's mode alone would decide otherwise, and one careless chmod would give any user any identity.
    """
    port = HiddenPort(server, path.parent)
    door = Door(
        listen_local(path),
        LocalUsers(port, str(path), {os.geteuid(), 0}),
        on_refused=on_refused,
        connections_of_one=connections_of_one,
    )
    task = asyncio.create_task(door.run(), name=f"door {path.name}")
    try:
        yield door
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        port.close()
