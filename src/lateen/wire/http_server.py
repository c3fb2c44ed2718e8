"""Answer requests over HTTP/1.1 on sockets that anybody may reach: small, and bounded in every direction.

GET, and where it is told how large a body may be, POST.

A request has 5 s to arrive and 8 kB of space; connections are kept for the next request. When too many are open, the
one that has said nothing for the longest makes place, so silent connections cannot shut others out. With TLS, a
handshake has as long as a request, and counts as saying nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

__all__ = ["HttpServer", "Request", "Response", "text_response"]

MAX_HEAD_BYTES: Final = 8 << 10
HEAD_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 10.0
MAX_CONNECTIONS: Final = 64
MAX_BODY_BYTES: Final = 4096  # of a request; it is read and dropped
_NUMBER: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?", re.ASCII)
_HEXADECIMAL: Final = frozenset(b"0123456789abcdefABCDEF")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str  # without the query
    query: str
    client: str = ""  # its IP address; "" over a Unix socket
    seconds: float = 0.0  # how long a Prometheus that asks will wait; 0.0: nobody says
    content_type: str = ""
    body: bytes = b""  # of POST
    host: str = ""  # as the client calls this server: HOST or HOST:PORT; "" unless it is such a text


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Log(Protocol):
    """Where a fault of the handler is told: an agent's log, or structlog's."""

    def error(self, event: str, **fields: Any) -> Any: ...


Handler = Callable[[Request], Awaitable[Response]]


def text_response(status: int, text: str) -> Response:
    return Response(status, text.encode())


class _Malformed(Exception):
    """The request cannot be answered; holds the status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(HTTPStatus(status).phrase)
        self.status = status


class HttpServer:
    """Serves `handler` on any number of sockets, which it owns."""

    def __init__(
        self,
        handler: Handler,
        log: Log,
        *,
        max_connections: int = MAX_CONNECTIONS,
        tls: Callable[[], ssl.SSLContext] | None = None,
        max_body: int = 0,
    ) -> None:
        """`max_body`: bytes of a POST, which is taken with 1 and more; such a body has `HEAD_SECONDS` to arrive, too.

        `tls` gives the context of each connection as it comes, so certificates change between two; None: plain."""
        self._handler = handler
        self._tls = tls
        self._max_body = max_body
        self._log = log
        self._max = max_connections
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], None] = {}  # for a request, the longest first

    async def serve_socket(self, sock: socket.socket) -> None:
        """Accept on a listening socket from now on."""
        self._servers.append(await asyncio.start_server(self._connected, sock=sock, limit=MAX_HEAD_BYTES))

    async def serve_path(self, path: Path) -> None:
        """Accept on a Unix socket, of its own user alone; one that was left over is replaced. Raises `OSError`."""
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one system call on a local folder
        server = await asyncio.start_unix_server(self._connected, path=str(path), limit=MAX_HEAD_BYTES)
        path.chmod(0o600)  # noqa: ASYNC240  # as above
        self._servers.append(server)

    async def stop(self) -> None:
        """Close every socket and connection."""
        for server in self._servers:
            server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        if len(self._open) > self._max and self._waiting:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._open.discard(oldest)
            oldest.cancel()
        try:
            if len(self._open) <= self._max:
                if self._tls is not None:
                    self._waiting[task] = None
                    # Before anything else is awaited: what the client says first is the handshake's.
                    await writer.start_tls(self._tls(), ssl_handshake_timeout=HEAD_SECONDS)
                await self._serve(reader, writer, task)
        except (OSError, EOFError, TimeoutError):  # `OSError`: a handshake that fails, too
            pass  # the client went away or fell silent
        finally:
            self._open.discard(task)
            self._waiting.pop(task, None)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # a client that does not read its answer is not waited for
            else:
                writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        seconds = HEAD_SECONDS
        keep = True
        # An answer is written when all of it is with the kernel: what is left in here is lost when the connection ends.
        writer.transport.set_write_buffer_limits(high=0)
        while keep:
            self._waiting[task] = None
            try:
                async with asyncio.timeout(seconds):
                    request, keep = await _read_request(reader, _client(writer), self._max_body)
                self._waiting.pop(task, None)
                response = await self._answer(request)
            except _Malformed as error:
                keep = False
                request, response = Request("GET", "", ""), text_response(error.status, f"{error}\n")
            await _write(writer, request, response, keep=keep)
            seconds = IDLE_SECONDS

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD") and not (request.method == "POST" and self._max_body):
            return text_response(405, "GET wanted\n")
        try:
            return await self._handler(request)
        except Exception as error:  # one request must not end the connections of others
            self._log.error("request failed", path=request.path, reason=f"{type(error).__name__}: {error}")
            return text_response(500, "internal error\n")


def _client(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


async def _read_request(reader: asyncio.StreamReader, client: str, max_body: int) -> tuple[Request, bool]:
    """Return the next request, and whether the connection goes on after it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _Malformed(431) from error
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1].startswith("/"):
        raise _Malformed(400)
    if words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise _Malformed(505)
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _Malformed(400)
        headers[name.lower()] = value.strip()
    body = await _read_body(reader, headers, max_body if words[0] == "POST" else 0)
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection and (words[2] == "HTTP/1.1" or "keep-alive" in connection)
    path, _, query = words[1].partition("?")
    host = headers.get("host", "")
    request = Request(
        words[0],
        path,
        query,
        client,
        seconds=_seconds(headers.get("x-prometheus-scrape-timeout-seconds", "")),
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        body=body if words[0] == "POST" else b"",
        host=host if _HOST.fullmatch(host) else "",
    )
    return request, keep


def _seconds(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else 0.0


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str], most: int) -> bytes:
    if "transfer-encoding" in headers:
        # Where nothing takes a body, what comes after one could be misread; and both lengths are smuggling.
        if not most or headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
            raise _Malformed(400)
        return await _read_chunks(reader, most)
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdecimal() or len(length) > 12 or int(length) > max(most, MAX_BODY_BYTES):
        raise _Malformed(413 if length.isdecimal() else 400)
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    left = most
    try:
        while True:
            text = (await reader.readuntil(b"\r\n"))[:-2].split(b";")[0].strip()
            if not 0 < len(text) <= 8 or not _HEXADECIMAL.issuperset(text):
                raise _Malformed(400)
            size = int(text, 16)
            if size > left:
                raise _Malformed(413)
            if not size:
                break
            left -= size
            parts.append(await reader.readexactly(size))
            if await reader.readexactly(2) != b"\r\n":
                raise _Malformed(400)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            left -= 1  # trailers: read and dropped, as many as a body could have bytes
            if left < 0:
                raise _Malformed(400)
    except asyncio.LimitOverrunError as error:
        raise _Malformed(400) from error
    return b"".join(parts)


async def _write(writer: asyncio.StreamWriter, request: Request, response: Response, *, keep: bool) -> None:
    head = (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        f"content-type: {response.content_type}\r\n"
        f"content-length: {len(response.body)}\r\n"
        f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    writer.write(head.encode() + (b"" if request.method == "HEAD" else response.body))
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()
