"""Certificates that are signed elsewhere: what is ordered, what is handed out, and what a caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import StatusCode
from structlog.testing import capture_logs
from tests.fakes.certs import ManualClock, p256_csr, pem_of, uri
from tests.fakes.signing import CsrSigner, Lie

from lateen.citadel.audit import AuditLog, read_audit
from lateen.citadel.authenticate import LocalTrust
from lateen.citadel.authority import Authority, LocalSigner
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.identity import FILE_NAME, AwaitedServerIdentity
from lateen.citadel.external.interface import ExternalAuthority, Order
from lateen.citadel.external.issuer import ExternalIssuer, own_csr
from lateen.citadel.server_identity import SERVER_NAMES
from lateen.citadel.service import CertificateService
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
HOUR = timedelta(hours=1)
KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Elsewhere(ExternalAuthority):
    """Signs what CSRs say, below an intermediate; or lies; or does what the test says."""

    clock: Callable[[], datetime]
    orders: list[Order] = field(default_factory=list)
    lie: Lie | None = None
    act: Callable[[Order], Any] | None = None

    def __post_init__(self) -> None:
        self.root = CsrSigner("the root", clock=self.clock)
        self.signer = CsrSigner("the signer", parent=self.root, clock=self.clock)

    async def sign(self, order: Order) -> bytes:
        self.orders.append(order)
        if self.act is not None:
            await asyncio.sleep(0)
            result: bytes = self.act(order)
            return result
        leaf = self.signer.sign(order.csr, order.lifetime, self.lie)
        return pem_of(leaf) + self.signer.pem + self.root.pem

    def issuer(self, clock: Callable[[], datetime]) -> ExternalIssuer:
        guard = Guard(self, name="acme", timeout=timedelta(seconds=5), concurrency=4)
        return ExternalIssuer(guard, "cluster.local", [self.root.certificate], clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def elsewhere(clock: ManualClock) -> Elsewhere:
    return Elsewhere(clock)


async def test_what_is_ordered_and_what_is_handed_out(elsewhere: Elsewhere, clock: ManualClock) -> None:
    issuer = elsewhere.issuer(clock)
    csr = own_csr(KEY, ME)
    issued = await issuer.issue(csr, ME, HOUR + timedelta(milliseconds=400))
    assert elsewhere.orders == [Order(profile="leaf", csr=csr, lifetime=HOUR, spiffe_id=ME, names_in_csr=True)]
    assert issued.chain == (elsewhere.signer.pem,)
    assert issued.root == elsewhere.root.pem
    assert issued.not_after == clock.now + HOUR
    assert issued.serial == f"{x509.load_pem_x509_certificate(issued.leaf).serial_number:x}"


async def test_what_is_not_even_ordered(elsewhere: Elsewhere, clock: ManualClock) -> None:
    issuer = elsewhere.issuer(clock)
    names = x509.SubjectAlternativeName([uri("spiffe://cluster.local/ns/istio-system/sa/lateen")])
    with pytest.raises(BadInput, match="an external authority could believe it"):
        await issuer.issue(p256_csr(extensions=[(names, True)]), ME, HOUR)
    with pytest.raises(Refused, match=r"is not of trust domain .cluster\.local."):
        await issuer.issue(own_csr(KEY), SpiffeId("other", "a", "b"), HOUR)
    with pytest.raises(BadInput, match="at least one second"):
        await issuer.issue(own_csr(KEY), ME, timedelta(milliseconds=10))
    with pytest.raises(BadInput, match="one certificate request in PEM wanted"):
        await issuer.issue(b"", ME, HOUR)
    assert elsewhere.orders == []


# ---------------------------------------------------------------- behind the signing service


@dataclass
class Mesh:
    folder: Path
    channel: grpc.aio.Channel
    service: CertificateService

    async def ask(self, csr: bytes) -> list[str]:
        request = IstioCertificateRequest(csr=csr.decode(), validity_duration=3600).SerializeToString()
        metadata = ((IDENTITY_METADATA, "default/reviews"),)
        answer = await self.channel.unary_unary(CREATE_CERTIFICATE)(request, metadata=metadata, timeout=20)
        return list(IstioCertificateResponse.FromString(answer).cert_chain)


@pytest.fixture
async def mesh(tmp_path: Path, elsewhere: Elsewhere, clock: ManualClock) -> AsyncIterator[Mesh]:
    with capture_logs():
        audit = AuditLog(tmp_path)
        service = CertificateService(elsewhere.issuer(clock), [LocalTrust("cluster.local")], audit=audit, clock=clock)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service.handler(),))
        server.add_insecure_port(f"unix:{tmp_path}/ca.sock")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/ca.sock") as channel:
            yield Mesh(tmp_path, channel, service)
        await server.stop(None)
        audit.close()


async def test_a_caller_gets_the_chain_and_the_trail_has_the_serial(mesh: Mesh, elsewhere: Elsewhere) -> None:
    chain = await mesh.ask(own_csr(KEY, ME))
    assert [pem.encode() for pem in chain[1:]] == [elsewhere.signer.pem, elsewhere.root.pem]
    (entry,) = read_audit(mesh.folder)
    serial = x509.load_pem_x509_certificate(chain[0].encode()).serial_number
    assert (entry.event, entry.identity, entry.serial) == ("issued", str(ME), f"{serial:x}")


def away(_: Order) -> bytes:
    raise Unavailable("connection refused")


def no(_: Order) -> bytes:
    raise Refused("not allowed by this role")


@pytest.mark.parametrize(
    ("act", "told"),
    [
        pytest.param(away, "acme cannot sign now: connection refused", id="away"),
        pytest.param(no, "acme refuses: not allowed by this role", id="it says no"),
        pytest.param(lambda _: b"nonsense", "acme gave a certificate that must not be used", id="nonsense"),
    ],
)
async def test_a_caller_is_told_why_and_so_is_the_trail(
    mesh: Mesh, elsewhere: Elsewhere, act: Callable[[Order], bytes], told: str
) -> None:
    elsewhere.act = act
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(own_csr(KEY, ME))
    assert caught.value.code() is StatusCode.INTERNAL
    assert f"CSR signing error (CERT_GEN_ERROR): {told}" in str(caught.value.details())
    (entry,) = read_audit(mesh.folder)
    assert (entry.event, entry.identity) == ("refused", str(ME))
    assert told in entry.reason
    assert mesh.service.counters.csr_sign_err_count == 1
    assert mesh.service.counters.success_cert_issuance_count == 0


LIES = [
    pytest.param(Lie(names=[uri("spiffe://cluster.local/ns/istio-system/sa/lateen")]), "URI names", id="wrong SAN"),
    pytest.param(Lie(authority=True), "it is an authority", id="CA:TRUE"),
    pytest.param(Lie(key=ec.generate_private_key(ec.SECP256R1())), "its key is not the requested", id="wrong key"),
    pytest.param(Lie(issuer=CsrSigner("the signer")), "is not signed by", id="other root"),
    pytest.param(Lie(lifetime=timedelta(hours=2)), "it holds until", id="too long"),
]


@pytest.mark.parametrize(("lie", "told"), LIES)
async def test_a_lie_is_handed_to_nobody(mesh: Mesh, elsewhere: Elsewhere, lie: Lie, told: str) -> None:
    elsewhere.lie = lie
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(own_csr(KEY, ME))
    assert "must not be used" in str(caught.value.details())
    assert told in str(caught.value.details())
    assert [entry.event for entry in read_audit(mesh.folder)] == ["refused"]
    elsewhere.lie = None
    assert len(await mesh.ask(own_csr(KEY, ME))) == 3


async def test_waiting_for_one_holds_up_no_other(mesh: Mesh, elsewhere: Elsewhere) -> None:
    """The loop goes on while an order is under way: a refusal overtakes it."""
    gate = asyncio.Event()

    class Slow(Elsewhere):
        async def sign(self, order: Order) -> bytes:
            await gate.wait()
            return await super().sign(order)

    elsewhere.__class__ = Slow
    waiting = [asyncio.create_task(mesh.ask(own_csr(KEY, ME))) for _ in range(4)]
    with pytest.raises(grpc.aio.AioRpcError, match="one certificate request in PEM wanted"):
        await mesh.ask(b"no CSR")
    assert not any(task.done() for task in waiting)
    gate.set()
    assert {len(chain) for chain in await asyncio.gather(*waiting)} == {3}


# ---------------------------------------------------------------- the control plane's own


@dataclass
class Own:
    """Opens the identity again and again, as restarts do."""

    folder: Path
    elsewhere: Elsewhere
    clock: ManualClock
    slept: list[float] = field(default_factory=list)

    async def open(self) -> AwaitedServerIdentity:
        root = self.elsewhere.root
        authority = Authority(LocalSigner(root.certificate, root.key), "cluster.local", self.clock)
        issuer = self.elsewhere.issuer(self.clock)
        return await AwaitedServerIdentity.open(
            issuer, authority, self.folder, clock=self.clock, sleep=self._sleep, draw=lambda: 0.0
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)


@pytest.fixture
def own(tmp_path: Path, elsewhere: Elsewhere, clock: ManualClock) -> Own:
    return Own(tmp_path, elsewhere, clock)


async def test_its_own_certificate_outlives_a_restart_without_the_authority(own: Own) -> None:
    identity = await own.open()
    leaf = x509.load_pem_x509_certificate(identity.issued.leaf)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(SERVER_NAMES)
    assert (own.folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    own.elsewhere.act = away
    again = await own.open()
    assert again.issued == identity.issued
    assert again.material() == identity.material()


@pytest.mark.parametrize("what", ["over", "open to others", "damaged", "of another key"])
async def test_what_is_kept_and_of_no_use_is_replaced(own: Own, what: str) -> None:
    first = await own.open()
    path = own.folder / FILE_NAME
    if what == "over":
        own.clock.advance(timedelta(hours=24))
    elif what == "open to others":
        path.chmod(0o644)
    elif what == "damaged":
        path.write_bytes(path.read_bytes()[:80])
    else:
        from tests.fakes.certs import key_pem

        data = path.read_bytes()
        path.write_bytes(key_pem(KEY) + data[data.index(b"-----BEGIN CERTIFICATE-----") :])
    with capture_logs():
        assert (await own.open()).issued.serial != first.issued.serial
    assert len(own.elsewhere.orders) == 2


async def test_it_is_renewed_ahead_and_a_handshake_never_waits(own: Own) -> None:
    identity = await own.open()
    first = identity.issued
    tries = 0

    def away_for_a_while(order: Order) -> bytes:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise Unavailable("connection refused")
        own.elsewhere.act = None
        leaf = own.elsewhere.signer.sign(order.csr, order.lifetime)
        return pem_of(leaf) + own.elsewhere.signer.pem

    own.elsewhere.act = away_for_a_while
    own.clock.advance(timedelta(hours=12))
    assert identity.renew_if_due() == first
    with capture_logs() as logs:
        task = asyncio.create_task(identity.run())
        while identity.renew_if_due() == first:  # noqa: ASYNC110 each look moves the clock
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [line["event"] for line in logs if line["event"].startswith("own")] == [
        "own certificate not renewed",
        "own certificate not renewed",
        "own certificate renewed",
    ]
    assert own.slept[:2] == [1.0, 2.0]
    assert identity.issued.not_after > first.not_after
    assert identity.fault == ""


async def test_without_the_authority_the_first_start_fails(own: Own) -> None:
    own.elsewhere.act = away
    with pytest.raises(Unavailable, match="acme cannot sign now: connection refused"):
        await own.open()
    assert not (own.folder / FILE_NAME).exists()
