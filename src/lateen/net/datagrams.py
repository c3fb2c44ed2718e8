"""Carry datagrams between a socket of the host and an address in the mesh, both ways: QUIC to a gateway.

Each client has a socket of its own inside, so that answers find their way back; one that was silent for long is
forgotten. What the kernel does not take at once is dropped, as a network would: who speaks over UDP expects it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

__all__ = ["run_datagram_forwarder"]

MAX_BYTES = 65535
MAX_CLIENTS = 1024  # the one that was silent for longest makes room
AT_ONCE = 64  # datagrams read from one socket before others have their turn
IDLE_SECONDS = 300.0  # longer than QUIC connections stay open without a sign of life
LOOK_SECONDS = 30.0

Client = tuple[str, int]


async def run_datagram_forwarder(outside: socket.socket, host: str, port: int) -> None:
    """Carry what reaches `outside` to `host`:`port` until cancelled; `outside` is closed then."""
    carrier = _Carrier(asyncio.get_running_loop(), outside, (host, port))
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            carrier.forget_idle()
    finally:
        carrier.close()


class _Carrier:
    """The clients of one socket, in order of their last word."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outside: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._outside = outside
        self._target = target
        self._inside: dict[Client, socket.socket] = {}
        self._heard: dict[Client, float] = {}
        outside.setblocking(False)
        loop.add_reader(outside, self._from_outside)

    def forget_idle(self) -> None:
        """Close the sockets of clients that have been silent."""
        limit = self._loop.time() - IDLE_SECONDS
        for client in [client for client, heard in self._heard.items() if heard < limit]:
            self._forget(client)

    def close(self) -> None:
        """Close everything."""
        self._loop.remove_reader(self._outside)
        self._outside.close()
        for client in list(self._inside):
            self._forget(client)

    def _from_outside(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data, client = self._outside.recvfrom(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an earlier answer found nobody
                continue
            inside = self._inside.get(client) or self._open(client)
            # The last one to speak goes last, so that the first is the one to forget.
            self._heard.pop(client, None)
            self._heard[client] = self._loop.time()
            if inside is not None:
                with suppress(OSError):
                    inside.send(data)

    def _open(self, client: Client) -> socket.socket | None:
        if len(self._inside) >= MAX_CLIENTS:
            self._forget(next(iter(self._heard)))
        inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            inside.setblocking(False)
            inside.connect(self._target)
        except OSError:  # no way there; the next datagram tries again
            inside.close()
            return None
        self._inside[client] = inside
        self._loop.add_reader(inside, self._from_inside, client, inside)
        return inside

    def _from_inside(self, client: Client, inside: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                data = inside.recv(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there (yet)
                continue
            with suppress(OSError):
                self._outside.sendto(data, client)

    def _forget(self, client: Client) -> None:
        self._heard.pop(client, None)
        inside = self._inside.pop(client, None)
        if inside is not None:
            self._loop.remove_reader(inside)
            inside.close()
