"""The bundle endpoint over real TLS: the document, who answers, and what else is answered (nothing)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import ManualClock
from tests.fakes.ports import free_port

from lateen.citadel.authority import Authority
from lateen.citadel.jwt_authority import JwtAuthority
from lateen.citadel.server_identity import ServerIdentity
from lateen.errors import BadInput, Refused
from lateen.pilot.serving.bundle_endpoint import (
    BundleEndpoint,
    BundleEndpointOptions,
    FileCertificate,
    OwnCertificate,
    Sequence,
)
from lateen.wire.http_server import MAX_CONNECTIONS
from lateen.wire.memory_tls import server_context
from lateen.wire.spiffe import SpiffeId
from lateen.wire.spiffe_bundle import Bundle, parse_bundle
from lateen.wire.svid import spiffe_id_of

PEM = serialization.Encoding.PEM


class Mesh:
    """One authority's side of an endpoint."""

    def __init__(self, folder: Path, clock: Callable[[], object] | None = None) -> None:
        self.folder = folder
        self.authority = Authority.load_or_create(folder / "ca", "a.example")
        self.jwts = JwtAuthority(folder / "jwt", "a.example")
        self.identity = ServerIdentity(self.authority)

    def bundle(self) -> Bundle:
        return Bundle(roots=self.authority.roots, jwt_keys=self.jwts.public_keys)

    def pair(self, name: str) -> tuple[Path, Path]:
        """Write a certificate for a DNS name and its key, signed by the mesh's root as some web authority would."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.authority.issue_for_key(
            key.public_key(), SpiffeId("a.example", "web", "ca"), timedelta(hours=1), (name,)
        )
        paths = self.folder / "tls.crt", self.folder / "tls.key"
        paths[0].write_bytes(issued.leaf)
        paths[1].write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return paths


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@asynccontextmanager
async def serving(mesh: Mesh, certificate: Callable[[], ssl.SSLContext]) -> AsyncIterator[int]:
    port = free_port()
    options = BundleEndpointOptions(address="127.0.0.1", port=port, refresh=timedelta(seconds=90))
    endpoint = BundleEndpoint(options, mesh.bundle, certificate, Sequence(mesh.folder / "bundle.json"))
    await endpoint.start()
    try:
        yield port
    finally:
        await endpoint.stop()


def trusting(mesh: Mesh) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=mesh.authority.root_pem.decode())
    return context


async def fetch(
    port: int, context: ssl.SSLContext, *, request: str = "GET / HTTP/1.1", name: str = "pilot.lateen.local"
) -> tuple[int, bytes, bytes]:
    """Return status, body and the certificate that answered (DER)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        writer.write(f"{request}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return int(head.split()[1]), body, certificate
    finally:
        writer.close()


async def test_https_spiffe_the_document_and_who_answers(mesh: Mesh) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        status, body, certificate = await fetch(port, trusting(mesh))
    assert status == 200
    bundle = parse_bundle(body)
    assert bundle.roots == mesh.authority.roots
    assert bundle.jwt_keys == mesh.jwts.public_keys
    assert bundle.refresh_seconds == 90
    assert bundle.sequence is not None
    assert spiffe_id_of(x509.load_der_x509_certificate(certificate)) == mesh.identity.spiffe_id


async def test_no_private_key_is_in_it(mesh: Mesh) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        _, body, _ = await fetch(port, trusting(mesh))
    for jwk in json.loads(body)["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & jwk.keys()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /bundle HTTP/1.1", 404),
        ("GET /../ca/ca-key.pem HTTP/1.1", 404),
        ("GET //etc/passwd HTTP/1.1", 404),
        ("POST / HTTP/1.1", 405),
        ("PUT / HTTP/1.1", 405),
        ("DELETE / HTTP/1.1", 405),
        ("OPTIONS / HTTP/1.1", 405),
        ("GET http://169.254.169.254/ HTTP/1.1", 400),
        ("GET / HTTP/3", 505),
        ("GET /" + "x" * 9000 + " HTTP/1.1", 431),
    ],
)
async def test_nothing_else_is_answered(mesh: Mesh, request_: str, status: int) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        answer, body, _ = await fetch(port, trusting(mesh), request=request_)
    assert answer == status
    assert b"keys" not in body


async def test_plain_text_and_old_tls_get_nothing(mesh: Mesh) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"keys" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        old = trusting(mesh)
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("AES256-SHA")  # what no server of today takes
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await fetch(port, old)


async def test_silent_connections_do_not_shut_others_out(mesh: Mesh) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS + 20)]
        status, body, _ = await fetch(port, trusting(mesh))
        assert status == 200
        assert parse_bundle(body).roots
        for _, writer in silent:
            writer.close()


async def test_https_web_a_certificate_from_files_and_its_replacement(mesh: Mesh) -> None:
    paths = mesh.pair("bundle.a.example")
    async with serving(mesh, FileCertificate(*paths)) as port:
        status, _, first = await fetch(port, trusting(mesh), name="bundle.a.example")
        assert status == 200
        mesh.pair("bundle.a.example")
        _, _, second = await fetch(port, trusting(mesh), name="bundle.a.example")
        assert second != first
        paths[0].write_text("broken")
        _, _, third = await fetch(port, trusting(mesh), name="bundle.a.example")
        assert third == second


@pytest.mark.parametrize("fault", ["missing", "broken", "other key"])
async def test_files_that_cannot_be_used_are_named(mesh: Mesh, fault: str) -> None:
    certificate, key = mesh.pair("bundle.a.example")
    match fault:
        case "missing":
            key.unlink()
        case "broken":
            certificate.write_text("nothing")
        case "other key":
            other = ec.generate_private_key(ec.SECP256R1())
            key.write_bytes(other.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with pytest.raises(BadInput, match=str(key)):
        FileCertificate(certificate, key)


async def test_a_port_that_is_taken_is_told(mesh: Mesh) -> None:
    async with serving(mesh, OwnCertificate(mesh.identity)) as port:
        options = BundleEndpointOptions(address="127.0.0.1", port=port)
        another = BundleEndpoint(
            options, mesh.bundle, OwnCertificate(mesh.identity), Sequence(mesh.folder / "bundle.json")
        )
        with pytest.raises(Refused, match=str(port)):
            await another.start()


def test_the_number_grows_with_each_change_and_not_otherwise(mesh: Mesh, tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "number"
    first = Bundle(roots=(), jwt_keys={})
    second = mesh.bundle()
    numbers = Sequence(path, clock)
    one = numbers.of(first)
    assert numbers.of(first) == one
    two = numbers.of(second)
    assert two > one
    assert Sequence(path, clock).of(second) == two  # after a restart
    assert Sequence(path, clock).of(first) > two  # back to what it was is a change, too
    path.unlink()
    clock.advance(timedelta(days=1))
    assert Sequence(path, clock).of(first) > two  # a state folder that was lost


def test_a_context_leaves_no_descriptor_open(mesh: Mesh) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    server_context(*mesh.identity.material())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
