"""One HTTP/1.1 request and its answer over a connection, within bounds. `h11` reads what the server says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

from lateen.fetch.errors import FetchError
from lateen.fetch.urls import Target

__all__ = ["Answer", "exchange"]

HEADER_BYTES: Final = 32 * 1024
READ_BYTES: Final = 16 * 1024
USER_AGENT: Final = "lateen"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are lower case; of one that came twice the last stands."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: Target,
    *,
    max_bytes: int,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    connection: h11.Connection | None = None,
) -> Answer:
    """Send one request and return its answer. Raises `FetchError` when it is no HTTP, cut off, or too large.

    `connection`: what is known of one that was used before, and may be used again after this.

    The body is asked for and taken as it is: one that is compressed is refused, so that a few bytes never become many.
    """
    if connection is None:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES)
    fields = {
        "host": target.authority,
        "user-agent": USER_AGENT,
        "accept": "application/json, */*;q=0.1",
        "accept-encoding": "identity",
        "connection": "close",
        **({"content-length": str(len(body))} if body else {}),
        **(headers or {}),
    }
    try:
        request = h11.Request(method=method, target=target.path, headers=list(fields.items()))
        sent = connection.send(request) or b""
        if body:
            sent += connection.send(h11.Data(data=body)) or b""
        sent += connection.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError as error:
        raise FetchError("url", f"{target.shown}: cannot be asked for: {error}") from None
    try:
        writer.write(sent)
        await writer.drain()
        return await _answer(connection, reader, target, max_bytes)
    except h11.RemoteProtocolError as error:
        raise FetchError("malformed", f"{target.shown}: the answer is no HTTP, or cut off: {error}") from None
    except OSError as error:
        raise FetchError("connect", f"{target.shown}: {error.strerror or 'the connection broke'}") from error


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, target: Target, max_bytes: int) -> Answer:
    status, headers, parts, size, raw = 0, dict[str, str](), list[bytes](), 0, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(READ_BYTES)
            raw += len(data)
            # Around the body, too, no more is read than is worth it: chunks of one byte, endless trailers.
            if raw > 2 * max_bytes + 2 * HEADER_BYTES:
                raise _too_large(target, max_bytes)
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise FetchError("malformed", f"{target.shown}: the answer is compressed, which was not asked for")
            if int(headers.get("content-length", "0")) > max_bytes:
                raise _too_large(target, max_bytes)
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > max_bytes:
                raise _too_large(target, max_bytes)
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, headers, b"".join(parts))
        elif isinstance(event, h11.ConnectionClosed):
            raise FetchError("malformed", f"{target.shown}: closed without an answer")


def _too_large(target: Target, max_bytes: int) -> FetchError:
    return FetchError("too-large", f"{target.shown}: the answer has more than {max_bytes} bytes")
