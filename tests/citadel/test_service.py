"""CreateCertificate over a real gRPC server on a Unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from grpc import StatusCode
from structlog.testing import capture_logs
from tests.fakes.certs import START, ManualClock, key_pem, make_csr, p256_csr, uri

from lateen.citadel.audit import AuditLog, read_audit
from lateen.citadel.authenticate import CallContext, Caller, LocalTrust
from lateen.citadel.authority import Authority, IssuedChain
from lateen.citadel.service import MAX_REQUEST_BYTES, SERVER_OPTIONS, CertificateService, Lifetimes, choose_lifetime
from lateen.errors import BadInput, Refused
from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import read_certificate

ME = ((IDENTITY_METADATA, "default/reviews"),)
IDENTITY = "spiffe://cluster.local/ns/default/sa/reviews"
DAY = 86400


@dataclass
class Mesh:
    """A running service and a channel to it."""

    service: CertificateService
    authority: Authority
    clock: ManualClock
    folder: Path
    channel: grpc.aio.Channel
    server: grpc.aio.Server

    async def send(self, data: bytes, metadata: Any = ME) -> bytes:
        answer: bytes = await self.channel.unary_unary(CREATE_CERTIFICATE)(data, metadata=metadata, timeout=20)
        return answer

    async def ask(self, csr: bytes, seconds: int = 0, metadata: Any = ME) -> list[str]:
        request = IstioCertificateRequest(csr=csr.decode(), validity_duration=seconds)
        answer = await self.send(request.SerializeToString(), metadata)
        return list(IstioCertificateResponse.FromString(answer).cert_chain)


@pytest.fixture
def lifetimes() -> Lifetimes:
    return Lifetimes()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture
async def mesh(tmp_path: Path, lifetimes: Lifetimes, logs: list[Any]) -> AsyncIterator[Mesh]:
    clock = ManualClock()
    authority = Authority.load_or_create(tmp_path / "ca", "cluster.local", clock)
    audit = AuditLog(tmp_path / "ca")
    service = CertificateService(
        authority, [LocalTrust("cluster.local")], lifetimes=lifetimes, audit=audit, clock=clock
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handler(),))
    server.add_insecure_port(f"unix:{tmp_path}/ca.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/ca.sock") as channel:
        yield Mesh(service, authority, clock, tmp_path / "ca", channel, server)
    await server.stop(None)
    audit.close()


async def test_a_certificate_is_issued(mesh: Mesh, logs: list[Any]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = await mesh.ask(p256_csr(key=key))
    assert chain[-1].encode() == mesh.authority.root_pem
    assert len(chain) == 2
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(mesh.authority.root_pem))
    summary = read_certificate(chain[0].encode())
    assert str(summary.spiffe_id) == IDENTITY
    assert summary.not_after == START + timedelta(hours=24)
    assert leaf.public_key() == key.public_key()

    facts = {"identity": IDENTITY, "source": "local-trust", "serial": summary.serial}
    until = "2026-06-02T12:00:00Z"
    assert logs == [{"event": "certificate issued", "log_level": "info", **facts, "not_after": until}]
    (entry,) = read_audit(mesh.folder)
    assert (entry.event, entry.identity, entry.serial) == ("issued", IDENTITY, summary.serial)
    assert (entry.time, entry.not_after) == ("2026-06-01T12:00:00Z", until)
    assert mesh.service.counters.as_dict() == {
        "csr_count": 1,
        "authentication_failure_count": 0,
        "csr_parsing_err_count": 0,
        "csr_sign_err_count": 0,
        "success_cert_issuance_count": 1,
    }


async def test_the_csr_is_not_believed(mesh: Mesh) -> None:
    names = x509.SubjectAlternativeName([uri("spiffe://cluster.local/ns/istio-system/sa/lateen"), x509.DNSName("*")])
    hostile = p256_csr(
        subject="lateen", extensions=[(names, True), (x509.BasicConstraints(ca=True, path_length=None), True)]
    )
    leaf = x509.load_pem_x509_certificate((await mesh.ask(hostile))[0].encode())
    (name,) = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name == uri(IDENTITY)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param((), "carries no credentials of a kind that is taken here", id="none"),
        pytest.param((("authorization", "Bearer abc"),), "carries no credentials", id="token"),
        pytest.param(((IDENTITY_METADATA, "default"),), "names no identity", id="half"),
        pytest.param(((IDENTITY_METADATA, "Default/reviews"),), "namespace 'Default'", id="upper-case"),
        pytest.param(((IDENTITY_METADATA, "default/reviews/x"),), "names no identity", id="third-part"),
        pytest.param(((IDENTITY_METADATA, "../reviews"),), "namespace '..'", id="dots"),
        pytest.param((*ME, (IDENTITY_METADATA, "istio-system/lateen")), "one value wanted, got 2", id="two"),
        pytest.param(((IDENTITY_METADATA, ""),), "names no identity", id="empty"),
    ],
)
async def test_unknown_callers(mesh: Mesh, logs: list[Any], metadata: Any, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(p256_csr(), metadata=metadata)
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert message in caught.value.details()
    assert [line["log_level"] for line in logs] == ["warning"]
    (entry,) = read_audit(mesh.folder)
    assert (entry.event, entry.identity) == ("refused", "")
    assert message in entry.reason
    assert mesh.service.counters.authentication_failure_count == 1
    assert mesh.authority.issued == 0


WEAK = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param(IstioCertificateRequest(csr=""), "CSR signing error (CSR_ERROR): one cert", id="no-csr"),
        pytest.param(
            IstioCertificateRequest(csr=make_csr(WEAK, digest=hashes.SHA256()).decode()),
            "CSR signing error (CSR_ERROR): RSA key of 1024 bits",
            id="weak",
        ),
        pytest.param(
            IstioCertificateRequest(csr=p256_csr().decode(), validity_duration=90 * DAY + 1),
            "CSR signing error (TTL_ERROR): validity_duration of 7776001 s, at most 7776000 s wanted",
            id="too-long",
        ),
        pytest.param(
            IstioCertificateRequest(csr=p256_csr().decode(), validity_duration=2**63 - 1), "TTL_ERROR", id="int64"
        ),
        pytest.param(IstioCertificateRequest(csr="x" * (MAX_REQUEST_BYTES + 1)), "at most 65536 wanted", id="huge"),
        pytest.param(IstioCertificateRequest(csr="x" * 1_000_000), "at most 65536 wanted", id="a-megabyte"),
    ],
)
async def test_wrong_requests(mesh: Mesh, request_: IstioCertificateRequest, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.send(request_.SerializeToString())
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()
    (entry,) = read_audit(mesh.folder)
    assert (entry.event, entry.identity, entry.source) == ("refused", IDENTITY, "local-trust")
    assert len(await mesh.ask(p256_csr())) == 2


@pytest.mark.parametrize("data", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"])
async def test_garbage(mesh: Mesh, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.send(data)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert len(await mesh.ask(p256_csr())) == 2


async def test_oversized_messages_end_at_grpc(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.send(b"\0" * 5_000_000)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert len(await mesh.ask(p256_csr())) == 2


async def test_nobody_stands_for_somebody_else(mesh: Mesh) -> None:
    request = IstioCertificateRequest(csr=p256_csr().decode())
    request.metadata["ImpersonatedIdentity"] = "spiffe://cluster.local/ns/default/sa/ratings"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.send(request.SerializeToString())
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert mesh.authority.issued == 0


async def test_an_expired_root(mesh: Mesh) -> None:
    mesh.clock.advance(timedelta(days=3651))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(p256_csr())
    assert caught.value.code() is StatusCode.INTERNAL
    assert "CSR signing error (CERT_GEN_ERROR): signing certificate holds" in caught.value.details()
    assert mesh.service.counters.csr_sign_err_count == 1


@pytest.mark.parametrize("lifetimes", [Lifetimes.exactly(timedelta(seconds=10))])
async def test_ten_second_mesh(mesh: Mesh) -> None:
    for seconds in (0, 10, -1):
        summary = read_certificate((await mesh.ask(p256_csr(), seconds))[0].encode())
        assert summary.not_after - START == timedelta(seconds=10)
    with pytest.raises(grpc.aio.AioRpcError, match="at most 10 s wanted"):
        await mesh.ask(p256_csr(), 11)


async def test_assurance_18_a_storm_loses_none_and_starves_nobody(mesh: Mesh) -> None:
    """2,000 CSRs at once over ten connections, as agents send them: asked again when told to."""
    csr, connections, each = p256_csr(), 10, 200
    options = (("grpc.use_local_subchannel_pool", 1),)
    target = f"unix:{mesh.folder.parent}/ca.sock"
    data = IstioCertificateRequest(csr=csr.decode()).SerializeToString()

    async def ask(channel: grpc.aio.Channel, account: str) -> str:
        while True:
            try:
                answer = await channel.unary_unary(CREATE_CERTIFICATE)(
                    data, metadata=((IDENTITY_METADATA, f"default/{account}"),), timeout=60
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED):
                    raise
                await asyncio.sleep(0.02)
            else:
                return str(IstioCertificateResponse.FromString(answer).cert_chain[0])

    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))
            for _ in range(connections)
        ]
        storm = [
            asyncio.create_task(ask(channel, f"app-{number}"))
            for number, channel in enumerate(channels)
            for _ in range(each)
        ]
        other = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))
        few = [asyncio.create_task(ask(other, "other")) for _ in range(3)]  # the last to ask
        leaves = await asyncio.gather(*storm)
        assert all(await asyncio.gather(*few))
    found = [str(read_certificate(leaf.encode()).spiffe_id) for leaf in leaves]
    wanted = [f"default/sa/app-{number}" for number in range(connections) for _ in range(each)]
    assert found == [f"spiffe://cluster.local/ns/{name}" for name in wanted]
    assert len(set(leaves)) == connections * each
    issued = [entry.identity for entry in read_audit(mesh.folder) if entry.event == "issued"]
    assert mesh.service.counters.success_cert_issuance_count == len(issued) == connections * each + 3
    places = [place for place, identity in enumerate(issued) if identity.endswith("/other")]
    # The last to ask would be the last served. How much is served before its request is read is the machine's affair.
    assert max(places) < len(issued) * 0.8, "the other caller was served in the midst of the storm"
    assert mesh.service.turns.most_waiting <= 2000, "what waits is bounded, not only by what was sent"


async def test_planted_secrets_show_nowhere(mesh: Mesh, logs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """A careless client that sends its private key along finds it in no log line, audit line or status."""
    secret = key_pem(ec.generate_private_key(ec.SECP256R1()))
    body = secret.decode().splitlines()[1]
    details = ""
    for csr in (secret, p256_csr() + secret, b"-----BEGIN CERTIFICATE REQUEST-----\n" + secret[28:]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.ask(csr)
        details += caught.value.details()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(p256_csr(), metadata=(*ME, ("authorization", f"Bearer {body}"), (IDENTITY_METADATA, "a/b")))
    details += caught.value.details()
    await mesh.ask(p256_csr())
    root_key = (mesh.folder / "ca-key.pem").read_text().splitlines()[1]
    output = capsys.readouterr()
    shown = details + repr(logs) + (mesh.folder / "audit.jsonl").read_text() + output.out + output.err
    assert len(logs) == 5
    for planted in (body, root_key):
        assert planted[10:40] not in shown


class Always:
    """An authenticator that gives what it was told to."""

    def __init__(self, answer: Caller | Refused | None) -> None:
        self.answer = answer

    async def authenticate(self, context: CallContext) -> Caller | None:
        if isinstance(self.answer, Refused):
            raise self.answer
        return self.answer


class Recorder:
    """An issuer that notes for whom it was asked, and refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def issue(self, csr_pem: bytes, spiffe_id: SpiffeId, lifetime: timedelta) -> IssuedChain:
        self.asked.append(spiffe_id.service_account)
        raise BadInput("enough seen")


