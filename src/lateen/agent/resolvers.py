"""Ask the host's own resolvers what the mesh does not know: packets in, packets out, as they are.

Each question goes out with an id and from a port of its own, drawn at random; an answer counts only from the server
that was asked, with that id and that question. An answer that was cut short is asked for again over TCP.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from lateen.errors import Unavailable

__all__ = ["HOST_RESOLV_CONF", "HostResolvers", "ResolvConf", "ask", "parse_resolv_conf"]

HOST_RESOLV_CONF: Final = Path("/etc/resolv.conf")
TIMEOUT_SECONDS: Final = 5.0  # of one question, all servers together (Istio)
ATTEMPT_SECONDS: Final = 2.0  # of one server, while others are left to ask
MAX_SERVERS: Final = 3  # resolv.conf(5), MAXNS
MAX_PACKET_BYTES: Final = 65535
DNS_PORT: Final = 53

Server = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What matters of a resolv.conf(5)."""

    servers: tuple[Server, ...] = ()
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Return the name servers and search domains; lines that say neither are skipped."""
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            servers.append((words[1], DNS_PORT))
        elif words[:1] in (["search"], ["domain"]):
            search = tuple(word.lower().strip(".") for word in words[1:])
    return ResolvConf(tuple(servers[:MAX_SERVERS]), search)


class HostResolvers:
    """The host's resolvers, as its resolv.conf says now: it is read again whenever it changed."""

    def __init__(
        self,
        path: Path = HOST_RESOLV_CONF,
        *,
        servers: Sequence[Server] = (),
        shuffle: Callable[[list[Server]], None] | None = None,
    ) -> None:
        """`servers`: asked instead of those in the file, whose search domains still count."""
        self._path = path
        self._servers = tuple(servers)
        self._shuffle = shuffle or random.SystemRandom().shuffle
        self._state: tuple[int, int] | None = None
        self._conf = ResolvConf()

    def conf(self) -> ResolvConf:
        """Return the file's content; what was read last while it cannot be read."""
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_size)
            if state != self._state:
                self._conf = parse_resolv_conf(self._path.read_text(errors="replace"))
                self._state = state
        except OSError:
            pass  # it is being replaced, or the host has none: then there is nobody to ask
        return self._conf

    async def resolve(self, query: bytes) -> bytes:
        """Return the answer to a packet, with the packet's own id. Raises `Unavailable` when no server has one."""
        servers = list(self._servers or self.conf().servers)
        self._shuffle(servers)
        return await ask(query, servers)


async def ask(query: bytes, servers: Sequence[Server], *, timeout: float = TIMEOUT_SECONDS) -> bytes:  # noqa: ASYNC109  # one deadline over several attempts
    """Ask the servers in turn and return the first answer. Raises `Unavailable` when all fail or time is over."""
    reasons: list[str] = []
    try:
        async with asyncio.timeout(timeout):
            for position, server in enumerate(servers):
                last = position == len(servers) - 1
                try:
                    async with asyncio.timeout(None if last else ATTEMPT_SECONDS):
                        return await _ask_one(query, server)
                except TimeoutError:
                    reasons.append(f"{server[0]}: no answer within {ATTEMPT_SECONDS:.0f} s")
                except (OSError, EOFError) as error:
                    reasons.append(f"{server[0]}: {error}")
    except TimeoutError:
        reasons.append(f"no answer within {timeout:.0f} s")
    raise Unavailable("; ".join(reasons) or "the host has no resolver in /etc/resolv.conf")


async def _ask_one(query: bytes, server: Server) -> bytes:
    sent = secrets.token_bytes(2) + query[2:]
    answer = await _over_udp(sent, server)
    if answer[2] & 0x02:  # TC: cut short
        answer = await _over_tcp(sent, server)
    return query[:2] + answer[2:]


async def _over_udp(query: bytes, server: Server) -> bytes:
    loop = asyncio.get_running_loop()
    # Connected: the kernel drops what others send, and tells when nobody listens there.
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Asking(query), remote_addr=server)
    try:
        return await protocol.answer
    finally:
        transport.close()


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._query)

    def datagram_received(self, data: bytes, _: object) -> None:
        if not self.answer.done() and _answers(data, self._query):
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def _over_tcp(query: bytes, server: Server) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(len(query).to_bytes(2, "big") + query)
        await writer.drain()
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    if not _answers(answer, query):
        raise OSError("answer to another question")
    return answer


def _answers(data: bytes, query: bytes) -> bool:
    """Whether `data` is a response to `query`: same id, same one question (names compared without case)."""
    if len(data) < 12 or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    if data[4:6] != b"\x00\x01":
        return data[4:6] == b"\x00\x00" and data[3] & 0x0F != 0  # FORMERR and the like may leave the question out
    end = _question_end(query)
    return len(data) >= end and data[12:end].lower() == query[12:end].lower()


def _question_end(query: bytes) -> int:
    """Return where the first question of a packet ends; the packet has been parsed before."""
    position = 12
    while query[position]:
        position += 1 + query[position]
    return position + 5  # the closing zero, type, class
