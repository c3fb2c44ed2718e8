"""The workload's DNS server: mesh names from the table, everything else from the host's resolvers, over UDP and TCP.

Rules: Istio's DNS proxy, docs/design/0005-agent.md "Names"; RFC 1035, RFC 6891 (packet sizes), RFC 7766 (TCP).
Whatever arrives is untrusted: a packet that is no query is dropped, and work in progress is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import dnslib

from lateen.agent.log import Log
from lateen.agent.names import Answer, Names, search_domains
from lateen.agent.resolvers import HostResolvers
from lateen.errors import Unavailable

__all__ = ["DnsServer", "DnsStats", "Resolve", "resolv_conf_text"]

TTL_SECONDS: Final = 30  # Istio's
MIN_UDP_BYTES: Final = 512  # RFC 1035, for clients that do not say
MAX_UDP_BYTES: Final = 4096
MAX_QUERIES: Final = 256  # asked of the host's resolvers at once; above that SERVFAIL, at once
MAX_CONNECTIONS: Final = 64
IDLE_SECONDS: Final = 10.0

A: Final = 1
AAAA: Final = 28
OPT: Final = 41
IN: Final = 1
SERVFAIL, NXDOMAIN, NOTIMP = 2, 3, 4


@dataclass(slots=True)
class DnsStats:
    """Counts since the start, for the agent's metrics."""

    requests: int = 0
    upstream: int = 0
    failures: int = 0


def resolv_conf_text(namespace: str, domain: str, *, server: str) -> str:
    """Return the resolv.conf of an application: this server, searched as in a Kubernetes pod."""
    search = " ".join(search_domains(namespace, domain))
    return f"nameserver {server}\nsearch {search}\noptions ndots:5\n"


class Resolve:
    """Turns a query packet into an answer packet. Holds the table; `set_names` replaces it."""

    def __init__(
        self,
        resolvers: HostResolvers,
        *,
        wait_for_table: bool,
        log: Log,
        for_proxy: bool = False,
        shuffle: Callable[[list[str]], None] = random.shuffle,
    ) -> None:
        """`wait_for_table`: until there is one, answer SERVFAIL rather than ask others for what may be the mesh's.

        `for_proxy`: the addresses of ServiceEntries are not told. Those are where applications find the proxy, which
        itself asks for the same names to learn where the outside is.
        """
        self.stats = DnsStats()
        self.names: Names | None = None
        self._resolvers = resolvers
        self._wait_for_table = wait_for_table
        self._for_proxy = for_proxy
        self._log = log
        self._shuffle = shuffle
        self._busy = 0

    async def __call__(self, packet: bytes) -> bytes | None:
        """Return the answer, of any size; None for what is no query."""
        query = _parse(packet)
        if query is None:
            return None
        self.stats.requests += 1
        if query.header.opcode != 0 or len(query.questions) != 1:
            return _pack(_reply(query, NOTIMP))
        if self.names is None and self._wait_for_table:
            return _pack(_reply(query, SERVFAIL))
        local = self._local(query)
        return _pack(local) if local is not None else await self._upstream(query, packet)

    def _local(self, query: Any) -> Any | None:
        question = query.q
        # Other types are never ours, not even of names that are: nobody said that the mesh has mail servers.
        if self.names is None or question.qclass != IN or question.qtype not in (A, AAAA):
            return None
        name = str(question.qname)
        found = self.names.lookup(name)
        if found is not None and not (found.entry and self._for_proxy):
            return self._answer(query, found)
        if self.names.is_in_domain(name) and self.names.domain not in self._resolvers.conf().search:
            # The host's resolvers cannot know it, and each search attempt would wait for them to say so.
            return _reply(query, NXDOMAIN)
        return None

    def _answer(self, query: Any, found: Answer) -> Any:
        reply = _reply(query, 0)
        name = query.q.qname
        if found.alias:
            target = dnslib.DNSLabel(found.alias)
            reply.add_answer(dnslib.RR(name, dnslib.QTYPE.CNAME, ttl=TTL_SECONDS, rdata=dnslib.CNAME(target)))
            name = target
        ips = list(found.ipv4 if query.q.qtype == A else found.ipv6)
        self._shuffle(ips)
        data = dnslib.A if query.q.qtype == A else dnslib.AAAA
        for ip in ips:
            reply.add_answer(dnslib.RR(name, query.q.qtype, ttl=TTL_SECONDS, rdata=data(ip)))
        return reply

    async def _upstream(self, query: Any, packet: bytes) -> bytes:
        self.stats.upstream += 1
        if self._busy >= MAX_QUERIES:
            self.stats.failures += 1
            return _pack(_reply(query, SERVFAIL))
        self._busy += 1
        try:
            return await self._resolvers.resolve(packet)
        except Unavailable as error:
            self.stats.failures += 1
            self._log.debug("name not resolved", name=str(query.q.qname), reason=str(error))
            return _pack(_reply(query, SERVFAIL))
        finally:
            self._busy -= 1


