"""Carry bytes between connections accepted on the host and an address in the mesh, both ways, as they come.

Half-close and resets pass through; a slow reader slows its writer. Reading goes through one buffer for all connections:
asyncio fills it and hands it over before anything else runs.
"""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["run_forwarder"]

CONNECT_SECONDS = 5.0
BACKLOG = 1024
BUFFER_BYTES = 256 * 1024
HIGH_WATER_BYTES = 1024 * 1024  # waiting to be written, before the other side is no longer read

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time
_buffer = memoryview(bytearray(BUFFER_BYTES))


async def run_forwarder(listener: socket.socket, host: str, port: int) -> None:
    """Accept on `listener` until cancelled; its connections are reset, and it is closed, then.

    Whoever connects while nobody listens at `host`:`port` is reset as well.
    """
    loop = asyncio.get_running_loop()
    standing: set[_Side] = set()
    server = await loop.create_server(lambda: _Accepted(host, port, standing), sock=listener, backlog=BACKLOG)
    try:
        await loop.create_future()  # until cancelled
    finally:
        server.close()
        for side in tuple(standing):
            side.reset()


class _Side(asyncio.BufferedProtocol):
    """One end of a carried connection."""

    def __init__(self, standing: set[_Side]) -> None:
        self._standing = standing
        self._transport: asyncio.Transport | None = None
        self._ended = False  # nothing more will be read here
        # What came before there was anybody to pass it to. Pausing in `connection_made` does not keep it out: until
        # CPython 3.11.5 a transport starts reading after that all the same (Debian 12 has 3.11.2).
        self._early = bytearray()
        self._peer: _Side | None = None

    def pair_with(self, peer: _Side) -> None:
        """From now on what is read here is written there, and the other way round."""
        self._peer, peer._peer = peer, self
        for side, other in ((self, peer), (peer, self)):
            if side._early and other._transport:
                other._transport.write(bytes(side._early))
                side._early.clear()
            if side._ended and other._transport:
                other._transport.write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport
        self._standing.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._peer and self._peer._transport:
            self._peer._transport.write(_buffer[:nbytes])  # what the kernel does not take at once is copied there
        else:
            self._early += _buffer[:nbytes]
            if len(self._early) > HIGH_WATER_BYTES:
                self.reset()  # nobody sends so much before the first answer and means well

    def eof_received(self) -> bool:
        self._ended = True
        if self._peer is None:
            return True  # passed on once there is somebody to tell
        if not self._peer._transport or self._peer._ended:
            return False  # the transport writes what it still has and closes; the other side follows
        self._peer._transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._peer:
            self._peer.pause()

    def resume_writing(self) -> None:
        if self._peer:
            self._peer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._standing.discard(self)
        peer, self._peer = self._peer, None
        if not peer:
            return
        peer._peer = None
        if exc is None and peer._transport:
            peer._transport.close()
        else:
            peer.reset()

    def pause(self) -> None:
        """Stop reading for now."""
        if self._transport and not self._ended:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport and not self._ended:  # a transport that met the end would report it a second time
            self._transport.resume_reading()

    def reset(self) -> None:
        """Close at once, and let the other machine know that it was not in order."""
        if self._transport and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()


class _Accepted(_Side):
    """The host's end: connects to the mesh before it reads."""

    def __init__(self, host: str, port: int, standing: set[_Side]) -> None:
        super().__init__(standing)
        self._host, self._port = host, port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.pause()
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connecting:
            self._connecting.cancel()
        super().connection_lost(exc)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, inside = await loop.create_connection(lambda: _Side(self._standing), self._host, self._port)
        except OSError:  # TimeoutError is one
            self.reset()
            return
        inside.pair_with(self)
        self.resume()
