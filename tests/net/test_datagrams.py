"""Datagrams between the host and an address: each client's answers find their way back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from lateen.net import datagrams
from lateen.net.datagrams import run_datagram_forwarder

SECONDS = 5.0


class Echo(asyncio.DatagramProtocol):
    """Sends back what it gets, with a name before it, and remembers from where it came."""

    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.peers.append(addr)
        self.transport.sendto(b"echo:" + data, addr)  # type: ignore[attr-defined]  # a DatagramTransport


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    socks = [bound() for _ in range(3)]
    for sock in socks:
        sock.setblocking(False)
    yield socks
    for sock in socks:
        sock.close()


async def ask(sock: socket.socket, port: int, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(sock, data, ("127.0.0.1", port))
    async with asyncio.timeout(SECONDS):
        return await loop.sock_recv(sock, 65535)


async def test_each_client_gets_its_own_answers(clients: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    outside = bound()
    port = outside.getsockname()[1]
    task = loop.create_task(run_datagram_forwarder(outside, *transport.get_extra_info("sockname")))
    try:
        await asyncio.sleep(0)  # it listens from its first step on
        large = b"x" * 20_000
        answers = await asyncio.gather(*(ask(sock, port, large + bytes([i])) for i, sock in enumerate(clients)))
        assert answers == [b"echo:" + large + bytes([i]) for i in range(len(clients))]
        assert await ask(clients[0], port, b"again") == b"echo:again"
        assert len(set(echo.peers)) == len(clients)  # one way in for each, kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        transport.close()
    assert outside.fileno() == -1


async def test_nobody_at_the_other_end_is_waited_for(clients: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    target = bound()
    address = target.getsockname()
    target.close()
    outside = bound()
    port = outside.getsockname()[1]
    task = loop.create_task(run_datagram_forwarder(outside, *address))
    try:
        await asyncio.sleep(0)
        for _ in range(3):
            await loop.sock_sendto(clients[0], b"lost", ("127.0.0.1", port))
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=address)
        try:
            async with asyncio.timeout(SECONDS):  # what was sent before may still arrive: UDP
                while await ask(clients[0], port, b"found") != b"echo:found":
                    pass
        finally:
            transport.close()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_client_that_was_silent_for_longest_makes_room(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "MAX_CLIENTS", 2)
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    outside = bound()
    port = outside.getsockname()[1]
    task = loop.create_task(run_datagram_forwarder(outside, *transport.get_extra_info("sockname")))
    try:
        await asyncio.sleep(0)
        for sock in (clients[0], clients[1], clients[0], clients[2], clients[0]):
            assert await ask(sock, port, b"hello") == b"echo:hello"
        # The second one went when the third came; the first, heard in between, kept its way in.
        assert echo.peers[0] == echo.peers[2] == echo.peers[4]
        assert await ask(clients[1], port, b"back") == b"echo:back"
        assert echo.peers[5] != echo.peers[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        transport.close()
