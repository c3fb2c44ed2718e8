"""The control plane's own certificate on a real gRPC server: who gets in, who the peer is, renewal in between."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs
from tests.fakes.certs import ManualClock, StrangeAuthority, key_pem, p256_csr, pem_of, uri

from lateen.citadel.authority import Authority, new_serial, utc_now
from lateen.citadel.keystore import material_of_root
from lateen.citadel.server_identity import SERVER_NAME, ServerIdentity
from lateen.citadel.store import RootWish, make_root
from lateen.wire.join import JOIN_NAME
from lateen.wire.peer import peer_spiffe_id
from lateen.wire.spiffe import SpiffeId

METHOD = "/test.Peer/Who"
ME = "spiffe://cluster.local/ns/default/sa/reviews"


class RealSigner:
    """Signs anything at all with the mesh's own root: what Citadel itself would never sign."""

    def __init__(self, authority: Authority) -> None:
        self.strange = StrangeAuthority()
        signer = authority.signer
        self.strange.key = signer.key  # type: ignore[attr-defined]
        self.issuer_name = signer.certificate.subject

    def certify(self, key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName], **kwargs: Any) -> bytes:
        strange = self.strange
        certificate = strange.certify(key, names=names, issuer_name=self.issuer_name, **kwargs)
        return pem_of(certificate)


