"""The services over real gRPC: who is let in, what is refused by status, what becomes of too many reports."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from cryptography import x509
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from google.rpc.code_pb2 import PERMISSION_DENIED, RESOURCE_EXHAUSTED
from tests.fakes.certs import StrangeAuthority
from tests.fakes.proxies import Identity, make_identity, sign_identity
from tests.mixer.services.test_conversions import Read, captured

from lateen.mixer.http2.server import GrpcServer
from lateen.mixer.services.answers import ALLOWED, Outcome
from lateen.mixer.services.places import Bag
from lateen.mixer.services.reports import ReportQueue
from lateen.mixer.services.service import ACCESS_LOGS, AUTHORIZATION, RATE_LIMITS, MixerServices
from lateen.wire.memory_tls import server_context
from lateen.wire.mixer import ASKER, Asker


class Fixed:
    """Decides as it was told, and keeps what it saw."""

    reads = (Read("source.namespace"), Read("request.method"), Read("response.code"), Read("request.descriptors"))

    def __init__(self, outcome: Outcome = ALLOWED) -> None:
        self.outcome = outcome
        self.bags: list[Bag] = []
        self.askers: list[Asker] = []

    async def decide(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome:
        self.bags.append(bag)
        self.askers.append(asker)
        return self.outcome

    async def limit(self, bag: Bag, asker: Asker, domain: str, hits: int) -> Outcome:
        self.bags.append(bag)
        return self.outcome

    def report(self, bags: Sequence[Bag], asker: Asker, *, tcp: bool) -> None:
        self.bags.extend(bags)


@asynccontextmanager
async def served(
    folder: Path, judge: Fixed, *, server: Identity | None = None, client: Identity | None = None
) -> AsyncIterator[tuple[MixerServices, grpc.aio.Channel]]:
    services = MixerServices(judge, mutual_tls=server is not None)
    context = server_context_of(server) if server is not None else None
    grpc_server = GrpcServer(services.methods(), context=None if context is None else lambda: context)
    address = await grpc_server.listen(f"unix:{folder}/m.sock")
    if server is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        own = (client.key, client.certificate) if client is not None else (None, None)
        channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(server.bundle, *own),
            options=[("grpc.ssl_target_name_override", "mixer")],
        )
    reading = asyncio.create_task(services.reports.run())
    try:
        yield services, channel
    finally:
        await channel.close()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await grpc_server.stop(0)


def server_context_of(server: Identity) -> ssl.SSLContext:
    context = server_context(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=server.bundle.decode())
    context.set_alpn_protocols(["h2"])
    return context


def call(channel: grpc.aio.Channel, service: str, method: str, data: bytes, **asker: Any) -> Any:
    metadata = [(ASKER, msgspec.json.encode(Asker(**asker)).decode())] if asker else []
    return channel.unary_unary(f"/{service}/{method}")(data, metadata=metadata, timeout=5)


def with_server_name(authority: StrangeAuthority) -> Identity:
    from cryptography.hazmat.primitives.asymmetric import ec
    from tests.fakes.certs import key_pem, pem_of, uri

    key = ec.generate_private_key(ec.SECP256R1())
    names = [uri("spiffe://cluster.local/ns/istio-system/sa/lateen-mixer"), x509.DNSName("mixer")]
    return Identity("", pem_of(authority.certify(key, names=names)), key_pem(key), authority.root_pem)


async def test_a_denial_says_which_rule(tmp_path: Path) -> None:
    no = Outcome(allowed=False, status=418, body="no interns", rule="shop/no-interns", headers=(("x-why", "policy"),))
    async with served(tmp_path, Fixed(no)) as (services, channel):
        http = CheckResponse.FromString(await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls")))
        tcp = CheckResponse.FromString(await call(channel, AUTHORIZATION, "Check", captured("check-tcp-mtls")))
    assert http.status.code == tcp.status.code == PERMISSION_DENIED
    assert http.denied_response.status.code == 403  # 418 is no status that Envoy knows
    assert http.denied_response.body == "no interns"
    assert [(one.header.key, one.header.value) for one in http.denied_response.headers] == [("x-why", "policy")]
    assert http.dynamic_metadata["rule"] == tcp.dynamic_metadata["rule"] == "shop/no-interns"
    assert not tcp.HasField("denied_response")
    assert (services.stats.checks, services.stats.denied, services.stats.failed) == (2, 2, 0)


async def test_headers_of_who_is_admitted(tmp_path: Path) -> None:
    yes = Outcome(request_set=(("x-team", "a"),), request_remove=("x-old",), response_set=(("x-seen", "1"),))
    async with served(tmp_path, Fixed(yes)) as (_, channel):
        found = CheckResponse.FromString(await call(channel, AUTHORIZATION, "Check", captured("check-http-plain")))
    assert found.status.code == 0
    assert [(one.header.key, one.header.value) for one in found.ok_response.headers] == [("x-team", "a")]
    assert list(found.ok_response.headers_to_remove) == ["x-old"]
    assert [one.header.key for one in found.ok_response.response_headers_to_add] == ["x-seen"]


async def test_a_limit_that_is_reached(tmp_path: Path) -> None:
    judge = Fixed(Outcome(allowed=False, status=429, body="slow down", rule="shop/limit"))
    async with served(tmp_path, judge) as (_, channel):
        data = await call(channel, RATE_LIMITS, "ShouldRateLimit", captured("rate-limit"))
        found = RateLimitResponse.FromString(data)
    assert found.overall_code == RateLimitResponse.OVER_LIMIT
    assert [status.code for status in found.statuses] == [RateLimitResponse.OVER_LIMIT]
    assert found.raw_body == b"slow down"
    assert judge.bags == [{"request": {"descriptors": {"client": "c1", "request.path": "/items"}}}]
    assert RESOURCE_EXHAUSTED


async def test_only_proxies_of_the_mesh_are_answered(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    server = with_server_name(authority)
    judge = Fixed()
    ratings = make_identity(authority, "ratings", "shop")
    async with served(tmp_path, judge, server=server, client=ratings) as (_, channel):
        await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"), namespace="shop")
        with pytest.raises(grpc.aio.AioRpcError, match="certificate says 'shop'") as told:
            await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"), namespace="bank")
        assert told.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [asker.namespace for asker in judge.askers] == ["shop"]


async def test_a_revoked_certificate_is_refused_from_the_next_call_on(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    ratings = make_identity(authority, "ratings", "shop")
    serial = f"{x509.load_pem_x509_certificate(ratings.certificate).serial_number:x}"
    async with served(tmp_path, Fixed(), server=with_server_name(authority), client=ratings) as (services, channel):
        await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"))
        services.revoked = frozenset({serial})
        with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
            await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"))


async def test_a_proxy_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    other = make_identity(authority, "ratings", "shop", "other.example")
    async with served(tmp_path, Fixed(), server=with_server_name(authority), client=other) as (services, channel):
        services.trust_domain = "cluster.local"
        with pytest.raises(grpc.aio.AioRpcError, match=r"is of other\.example"):
            await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"))


@pytest.mark.parametrize("who", ["nobody", "stranger", "no-workload"])
async def test_others_are_not(tmp_path: Path, who: str) -> None:
    authority = StrangeAuthority()
    server = with_server_name(authority)
    client = {
        "nobody": None,
        "stranger": make_identity(StrangeAuthority(), "ratings", "shop"),
        "no-workload": sign_identity(authority, "https://ratings.shop"),
    }[who]
    judge = Fixed()
    async with served(tmp_path, judge, server=server, client=client) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await call(channel, AUTHORIZATION, "Check", captured("check-http-mtls"))
    code = grpc.StatusCode.PERMISSION_DENIED if who == "no-workload" else grpc.StatusCode.UNAVAILABLE
    assert told.value.code() is code
    assert judge.bags == []


@pytest.mark.parametrize(
    ("service", "method"), [(AUTHORIZATION, "Check"), (RATE_LIMITS, "ShouldRateLimit")], ids=["check", "limit"]
)
async def test_what_cannot_be_read_has_a_status(tmp_path: Path, service: str, method: str) -> None:
    async with served(tmp_path, Fixed()) as (services, channel):
        for data in (b"", b"\xff\xff", b"\x0a\xff"):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call(channel, service, method, data)
            assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert services.stats.failed == 3
        await call(channel, service, method, captured("check-http-plain" if method == "Check" else "rate-limit"))


async def test_reports_are_read_and_faults_pass(tmp_path: Path) -> None:
    judge = Fixed()
    async with served(tmp_path, judge) as (services, channel):

        async def messages() -> AsyncIterator[bytes]:
            yield captured("log-http-mtls")
            yield b"\xff\xff\xff"
            yield captured("log-tcp-mtls")

        await channel.stream_unary(f"/{ACCESS_LOGS}/StreamAccessLogs")(messages())
        async with asyncio.timeout(5):
            while services.reports.stats.taken < 2:  # noqa: ASYNC110  # a counter has no event
                await asyncio.sleep(0.01)
    assert services.reports.stats.unreadable == 1
    assert [bag["source"]["namespace"] for bag in judge.bags] == ["front", "front"]
    assert judge.bags[0]["response"] == {"code": 200}


async def test_reports_without_room_are_dropped_and_counted() -> None:
    taken: list[int] = []
    queue = ReportQueue(lambda entries, _, __: taken.append(len(entries)), max_bytes=3000)
    data = captured("log-http-mtls")
    asking: Any = None
    room = [queue.put(data, asking) for _ in range(10)]
    kept = sum(room)
    assert 0 < kept < 10
    assert queue.stats.dropped == 10 - kept
    assert queue.waiting_bytes <= 3000
    reading = asyncio.create_task(queue.run())
    while sum(taken) < kept:  # noqa: ASYNC110  # a counter has no event
        await asyncio.sleep(0)
    assert queue.waiting_bytes == 0
    assert queue.put(data, asking)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_decisions_go_between_slices_of_reports() -> None:
    from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

    message = StreamAccessLogsMessage.FromString(captured("log-http-mtls"))
    for _ in range(99):
        message.http_logs.log_entry.append(message.http_logs.log_entry[0])
    seen: list[str] = []
    queue = ReportQueue(lambda entries, _, __: seen.append(f"{len(entries)} entries"))
    reading = asyncio.create_task(queue.run())
    await asyncio.sleep(0)

    async def decide() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append("decision")

    queue.put(message.SerializeToString(), None)  # type: ignore[arg-type]  # nobody asks here
    await decide()
    assert "decision" in seen[1:4]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
