"""A client of HTTP/3 for tests: one request, its answer and the certificate that it came with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

SECONDS = 8.0


@dataclass
class Http3Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    serial: int  # of the server's certificate


@dataclass
class _Stream:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._http = H3Connection(self._quic)
        self._streams: dict[int, _Stream] = {}

    async def get(self, host: str, path: str) -> Http3Answer:
        number = self._quic.get_next_available_stream_id()
        stream = self._streams[number] = _Stream()
        names = (b":method", b":scheme", b":authority", b":path")
        values = (b"GET", b"https", host.encode(), path.encode())
        self._http.send_headers(number, list(zip(names, values, strict=True)), end_stream=True)
        self.transmit()
        await stream.ended.wait()
        certificate = self._quic.tls._peer_certificate  # aioquic tells it nowhere else
        assert certificate is not None
        status = int(stream.headers.get(":status", "0"))
        return Http3Answer(status, stream.headers, bytes(stream.body), certificate.serial_number)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for stream in self._streams.values():
                stream.ended.set()
        for one in self._http.handle_event(event):
            self._take(one)

    def _take(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived) or event.stream_id not in self._streams:
            return
        stream = self._streams[event.stream_id]
        if isinstance(event, HeadersReceived):
            stream.headers.update({name.decode(): value.decode() for name, value in event.headers})
        else:
            stream.body += event.data
        if event.stream_ended:
            stream.ended.set()


def http3_get(
    port: int, name: str, path: str, roots: bytes, *, host: str = "", seconds: float = SECONDS
) -> Http3Answer:
    """GET over QUIC from 127.0.0.1, greeting `name`, asking for `host` (the same unless given).

    Raises `OSError` (`TimeoutError`, `ConnectionError`) when there is no answer.
    """

    async def ask() -> Http3Answer:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
        configuration.load_verify_locations(cadata=roots)
        async with (
            asyncio.timeout(seconds),
            connect("127.0.0.1", port, configuration=configuration, create_protocol=_Client) as client,
        ):
            assert isinstance(client, _Client)
            return await client.get(host or name, path)

    return asyncio.run(ask())