@dataclass
class Mesh:
    """A server with the identity, the authority behind it, and clients of every sort."""

    authority: Authority
    identity: ServerIdentity
    clock: ManualClock  # of the server's renewals
    signing_clock: ManualClock  # of the authority; apart, since TLS libraries go by the real time
    target: str

    def channel(self, key: Any, certificate: bytes | None, root: bytes | None = None) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            root or self.authority.root_pem, key_pem(key) if certificate else None, certificate
        )
        options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(self.target, credentials, options=options)

    async def who(self, key: Any, certificate: bytes | None, root: bytes | None = None) -> str:
        async with self.channel(key, certificate, root) as channel:
            return await ask(channel)

    def workload(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = SpiffeId("cluster.local", "default", "reviews")
        return key, self.authority.issue(p256_csr(key=key), identity, timedelta(hours=1)).leaf


async def ask(channel: grpc.aio.Channel) -> str:
    answer: bytes = await channel.unary_unary(METHOD)(b"", timeout=10)
    return answer.decode()


async def who(data: bytes, context: Any) -> bytes:
    return (peer_spiffe_id(context) or "nobody").encode()


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    clock, signing_clock = ManualClock(utc_now()), ManualClock(utc_now())
    authority = Authority.load_or_create(tmp_path / "ca", "cluster.local", signing_clock)
    identity = ServerIdentity(authority, clock=clock, draw=lambda: 0.0)
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("test.Peer", {"Who": grpc.unary_unary_rpc_method_handler(who)})
    server.add_generic_rpc_handlers((handler,))
    target = f"unix:{tmp_path}/xds.sock"
    server.add_secure_port(target, identity.credentials())
    await server.start()
    yield Mesh(authority, identity, clock, signing_clock, target)
    await server.stop(None)


async def test_a_workload_is_recognised(mesh: Mesh) -> None:
    assert await mesh.who(*mesh.workload()) == ME


async def test_the_certificate_itself(mesh: Mesh) -> None:
    issued = mesh.identity.issued
    leaf = x509.load_pem_x509_certificate(issued.leaf)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = [x509.DNSName(SERVER_NAME), x509.DNSName(JOIN_NAME)]
    assert list(names) == [uri("spiffe://cluster.local/ns/istio-system/sa/lateen"), *dns]
    assert issued.not_after - mesh.signing_clock().replace(microsecond=0) == timedelta(hours=24)


async def test_without_certificate_nobody_gets_in(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.who(None, None)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await mesh.who(*mesh.workload()) == ME


async def test_plain_text_does_not_get_in(mesh: Mesh) -> None:
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "changes",
    [
        # Times as they are when the test runs: the whole suite may have been collected minutes before.
        pytest.param(lambda now: {"not_after": now - timedelta(minutes=1)}, id="expired"),
        pytest.param(lambda now: {"not_before": now + timedelta(minutes=30)}, id="not-yet-valid"),
        pytest.param(lambda now: {"usages": (ExtendedKeyUsageOID.SERVER_AUTH,)}, id="for-servers-only"),
    ],
)
async def test_certificates_that_do_not_hold(mesh: Mesh, changes: Callable[[datetime], dict[str, Any]]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = RealSigner(mesh.authority).certify(key, [uri(ME)], **changes(datetime.now(UTC)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.who(key, certificate)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_root_does_not_get_in(mesh: Mesh) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for organization in (None, mesh.authority.signer.certificate.subject):
        certificate = pem_of(StrangeAuthority().certify(key, names=[uri(ME)], issuer_name=organization))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.who(key, certificate)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_leaf_signs_no_other(mesh: Mesh) -> None:
    key, leaf = mesh.workload()
    strange = StrangeAuthority()
    strange.key = key
    mine = ec.generate_private_key(ec.SECP256R1())
    below = strange.certify(
        mine,
        names=[uri("spiffe://cluster.local/ns/istio-system/sa/lateen")],
        issuer_name=x509.load_pem_x509_certificate(leaf).subject,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.who(mine, pem_of(below) + leaf)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_clients_see_through_another_server(mesh: Mesh) -> None:
    key, leaf = mesh.workload()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.who(key, leaf, root=StrangeAuthority().root_pem)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="none"),
        pytest.param([uri(ME), uri("spiffe://cluster.local/ns/default/sa/ratings")], id="two"),
        pytest.param([uri(ME), uri(ME)], id="twice"),
        pytest.param([uri(ME + "\0.evil")], id="zero-byte"),
        pytest.param([uri("https://example.com/")], id="no-spiffe"),
        pytest.param([uri("spiffe://cluster.local")], id="trust-domain-alone"),
        pytest.param([uri("spiffe://cluster.local/ns/default/sa/reviews/x")], id="longer"),
        pytest.param([x509.DNSName(ME.replace("/", "."))], id="dns"),
        pytest.param([x509.RFC822Name("spiffe@cluster.local")], id="mail"),
    ],
)
async def test_verified_but_nobody(mesh: Mesh, names: list[x509.GeneralName]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert await mesh.who(key, RealSigner(mesh.authority).certify(key, names)) == "nobody"


async def served_serial(mesh: Mesh) -> str:
    """Return the serial of the certificate that a new connection is shown, by another TLS library than gRPC's."""
    key, leaf = mesh.workload()
    path = Path(mesh.target.removeprefix("unix:"))
    (path.parent / "client.pem").write_bytes(key_pem(key) + leaf)
    context = ssl.create_default_context(cadata=mesh.authority.root_pem.decode())
    context.load_cert_chain(path.parent / "client.pem")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_unix_connection(str(path), ssl=context, server_hostname=SERVER_NAME)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return f"{x509.load_der_x509_certificate(shown).serial_number:x}"


async def test_renewal_drops_no_connection(mesh: Mesh) -> None:
    first = mesh.identity.issued
    async with mesh.channel(*mesh.workload()) as standing:
        assert await ask(standing) == ME
        mesh.clock.advance(timedelta(hours=11))
        assert await served_serial(mesh) == first.serial
        mesh.clock.advance(timedelta(hours=2))
        with capture_logs() as logs:
            renewed = await served_serial(mesh)
        assert renewed != first.serial
        assert renewed == mesh.identity.issued.serial
        assert [(line["event"], line["serial"]) for line in logs] == [("own certificate renewed", renewed)]
        mesh.clock.advance(timedelta(hours=-13))  # the new one begins now, in the authority's time
        assert await served_serial(mesh) == renewed
        assert await ask(standing) == ME
        assert await mesh.who(*mesh.workload()) == ME


async def test_a_renewal_that_fails_keeps_the_old(mesh: Mesh) -> None:
    first = mesh.identity.issued
    key, leaf = mesh.workload()
    mesh.signing_clock.advance(timedelta(days=4000))
    mesh.clock.advance(timedelta(days=1))
    with capture_logs() as logs:
        assert await mesh.who(key, leaf) == ME
    assert mesh.identity.issued == first
    assert {line["event"] for line in logs} == {"own certificate not renewed"}


async def test_no_secret_shows(mesh: Mesh) -> None:
    shown = repr(mesh.identity) + repr(vars(mesh.identity))
    assert "PRIVATE" not in shown
    assert mesh.identity.issued.serial in repr(mesh.identity)


async def test_it_follows_the_roots_through_a_rotation(mesh: Mesh) -> None:
    old = mesh.authority.signer
    new = material_of_root(make_root(RootWish(), "cluster.local", utc_now(), new_serial()))
    old_root, old_client = mesh.authority.root_pem, mesh.workload()
    new_root = pem_of(new.certificate)

    async with mesh.channel(*old_client) as standing:
        assert await ask(standing) == ME
        # Both are believed, the old one signs: the server shows what everybody knows.
        mesh.authority.use(old, [new.certificate])
        assert await mesh.who(*old_client, root=old_root) == ME
        # The new one signs: certificates of both get in, and the server is one of the new.
        mesh.authority.use(new, [old.certificate])
        new_client = mesh.workload()
        for client in (old_client, new_client):
            assert await mesh.who(*client, root=new_root) == ME
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.who(*new_client, root=old_root)
        # The old one is believed no more.
        mesh.authority.use(new)
        assert await mesh.who(*new_client, root=new_root) == ME
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.who(*old_client, root=new_root)
        assert await ask(standing) == ME, "a connection that stands is not ended by any of it"


@pytest.mark.parametrize("kind", ["p384", "rsa2048", "rsa4096"])
async def test_roots_with_other_keys_are_verified_by_the_library_that_proxies_use(mesh: Mesh, kind: str) -> None:
    root = make_root(RootWish(kind), "cluster.local", utc_now(), new_serial())
    mesh.authority.use(material_of_root(root))
    assert await mesh.who(*mesh.workload(), root=pem_of(root.certificate)) == ME