class Context:
    """The part of a gRPC context that is used, without gRPC."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: StatusCode, details: str) -> None:
        raise Refused(f"{code.name}: {details}")


A, B = (Caller(SpiffeId("cluster.local", "default", name), "test") for name in "ab")


@pytest.mark.parametrize(
    ("answers", "asked", "message"),
    [
        pytest.param([A, B], ["a"], "INVALID_ARGUMENT", id="first-success-wins"),
        pytest.param([None, B], ["b"], "INVALID_ARGUMENT", id="nothing-of-its-kind"),
        pytest.param([Refused("bad token"), B], ["b"], "INVALID_ARGUMENT", id="a-later-one-succeeds"),
        pytest.param([None, Refused("bad token"), None], [], "UNAUTHENTICATED: bad token", id="refused"),
        pytest.param([Refused("one"), Refused("two")], [], "UNAUTHENTICATED: one", id="first-reason"),
        pytest.param([], [], "UNAUTHENTICATED: the call carries no credentials", id="no-authenticators"),
    ],
)
async def test_order_of_authenticators(answers: list[Any], asked: list[str], message: str, logs: list[Any]) -> None:
    issuer = Recorder()
    service = CertificateService(issuer, [Always(answer) for answer in answers])
    with pytest.raises(Refused, match=message):
        await service.create_certificate(b"", Context())
    assert issuer.asked == asked
    assert len(logs) == 1


@pytest.mark.parametrize(
    ("requested", "chosen"),
    [
        pytest.param(0, timedelta(hours=24), id="default"),
        pytest.param(-5, timedelta(hours=24), id="negative"),
        pytest.param(-(2**63), timedelta(hours=24), id="lowest"),
        pytest.param(1, timedelta(seconds=1), id="a-second"),
        pytest.param(90 * DAY, timedelta(days=90), id="maximum"),
    ],
)
def test_choose_lifetime(requested: int, chosen: timedelta) -> None:
    assert choose_lifetime(requested, Lifetimes()) == chosen


@pytest.mark.parametrize(
    ("default", "maximum"),
    [
        pytest.param(timedelta(days=2), timedelta(days=1), id="default-above-maximum"),
        pytest.param(timedelta(0), timedelta(days=1), id="none"),
        pytest.param(-timedelta(days=1), timedelta(days=1), id="negative"),
    ],
)
def test_impossible_lifetimes(default: timedelta, maximum: timedelta) -> None:
    with pytest.raises(BadInput, match="certificate lifetimes"):
        Lifetimes(default=default, maximum=maximum)
