"""How a port of the host reaches into the mesh."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Iterator

import pytest

from lateen.errors import BadInput
from lateen.net.client import Attachment, Lease

pytestmark = pytest.mark.netns

SIZE = 10 * 1024 * 1024


@pytest.fixture
def lease(shared_lease: Lease) -> Lease:
    return shared_lease


@pytest.fixture
def gateway(lease: Lease) -> Iterator[Attachment]:
    """Any listening socket inside will do: the one for health is there already."""
    attachment = lease.attach("gateway", None)
    yield attachment
    attachment.close()


@pytest.fixture
def front(lease: Lease, gateway: Attachment) -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lease.forward(listener, gateway.ip, 15021)
        address: tuple[str, int] = listener.getsockname()
    return address


async def accept(gateway: Attachment) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        sock, _ = await asyncio.get_running_loop().sock_accept(gateway.sockets["health"])
    return await asyncio.open_connection(sock=sock)


def call_and_read(client: socket.socket, address: tuple[str, int]) -> bytes:
    client.connect(address)
    return client.recv(1)


async def test_ten_megabytes_there_and_back_with_half_close(front: tuple[str, int], gateway: Attachment) -> None:
    sent = bytes(range(256)) * (SIZE // 256)

    async def serve() -> None:
        reader, writer = await accept(gateway)
        received = await reader.read(-1)  # only an end that passes through ends this
        writer.write(hashlib.sha256(received).digest() + received)
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(20):
        serving = asyncio.create_task(serve())
        reader, writer = await asyncio.open_connection(*front)
        writer.write(sent)
        writer.write_eof()
        received = await reader.read(-1)
        await serving
        writer.close()
        await writer.wait_closed()
    assert received[:32] == hashlib.sha256(sent).digest()
    assert received[32:] == sent


async def test_a_server_that_ends_first(front: tuple[str, int], gateway: Attachment) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*front)
        inner_reader, inner_writer = await accept(gateway)
        inner_writer.write(b"bye")
        inner_writer.write_eof()
        assert await reader.read(-1) == b"bye"
        writer.write(b"still here")
        writer.close()
        assert await inner_reader.read(-1) == b"still here"
        inner_writer.close()
        await asyncio.gather(writer.wait_closed(), inner_writer.wait_closed())


async def test_a_slow_reader_slows_its_writer(front: tuple[str, int], gateway: Attachment) -> None:
    """Sending stops at what the buffers on the way hold; reading gets it going again, and nothing is lost."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(front) as client:
        client.setblocking(False)
        async with asyncio.timeout(20):
            inner_reader, inner_writer = await accept(gateway)
            sent = 0
            stuck = False
            while not stuck and sent < 128 * 1024 * 1024:
                try:
                    await asyncio.wait_for(loop.sock_sendall(client, bytes(65536)), 0.5)
                    sent += 65536
                except TimeoutError:
                    stuck = True
            assert stuck
            client.shutdown(socket.SHUT_WR)
            received = 0
            while part := await inner_reader.read(1 << 20):
                received += len(part)
            inner_writer.close()
            await inner_writer.wait_closed()
    assert sent <= received < sent + 65536


async def test_a_reset_passes_through(front: tuple[str, int], gateway: Attachment) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*front)
        writer.write(b"x")
        inner_reader, inner_writer = await accept(gateway)
        assert await inner_reader.read(1) == b"x"
        sock = inner_writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        inner_writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


async def test_many_at_once(front: tuple[str, int], gateway: Attachment) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    async def call(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(*front)
        writer.write(struct.pack("=I", number))
        try:
            return await reader.read(-1)
        finally:
            writer.close()
            await writer.wait_closed()

    async with asyncio.timeout(20), await asyncio.start_server(echo, sock=gateway.sockets["health"]):
        said = await asyncio.gather(*(call(number) for number in range(200)))
    assert said == [struct.pack("=I", number) for number in range(200)]


async def test_nobody_listens_there(lease: Lease, gateway: Attachment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lease.forward(listener, gateway.ip, 81)
        address = listener.getsockname()
    with socket.socket() as client:
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            call_and_read(client, address)  # it may be reset in the one or in the other


async def test_a_lease_takes_its_port_and_connections_with_it(
    lease: Lease, front: tuple[str, int], gateway: Attachment
) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*front)
        _, inner_writer = await accept(gateway)
        lease.close()
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*front)
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        inner_writer.close()


@pytest.mark.parametrize(("ip", "port"), [("nowhere", 80), ("::1", 80), ("10.77.0.2", 0), ("10.77.0.2", 65536)])
def test_a_target_that_cannot_be(lease: Lease, ip: str, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(BadInput, match=r"forward (ip|port)"):
        lease.forward(listener, ip, port)


def test_a_socket_that_does_not_listen(lease: Lease) -> None:
    with socket.socket() as sock, pytest.raises(BadInput, match="wants a listening TCP or a bound UDP socket"):
        lease.forward(sock, "10.77.0.2", 80)
