"""The server over real gRPC: identities, limits, garbage, closing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from tests.fakes.xds import (
    NODE_ID,
    DeltaPeer,
    FakeSlice,
    FakeSource,
    GrpcLink,
    SotwPeer,
    make_cluster,
    make_endpoints,
    make_listener,
    make_route,
)
from tests.pilot.xds.conftest import eventually, serving
from tests.pilot.xds.tls import make_authority, make_svid

from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.pilot.xds.node import Trust
from lateen.pilot.xds.server import DELTA_METHOD, GRPC_OPTIONS, SERVICE, AdsServer, ServerLimits, connection_age
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS
from lateen.wire.local import TypeInfo

ALL = (CDS, EDS, LDS, RDS)


class World:
    """One server on a Unix socket, and a channel to it."""

    def __init__(self, folder: Path, limits: ServerLimits | None = None) -> None:
        self.clusters = FakeSlice(CDS, make_cluster("a"))
        self.endpoints = FakeSlice(EDS, make_endpoints("a", 1))
        self.listeners = FakeSlice(LDS, make_listener("in", route="r"))
        self.routes = FakeSlice(RDS, make_route("r", "a"))
        self.source = FakeSource(self.clusters, self.endpoints, self.listeners, self.routes)
        self.socket = folder / "xds.sock"
        self.address = f"unix:{self.socket}"
        self.ads = AdsServer(self.source, limits=limits)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])


SMALL = ServerLimits(streams=3, names=10, name_bytes=100, first_request_seconds=0.2)


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    world = World(folder, SMALL)
    async with serving(world.ads, world.address):
        yield world


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.channel() as channel:
        yield channel


async def refusal(channel: grpc.aio.Channel, *messages: bytes, method: str = DELTA_METHOD) -> tuple[str, str]:
    """Return the status that a stream of these messages ends with."""
    call = channel.stream_stream(f"/{SERVICE}/{method}")()
    try:
        for message in messages:
            await call.write(message)
        while await call.read() is not grpc.aio.EOF:
            pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    return (await call.code()).name, await call.details()


async def serves(world: World) -> bool:
    """Return whether a new client still gets its configuration."""
    async with world.channel() as channel:
        link = await GrpcLink(channel, DeltaPeer()).start(*ALL)
        await link.until(lambda: bool(link.peer.names(RDS)))
        await link.close()
    return True


@pytest.mark.parametrize("kind", [DeltaPeer, SotwPeer])
async def test_a_client_is_served_and_follows_changes(
    world: World, channel: grpc.aio.Channel, kind: type[DeltaPeer | SotwPeer]
) -> None:
    link = await GrpcLink(channel, kind()).start(*ALL)
    await link.until(lambda: all(link.peer.names(t) for t in ALL))
    assert [link.peer.names(t) for t in ALL] == [["a"], ["a"], ["in"], ["r"]]
    link.peer.said()
    world.source.push((world.routes, [make_route("r", "b")]))
    await link.until(lambda: bool(link.peer.log))
    assert link.peer.said() == ["RDS r"]
    await link.close()


async def test_status(world: World, channel: grpc.aio.Channel) -> None:
    peer = DeltaPeer(refuse=lambda _type, name, _body: "no" if name == "bad" else "", follows={CDS: EDS})
    link = await GrpcLink(channel, peer).start(CDS, EDS, LDS)
    await link.until(lambda: bool(link.peer.names(LDS)))
    world.source.push((world.clusters, [make_cluster("bad", eds=False)]))
    await link.until(lambda: "CDS bad NACK" in map(str, link.peer.log))
    await link.send(link.peer.subscribe(LDS, "nothing"))  # answered after the NACK was taken
    await link.until(lambda: str(link.peer.log[-1]) == "LDS -nothing")
    (info,) = world.ads.status()
    assert (info.name, info.node, info.namespace, info.version) == ("reviews-v3", NODE_ID, "default", "1.40.0")
    assert info.connected.startswith("20")
    assert list(info.types) == ["CDS", "EDS", "LDS", "RDS"]
    assert info.types["CDS"] == TypeInfo(
        state="ERROR", resources=1, version=info.types["CDS"].version, error="bad: no", rejected=("bad",)
    )
    assert info.types["EDS"].state == "SYNCED"
    assert len(info.types["EDS"].version) == 16
    assert info.types["RDS"] == TypeInfo(state="NOT SENT", resources=0, version="")
    await link.close()


async def test_streams_that_end_are_forgotten(world: World, channel: grpc.aio.Channel) -> None:
    link = await GrpcLink(channel, DeltaPeer()).start(*ALL)
    await link.until(lambda: bool(link.peer.names(RDS)))
    await link.call.done_writing()
    with pytest.raises(EOFError):
        await link.until(lambda: False)
    assert world.ads.status() == ()
    assert [proxy.closed for proxy in world.source.proxies] == [1]
    assert world.endpoints.wanted == {}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Refused("not yours"), "PERMISSION_DENIED"),
        (Unavailable("sources are being read"), "UNAVAILABLE"),
        (BadInput("no such namespace"), "INVALID_ARGUMENT"),
    ],
)
async def test_what_the_source_says_no_to(
    world: World, channel: grpc.aio.Channel, fault: LateenError, code: str
) -> None:
    world.source.refusal = fault
    (request,) = DeltaPeer().first(CDS)
    assert await refusal(channel, request.SerializeToString()) == (code, str(fault))


def request(node_id: str = NODE_ID, **kwargs: Any) -> bytes:
    message = DeltaDiscoveryRequest(type_url=kwargs.pop("type_url", CDS), **kwargs)
    message.node.id = node_id
    data: bytes = message.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        pytest.param([b"\xff" * 50], "INVALID_ARGUMENT", "is not a envoy", id="garbage"),
        pytest.param([request(), b"\xff" * 50], "INVALID_ARGUMENT", "is not a envoy", id="garbage later"),
        pytest.param([request("")], "INVALID_ARGUMENT", "node id ''", id="no node"),
        pytest.param([request("sidecar~1~x")], "INVALID_ARGUMENT", "node id 'sidecar~1~x'", id="bad node id"),
        pytest.param([request("a~b~c~" + "d" * 2000)], "INVALID_ARGUMENT", "at most 1024", id="long node id"),
        pytest.param(
            [request(resource_names_subscribe=[str(n) for n in range(11)])],
            "INVALID_ARGUMENT", "11 names, at most 10", id="too many names at once",
        ),
        pytest.param(
            [request(type_url=EDS, resource_names_subscribe=[f"{part}{n}" for n in range(9)]) for part in "ab"],
            "INVALID_ARGUMENT", "18 names", id="too many names in all",
        ),
        pytest.param(
            [request(resource_names_subscribe=["x" * 101])], "INVALID_ARGUMENT", "name of 101", id="long name"
        ),
        pytest.param(
            [request(initial_resource_versions={str(n): "1" for n in range(11)})],
            "INVALID_ARGUMENT", "11 names", id="too many versions",
        ),
        pytest.param([request(type_url="x" * 101)], "INVALID_ARGUMENT", "type URL of 101", id="long type"),
        pytest.param([b"x" * (5 << 20)], "RESOURCE_EXHAUSTED", "", id="oversized message"),
        pytest.param([], "DEADLINE_EXCEEDED", "no request within 0.2 seconds", id="silence"),
    ],
)  # fmt: skip
async def test_bad_requests_end_their_stream_alone(
    world: World, channel: grpc.aio.Channel, messages: list[bytes], code: str, words: str
) -> None:
    got, details = await refusal(channel, *messages)
    assert got == code
    assert words in details
    assert await serves(world)


async def test_a_client_that_asks_and_never_reads_is_bounded(world: World, channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(f"/{SERVICE}/{DELTA_METHOD}")()
    flood = [request(type_url=f"unknown/{number:090}") for number in range(1000)]
    # Its call is ended, or, where the transport holds back what it does not read, its requests are not read either.
    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError)):
        await asyncio.wait_for(_write_all(call, flood * 100), 2)
    call.cancel()
    assert await serves(world)
    assert not [stream for stream in world.ads.hub.streams if not stream.types]  # the flood asked for no real type


async def _write_all(call: Any, messages: list[bytes]) -> None:
    for message in messages:
        await call.write(message)


async def test_a_client_that_reads_nothing_holds_up_neither_others_nor_the_end(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(folder, ServerLimits(abort_seconds=0.05))
    bulk = [make_cluster(f"{n:0900}", eds=False) for n in range(2000)]
    world.clusters.content.update({item.name: item for item in bulk})
    async with world.channel() as channel:
        async with serving(world.ads, world.address, grace_seconds=0.2):
            call = channel.stream_stream(f"/{SERVICE}/{DELTA_METHOD}")()
            await call.write(request())
            assert await serves(world)
            world.source.push((world.clusters, [make_cluster("a", seconds=9)]))
            slow, *_ = world.ads.hub.streams
            assert slow.types[CDS].serial == 1  # the change waits for its answer
        call.cancel()
    assert world.ads.status() == ()
    assert _errors(caplog) == []


async def test_bytes_that_are_no_http2_hurt_nobody(world: World) -> None:
    half_open = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for number, item in enumerate(half_open):
        item.connect(str(world.socket))
        if number % 2:
            item.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\x00" * 1000)
    assert await serves(world)
    for item in half_open:
        item.close()


async def test_streams_are_limited(world: World, channel: grpc.aio.Channel) -> None:
    links = [await GrpcLink(channel, DeltaPeer()).start(*ALL) for _ in range(3)]
    for link in links:
        await link.until(lambda link=link: bool(link.peer.names(RDS)))
    assert await refusal(channel, request()) == ("RESOURCE_EXHAUSTED", "3 streams are open already")
    await links[0].close()

    async def one_is_free() -> bool:
        return len(world.ads.status()) == 2

    await eventually(one_is_free)
    assert await serves(world)
    await asyncio.gather(*(link.close() for link in links[1:]))


async def test_closing_ends_streams_with_unavailable(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(folder)
    async with serving(world.ads, world.address), world.channel() as channel:
        links = [await GrpcLink(channel, DeltaPeer()).start(*ALL) for _ in range(5)]
        for link in links:
            await link.until(lambda link=link: bool(link.peer.names(RDS)))
        silent = channel.stream_stream(f"/{SERVICE}/{DELTA_METHOD}")()
        await silent.write(request(type_url=LDS))
        await silent.read()
        await world.ads.close()
        assert world.ads.status() == ()
        for link in links:
            with pytest.raises(ConnectionError, match="UNAVAILABLE: control plane is shutting down"):
                await link.until(lambda: False)
        assert (await silent.code()).name == "UNAVAILABLE"
        assert await refusal(channel, request()) == ("UNAVAILABLE", "control plane is shutting down")
    assert all(proxy.closed == 1 for proxy in world.source.proxies)
    assert _errors(caplog) == []


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    # asyncio's own come from grpc.aio's one poller, which outlives the loops of earlier tests.
    return [r.getMessage() for r in caplog.records if r.levelname == "ERROR" and r.name != "asyncio"]


async def test_a_client_that_may_have_nothing_any_more_is_told_so(world: World, channel: grpc.aio.Channel) -> None:
    link = await GrpcLink(channel, DeltaPeer()).start(*ALL)
    await link.until(lambda: bool(link.peer.names(RDS)))
    world.source.refuse(world.source.proxies[0])
    with pytest.raises(ConnectionError, match="PERMISSION_DENIED: not any more"):
        await link.until(lambda: False)
    assert world.source.proxies[0].closed == 1
    # One that is refused while it waits to be served gets nothing at all.
    world.source.unwelcome = Everybody()
    (first,) = DeltaPeer().first(CDS)
    assert await refusal(channel, first.SerializeToString()) == ("PERMISSION_DENIED", "not any more")


class Everybody(list[Any]):
    def __contains__(self, key: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("lifetime", "minutes"),
    [(timedelta(hours=24), 720), (timedelta(hours=1), 30), (timedelta(seconds=10), 10)],
)
def test_connections_end_before_what_they_proved_does(lifetime: timedelta, minutes: int) -> None:
    assert dict(connection_age(lifetime)) == {
        "grpc.max_connection_age_ms": minutes * 60_000,
        "grpc.max_connection_age_grace_ms": 60_000,
    }


async def test_a_connection_that_has_become_old_ends_and_its_client_is_sent_nothing_again(folder: Path) -> None:
    world = World(folder)
    server = grpc.aio.server(
        options=(*GRPC_OPTIONS, ("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 100))
    )
    world.ads.add_to_server(server, trust=Trust.LOCAL)
    server.add_insecure_port(world.address)
    await server.start()
    try:
        async with world.channel() as channel:
            link = await GrpcLink(channel, DeltaPeer()).start(*ALL)
            await link.until(lambda: all(link.peer.names(kind) for kind in ALL))
            with pytest.raises((ConnectionError, EOFError)):
                await link.until(lambda: False)
            await eventually(_true_when(lambda: world.source.proxies[0].closed == 1))
            link.peer.said()
            again = await GrpcLink(channel, link.peer).start(*ALL)
            world.source.push((world.routes, [make_route("r", "b")]))
            await again.until(lambda: "RDS r" in [str(entry) for entry in again.peer.log])
            assert [line for line in again.peer.said() if line not in (*ALL_SHORT, "RDS r")] == []
            await again.close()
    finally:
        await world.ads.close()
        await server.stop(None)


ALL_SHORT = ("CDS", "EDS", "LDS", "RDS")  # answers with nothing in them: what is asked for is held already


def _true_when(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def checked() -> bool:
        return check()

    return checked


# --- identity ---


async def test_the_certificate_says_who_it_is(folder: Path) -> None:
    world = World(folder)
    authority = make_authority()
    server = make_svid(authority, "spiffe://cluster.local/ns/istio-system/sa/istiod", dns="lateen")
    client = make_svid(authority, "spiffe://cluster.local/ns/default/sa/reviews")
    credentials = grpc.ssl_server_credentials([server.pair], authority.certificate, require_client_auth=True)
    override = [("grpc.ssl_target_name_override", "lateen"), ("grpc.use_local_subchannel_pool", 1)]
    async with serving(world.ads, world.address, credentials):
        with_certificate = grpc.ssl_channel_credentials(authority.certificate, *client.pair)
        async with grpc.aio.secure_channel(world.address, with_certificate, options=override) as channel:
            link = await GrpcLink(channel, DeltaPeer()).start(*ALL)
            await link.until(lambda: bool(link.peer.names(RDS)))
            assert world.source.proxies[0].identity.spiffe_id == "spiffe://cluster.local/ns/default/sa/reviews"
            await link.close()
        # No certificate, one of another authority, no TLS at all: no stream, and no word to the source.
        stranger = make_svid(make_authority(), "spiffe://cluster.local/ns/default/sa/reviews")
        strange = grpc.ssl_channel_credentials(authority.certificate, *stranger.pair)
        for bad in (grpc.ssl_channel_credentials(authority.certificate), strange):
            async with grpc.aio.secure_channel(world.address, bad, options=override) as channel:
                assert (await refusal(channel, request()))[0] == "UNAVAILABLE"
        async with world.channel() as channel:
            assert (await refusal(channel, request()))[0] == "UNAVAILABLE"
        # Nor by a name that is no SPIFFE ID, or one that gRPC shows up to its zero byte only.
        for name in ("https://example.org/not-spiffe", "spiffe://cluster.local/ns/default/sa/reviews\0.evil"):
            nobody = grpc.ssl_channel_credentials(authority.certificate, *make_svid(authority, name).pair)
            async with grpc.aio.secure_channel(world.address, nobody, options=override) as channel:
                assert (await refusal(channel, request()))[0] == "UNAUTHENTICATED"
        assert len(world.source.proxies) == 1