class DnsServer:
    """Serves `resolve` on a datagram and a listening socket, which it owns from `start` on."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer from now on."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._on_datagram), sock=udp)
        self._server = await asyncio.start_server(self._on_connection, sock=tcp)

    async def stop(self) -> None:
        """Close the sockets and drop what is in progress."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_datagram(self, data: bytes, address: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_datagram(data, address), name="dns query")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_datagram(self, data: bytes, address: Any) -> None:
        answer = await self._resolve(data)
        if answer is None or self._transport is None or self._transport.is_closing():
            return
        if len(answer) > MIN_UDP_BYTES and len(answer) > (limit := _udp_limit(data)):
            answer = _cut(data, answer, limit)
        self._transport.sendto(answer, address)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= MAX_CONNECTIONS + MAX_QUERIES:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # the client went away, or says nothing more: both end a connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                size = int.from_bytes(await reader.readexactly(2), "big")
                packet = await reader.readexactly(size)
            answer = await self._resolve(packet)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)

    def error_received(self, error: Exception) -> None:
        """A client went away before its answer came (ICMP): nothing to do."""


def _parse(packet: bytes) -> Any | None:
    if (
        len(packet) < 12 or packet[2] & 0x80
    ):  # shorter than a header; a response, which two servers could bounce for ever
        return None
    try:
        query = dnslib.DNSRecord.parse(packet)
    except (dnslib.DNSError, ValueError, IndexError, UnicodeError, RecursionError):
        return None
    return query if query.questions else None


def _reply(query: Any, code: int) -> Any:
    header = dnslib.DNSHeader(id=query.header.id, qr=1, aa=int(code in (0, NXDOMAIN)), ra=1, rcode=code)
    header.rd = query.header.rd
    reply = dnslib.DNSRecord(header, questions=query.questions[:1])
    if any(record.rtype == OPT for record in query.ar):
        reply.add_ar(dnslib.EDNS0(udp_len=MAX_UDP_BYTES))
    return reply


def _pack(reply: Any) -> bytes:
    return bytes(reply.pack())


def _udp_limit(packet: bytes) -> int:
    """Return how large an answer the sender of this packet takes in one datagram."""
    with contextlib.suppress(dnslib.DNSError, ValueError, IndexError, UnicodeError):
        for record in dnslib.DNSRecord.parse(packet).ar:
            if record.rtype == OPT:
                return min(max(int(record.rclass), MIN_UDP_BYTES), MAX_UDP_BYTES)
    return MIN_UDP_BYTES


def _cut(query: bytes, answer: bytes, limit: int) -> bytes:
    """Return the answer without its records and with TC set: the client asks again over TCP."""
    try:
        full = dnslib.DNSRecord.parse(answer)
    except (dnslib.DNSError, ValueError, IndexError, UnicodeError):
        full = dnslib.DNSRecord.parse(query).reply()
        full.header.rcode = SERVFAIL
    full.header.tc = 1
    full.rr, full.auth = [], []
    full.ar = [record for record in full.ar if record.rtype == OPT]
    return bytes(full.pack())[:limit]
