"""The small HTTP server on ports that anybody may reach: answers, and everything that is thrown at it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import until

from lateen.wire.http_server import HttpServer, Request, Response, text_response


async def echo(request: Request) -> Response:
    if request.path == "/fails":
        raise RuntimeError("a fault")
    return text_response(200, f"{request.path} {request.query}")


@asynccontextmanager
async def serving(log: Any, **kwargs: Any) -> AsyncIterator[int]:
    server = HttpServer(echo, log, **kwargs)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    await server.serve_socket(sock)
    try:
        yield sock.getsockname()[1]
    finally:
        await server.stop()


async def talk(port: int, data: bytes) -> bytes:
    """Send and return everything until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def get(path: str, *headers: str, version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"GET {path} {version}", "Host: x", *headers, "", ""]).encode()


async def test_answers_and_keeps_the_connection(log: Any) -> None:
    async with serving(log) as port:
        data = await talk(port, get("/a?b=c") + get("/d", "Connection: close") + get("/never"))
        assert data.count(b"HTTP/1.1 200 OK") == 2
        assert b"connection: keep-alive" in data
        assert data.endswith(b"connection: close\r\n\r\n/d ")
        assert b"/a b=c" in data


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", b"405", id="method"),
        pytest.param(b"GET /fails HTTP/1.1\r\n\r\n", b"500", id="a fault of ours"),
        pytest.param(b"GARBAGE\r\n\r\n", b"400", id="one word"),
        pytest.param(b"GET http://evil/ HTTP/1.1\r\n\r\n", b"400", id="absolute form"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", b"505", id="version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", id="HTTP/2 preface"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400", id="header"),
        pytest.param(b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", b"400", id="folded header"),
        pytest.param(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400", id="chunked"),
        pytest.param(b"GET / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", b"413", id="body too large"),
        pytest.param(b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400", id="length"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"431", id="line too long"),
    ],
)
async def test_what_is_refused_gets_a_status(log: Any, request_: bytes, status: bytes) -> None:
    async with serving(log) as port:
        assert (await talk(port, request_)).startswith(b"HTTP/1.1 " + status)
        assert (await talk(port, get("/", "Connection: close"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01\x02\x00\x01", os.urandom(4000), b"\r\n" * 10, b"GET / HTTP/1.1\r\n"]
)
async def test_garbage_hurts_nobody(log: Any, data: bytes) -> None:
    async with serving(log) as port:
        answer = await talk(port, data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert (await talk(port, get("/", "Connection: close"))).startswith(b"HTTP/1.1 200")


async def test_head_has_no_body(log: Any) -> None:
    async with serving(log) as port:
        data = await talk(port, b"HEAD /a HTTP/1.0\r\n\r\n")
        assert b"content-length: 3" in data
        assert data.endswith(b"\r\n\r\n")


async def test_half_open_connections_end(log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.wire.http_server.HEAD_SECONDS", 0.05)
    async with serving(log) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HT")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_silent_connections_do_not_shut_others_out(log: Any) -> None:
    async with serving(log, max_connections=8) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for _ in range(3):
            assert (await talk(port, get("/", "Connection: close"))).startswith(b"HTTP/1.1 200")
        # The first ones made place.
        assert await asyncio.wait_for(silent[0][0].read(), 5) == b""
        for _, writer in silent:
            writer.close()


async def test_a_client_that_does_not_read_is_left(log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.wire.http_server.WRITE_SECONDS", 0.05)

    async def much(_: Request) -> Response:
        return Response(200, b"x" * (32 << 20))

    server = HttpServer(much, log)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    await server.serve_socket(sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1], limit=1024)
    writer.write(get("/"))
    await writer.drain()
    writer.transport.pause_reading()
    await until(lambda: server._open)
    await until(lambda: not server._open)
    writer.close()
    await server.stop()
    del reader


async def test_over_a_unix_socket(log: Any, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("left over")
    server = HttpServer(echo, log)
    await server.serve_path(path)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(get("/a", "Connection: close"))
    assert (await reader.read()).endswith(b"/a ")
    writer.close()
    await server.stop()


async def test_a_large_answer_arrives_whole_before_the_connection_ends(log: Any, tmp_path: Path) -> None:
    body = b"x" * (4 << 20)  # more than the kernel takes at once

    async def large(_: Request) -> Response:
        return Response(200, body)

    server = HttpServer(large, log)
    await server.serve_path(tmp_path / "s")
    try:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(get("/", "connection: close"))
        await asyncio.sleep(0)
        answer = await reader.read()
        assert answer.partition(b"\r\n\r\n")[2] == body
        writer.close()
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("header", "host"),
    [
        pytest.param("host: 127.0.0.1:15014", "127.0.0.1:15014", id="address"),
        pytest.param("host: [::1]:15014", "[::1]:15014", id="IPv6"),
        pytest.param("host: a.example", "a.example", id="name"),
        pytest.param('host: a"b', "", id="no host"),
        pytest.param("x: y", "", id="none"),
    ],
)
async def test_what_it_is_called(log: Any, header: str, host: str) -> None:
    seen: list[str] = []

    async def note(request: Request) -> Response:
        seen.append(request.host)
        return Response(200, b"")

    server = HttpServer(note, log)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await server.serve_socket(sock)
    try:
        await talk(sock.getsockname()[1], f"GET / HTTP/1.1\r\n{header}\r\nconnection: close\r\n\r\n".encode())
        assert seen == [host]
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10.0), ("0.500", 0.5), ("nan", 0.0), ("-1", 0.0), ("1e9", 0.0), ("", 0.0)]
)
async def test_how_long_a_prometheus_waits(log: Any, text: str, seconds: float) -> None:
    seen: list[float] = []

    async def note(request: Request) -> Response:
        seen.append(request.seconds)
        return Response(200, b"")

    server = HttpServer(note, log)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await server.serve_socket(sock)
    try:
        await talk(sock.getsockname()[1], get("/", f"X-Prometheus-Scrape-Timeout-Seconds: {text}", "connection: close"))
        assert seen == [seconds]
    finally:
        await server.stop()
