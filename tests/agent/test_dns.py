"""The DNS server against dnslib's client: local answers, the host's resolvers behind it, and what is no query."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dnslib
import pytest

from lateen.agent.dns import DnsServer, Resolve, resolv_conf_text
from lateen.agent.names import Entry, build_names
from lateen.agent.resolvers import HostResolvers, ResolvConf, ask, parse_resolv_conf
from lateen.errors import Unavailable

TABLE = {
    "ratings.default.svc.cluster.local": Entry(("10.96.0.7",), "ratings", "default"),
    "api.test": Entry(("240.240.0.1", "240.240.0.2", "2001:2::1")),
    "many.test": Entry(tuple(f"10.1.{i // 250}.{i % 250 + 1}" for i in range(300))),
}
QUESTION = b"\x01a\x00\x00\x01\x00\x01"
NAMES = build_names(TABLE, namespace="default", domain="cluster.local")


class Upstream:
    """A resolver that answers everything with 9.9.9.9, over UDP and TCP, unless told otherwise."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.ids: list[int] = []
        self.truncate = False
        self.silent = False
        self.forge: bytes | None = None
        self.arrived = asyncio.Event()

    async def __aenter__(self) -> Upstream:
        loop = asyncio.get_running_loop()
        outer = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                if outer.forge is not None:
                    self.transport.sendto(outer.forge, addr)
                answer = outer.answer(data, tcp=False)
                if answer is not None:
                    self.transport.sendto(answer, addr)

        udp, tcp, port = same_port()
        udp.setblocking(False)
        self.udp, _ = await loop.create_datagram_endpoint(Protocol, sock=udp)
        self.tcp = await asyncio.start_server(self._tcp, sock=tcp)
        self.server = ("127.0.0.1", port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.udp.close()
        self.tcp.close()

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.answer(await reader.readexactly(size), tcp=True)
        assert answer is not None
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        query = dnslib.DNSRecord.parse(data)
        self.questions.append(str(query.q.qname))
        self.ids.append(query.header.id)
        self.arrived.set()
        if self.silent:
            return None
        reply = query.reply()
        if self.truncate and not tcp:
            reply.header.tc = 1
        else:
            for i in range(60 if self.truncate else 1):
                reply.add_answer(dnslib.RR(query.q.qname, rdata=dnslib.A(f"9.9.9.{9 + i}")))
        return bytes(reply.pack())


class Client:
    """Asks a server over UDP or TCP."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def udp(self, packet: bytes, *, seconds: float = 5.0) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", self.port))
            await loop.sock_sendall(sock, packet)
            return await asyncio.wait_for(loop.sock_recv(sock, 65535), seconds)

    async def ask(self, name: str, kind: str = "A") -> Any:
        return dnslib.DNSRecord.parse(await self.udp(dnslib.DNSRecord.question(name, kind).pack()))

    async def tcp(self, *packets: bytes) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            answers = []
            for packet in packets:
                writer.write(len(packet).to_bytes(2, "big") + packet)
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), 5), "big")
                answers.append(dnslib.DNSRecord.parse(await reader.readexactly(size)))
            return answers
        finally:
            writer.close()


class Resolvers(HostResolvers):
    """The host's resolvers, given by the test."""

    def __init__(self, conf: ResolvConf) -> None:
        super().__init__()
        self.given = conf

    def conf(self) -> ResolvConf:
        return self.given


@asynccontextmanager
async def serving(
    log: Any, *, servers: tuple[tuple[str, int], ...] = (), search: tuple[str, ...] = (), names: Any = NAMES
) -> AsyncIterator[tuple[Client, Resolve]]:
    resolve = Resolve(Resolvers(ResolvConf(servers, search)), wait_for_table=True, log=log)
    resolve.names = names
    server = DnsServer(resolve)
    udp, tcp, port = same_port()
    tcp.listen()
    for sock in (udp, tcp):
        sock.setblocking(False)
    await server.start(udp, tcp)
    try:
        yield Client(port), resolve
    finally:
        await server.stop()


def same_port() -> tuple[socket.socket, socket.socket, int]:
    """Return a datagram and a stream socket, bound to one free port of both."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
        try:
            tcp.bind(("127.0.0.1", port))
        except OSError:  # somebody's connection has it
            udp.close()
            tcp.close()
            continue
        return udp, tcp, port


def addresses(reply: Any) -> list[str]:
    return sorted(str(record.rdata) for record in reply.rr)


async def test_local_answers(log: Any) -> None:
    async with serving(log) as (client, _):
        reply = await client.ask("RaTings")
        assert addresses(reply) == ["10.96.0.7"]
        assert str(reply.rr[0].rname) == "RaTings."  # the question's own spelling
        assert (reply.header.aa, reply.header.ra, reply.rr[0].ttl) == (1, 1, 30)
        assert addresses(await client.ask("api.test")) == ["240.240.0.1", "240.240.0.2"]
        assert addresses(await client.ask("api.test", "AAAA")) == ["2001:2::1"]


async def test_a_known_name_without_that_family_is_empty(log: Any) -> None:
    async with serving(log) as (client, _):
        reply = await client.ask("ratings", "AAAA")
        assert (reply.header.rcode, reply.rr) == (0, [])


async def test_the_search_domain_is_expanded(log: Any) -> None:
    async with serving(log) as (client, _):
        reply = await client.ask("api.test.default.svc.cluster.local")
        assert [(str(r.rname), dnslib.QTYPE[r.rtype]) for r in reply.rr] == [
            ("api.test.default.svc.cluster.local.", "CNAME"),
            ("api.test.", "A"),
            ("api.test.", "A"),
        ]


async def test_answers_are_shuffled(log: Any) -> None:
    async with serving(log) as (client, _):
        orders = {tuple(str(r.rdata) for r in (await client.ask("api.test")).rr) for _ in range(50)}
        assert len(orders) == 2


async def test_unknown_names_go_to_the_host(log: Any) -> None:
    async with Upstream() as upstream, serving(log, servers=(upstream.server,)) as (client, resolve):
        query = dnslib.DNSRecord.question("elsewhere.test")
        reply = dnslib.DNSRecord.parse(await client.udp(query.pack()))
        assert addresses(reply) == ["9.9.9.9"]
        assert reply.header.id == query.header.id
        assert upstream.questions == ["elsewhere.test."]
        assert await client.ask("ratings", "MX")  # of a known name, too
        assert upstream.questions[1:] == ["ratings."]
        assert (resolve.stats.requests, resolve.stats.upstream, resolve.stats.failures) == (2, 2, 0)


async def test_ids_are_drawn_anew(log: Any) -> None:
    async with Upstream() as upstream, serving(log, servers=(upstream.server,)) as (client, _):
        packet = dnslib.DNSRecord.question("elsewhere.test").pack()
        for _ in range(5):
            assert (await client.udp(packet))[:2] == packet[:2]
        assert len(set(upstream.ids)) > 1


async def test_truncated_answers_are_asked_again_over_tcp(log: Any) -> None:
    async with Upstream() as upstream, serving(log, servers=(upstream.server,)) as (client, _):
        upstream.truncate = True
        (reply,) = await client.tcp(dnslib.DNSRecord.question("big.test").pack())
        assert len(reply.rr) == 60
        cut = await client.ask("big.test")  # too much for the 512 bytes of a client that says nothing
        assert (cut.header.tc, cut.rr) == (1, [])


async def test_large_local_answers_and_what_a_client_takes(log: Any) -> None:
    async with serving(log) as (client, _):
        cut = await client.ask("many.test")
        assert (cut.header.tc, cut.rr) == (1, [])
        wide = dnslib.DNSRecord.question("api.test")
        wide.add_ar(dnslib.EDNS0(udp_len=4096))
        assert addresses(dnslib.DNSRecord.parse(await client.udp(wide.pack()))) == ["240.240.0.1", "240.240.0.2"]
        (reply,) = await client.tcp(dnslib.DNSRecord.question("many.test").pack())
        assert len(reply.rr) == 300


async def test_several_questions_on_one_connection(log: Any) -> None:
    async with serving(log) as (client, _):
        replies = await client.tcp(*[dnslib.DNSRecord.question(name).pack() for name in ("ratings", "api.test")])
        assert [len(reply.rr) for reply in replies] == [1, 2]


async def test_no_resolver_means_servfail(log: Any) -> None:
    async with serving(log) as (client, resolve):
        assert (await client.ask("elsewhere.test")).header.rcode == 2
        assert resolve.stats.failures == 1


async def test_no_table_yet_means_servfail(log: Any) -> None:
    async with Upstream() as upstream, serving(log, servers=(upstream.server,), names=None) as (client, _):
        assert (await client.ask("elsewhere.test")).header.rcode == 2
        assert upstream.questions == []


async def test_the_meshs_own_domain_is_not_asked_elsewhere(log: Any) -> None:
    async with Upstream() as upstream, serving(log, servers=(upstream.server,)) as (client, _):
        reply = await client.ask("elsewhere.test.default.svc.cluster.local")
        assert (reply.header.rcode, reply.header.aa) == (3, 1)
        assert upstream.questions == []


async def test_but_is_on_a_host_that_is_in_such_a_cluster_itself(log: Any) -> None:
    async with (
        Upstream() as upstream,
        serving(log, servers=(upstream.server,), search=("x.svc.cluster.local", "cluster.local")) as (client, _),
    ):
        assert addresses(await client.ask("kubernetes.default.svc.cluster.local")) == ["9.9.9.9"]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00" * 11, id="short"),
        pytest.param(b"\xff" * 600, id="ones"),
        pytest.param(struct.pack(">6H", 1, 0x8000, 1, 0, 0, 0) + QUESTION, id="a response"),
        pytest.param(struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01", id="pointer to itself"),
        pytest.param(struct.pack(">6H", 1, 0x0100, 65535, 0, 0, 0) + QUESTION, id="65535 questions"),
        pytest.param(struct.pack(">6H", 1, 0x0100, 0, 0, 0, 0), id="no question"),
        pytest.param(os.urandom(2) + b"\x01\x00" + b"\x00\x01" * 4 + b"\x3f" * 40, id="label over the end"),
    ],
)
async def test_what_is_no_query_is_dropped(log: Any, packet: bytes) -> None:
    async with serving(log) as (client, resolve):
        assert await resolve(packet) is None
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", client.port))
            await loop.sock_sendall(sock, packet)
        assert addresses(await client.ask("ratings")) == ["10.96.0.7"]
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(len(packet).to_bytes(2, "big") + packet)
        assert await asyncio.wait_for(reader.read(), 5) == b""  # the connection is closed
        writer.close()


async def test_other_opcodes_are_not_implemented(log: Any) -> None:
    async with serving(log) as (client, _):
        query = dnslib.DNSRecord.question("ratings")
        query.header.opcode = 5  # update
        assert dnslib.DNSRecord.parse(await client.udp(query.pack())).header.rcode == 4


async def test_a_half_open_connection_is_closed_and_others_go_on(log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.agent.dns.IDLE_SECONDS", 0.05)
    async with serving(log) as (client, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"\x00")
        assert addresses(await client.ask("ratings")) == ["10.96.0.7"]
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_questions_in_progress_are_bounded(log: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.agent.dns.MAX_QUERIES", 1)
    async with Upstream() as upstream, serving(log, servers=(upstream.server,)) as (client, resolve):
        upstream.silent = True
        waiting = asyncio.create_task(client.ask("slow.test"))
        await upstream.arrived.wait()
        assert (await client.ask("other.test")).header.rcode == 2
        assert resolve.stats.failures == 1
        assert addresses(await client.ask("ratings")) == ["10.96.0.7"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


# ---- asking the host's resolvers


async def test_the_next_server_is_asked_when_one_refuses() -> None:
    async with Upstream() as upstream:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            dead = nobody.getsockname()
        query = dnslib.DNSRecord.question("a.test").pack()
        assert addresses(dnslib.DNSRecord.parse(await ask(query, [dead, upstream.server]))) == ["9.9.9.9"]


async def test_time_is_over() -> None:
    async with Upstream() as upstream:
        upstream.silent = True
        with pytest.raises(Unavailable, match="no answer within"):
            await ask(dnslib.DNSRecord.question("a.test").pack(), [upstream.server], timeout=0.05)


@pytest.mark.parametrize("what", ["id", "question"])
async def test_forged_answers_do_not_count(what: str) -> None:
    async with Upstream() as upstream:
        query = dnslib.DNSRecord.question("victim.test")
        forged = dnslib.DNSRecord.question("victim.test" if what == "id" else "other.test").reply()
        forged.header.id = 1
        forged.add_answer(dnslib.RR("victim.test", rdata=dnslib.A("6.6.6.6")))
        upstream.forge = bytes(forged.pack())
        assert addresses(dnslib.DNSRecord.parse(await ask(query.pack(), [upstream.server]))) == ["9.9.9.9"]


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = (
        "# c\nnameserver 1.1.1.1 # x\nnameserver ::1\nsearch A.b c.\noptions ndots:1\nnameserver 2\nnameserver 3\njunk"
    )
    assert parse_resolv_conf(text) == ResolvConf((("1.1.1.1", 53), ("::1", 53), ("2", 53)), ("a.b", "c"))


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = HostResolvers(path)
    assert resolvers.conf().servers == ()
    path.write_text("nameserver 1.1.1.1\n")
    assert resolvers.conf().servers == (("1.1.1.1", 53),)
    path.write_text("nameserver 8.8.8.8 \n")
    assert resolvers.conf().servers == (("8.8.8.8", 53),)
    path.unlink()
    assert resolvers.conf().servers == (("8.8.8.8", 53),)  # it is being replaced


def test_what_the_application_sees() -> None:
    assert resolv_conf_text("shop", "cluster.local", server="127.0.0.1") == (
        "nameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )


async def test_the_proxy_is_not_told_where_applications_find_it(log: Any) -> None:
    names = build_names(
        {
            "api.outside.test": Entry(("240.240.0.1",)),
            "*.wild.test": Entry(("240.240.0.2",)),
            "ratings.default.svc.cluster.local": Entry(("10.96.0.7",), "ratings", "default"),
        },
        namespace="default",
        domain="cluster.local",
    )
    async with Upstream() as upstream:
        resolvers = HostResolvers(Path("/nowhere"), servers=[upstream.server])
        resolve = Resolve(resolvers, wait_for_table=True, log=log, for_proxy=True)
        resolve.names = names

        async def ask_for(name: str) -> Any:
            return dnslib.DNSRecord.parse(await resolve(dnslib.DNSRecord.question(name).pack()))

        for name in ("api.outside.test", "x.wild.test"):
            assert addresses(await ask_for(name)) == ["9.9.9.9"]
        assert addresses(await ask_for("ratings")) == ["10.96.0.7"]
        # As the search domains of a resolv.conf would have it asked first.
        assert (await ask_for("api.outside.test.default.svc.cluster.local")).header.rcode == 3
        assert upstream.questions == ["api.outside.test.", "x.wild.test."]
