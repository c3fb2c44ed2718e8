"""TLS towards services: what DestinationRules ask for, and mutual TLS by endpoint, on real handshakes."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.proxies import ConfigServer, make_identity
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)
ROOTS, CHAIN, KEY = "/etc/roots.pem", "/etc/chain.pem", "/etc/key.pem"

SERVER = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: $name}
spec:
  hosts: [$name.test]
  addresses: [10.9.0.1]
  resolution: STATIC
  location: %s
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [%s]
---
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec: {host: $name.test, trafficPolicy: {tls: {%s}}}
"""


@dataclass
class TlsServer:
    """Answers HTTP over TLS, or in plain text, and writes down what each handshake said."""

    context: ssl.SSLContext
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    said: dict[str, Any] = {"tls": self.request.recv(1, socket.MSG_PEEK) == b"\x16"}
                    if said["tls"]:
                        server.context.sni_callback = lambda _socket, name, _context: said.update(sni=name)
                        self.request = server.context.wrap_socket(
                            self.request, server_side=True, do_handshake_on_connect=False
                        )
                        self.request.do_handshake()
                        client = self.request.getpeercert() or {}
                        said["client"] = [value for _, value in client.get("subjectAltName", ())]
                        said["version"], said["cipher"] = self.request.version(), self.request.cipher()[0]
                    server.seen.append(said)
                    while self.request.recv(65536):
                        self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

            def finish(self) -> None:
                self.request.close()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class World:
    """A yard, an authority of the world outside, and a server with a certificate for `api.test`."""

    def __init__(self, folder: Path, server: ConfigServer) -> None:
        self.yard = Yard(folder, server)
        self.folder = folder
        authority = StrangeAuthority()
        self.client_key = ec.generate_private_key(ec.SECP256R1())
        client = pem_of(authority.certify(self.client_key, names=[x509.DNSName("client.test")]))
        self.authority = authority
        self.yard.secrets += [
            Secret(
                name=f"file-root:{ROOTS}",
                validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=authority.root_pem)),
            ),
            Secret(
                name=f"file-cert:{CHAIN}~{KEY}",
                tls_certificate=TlsCertificate(
                    certificate_chain=DataSource(inline_bytes=client),
                    private_key=DataSource(inline_bytes=key_pem(self.client_key)),
                ),
            ),
        ]
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = pem_of(authority.certify(key, names=[x509.DNSName("api.test")]))
        outside = self._context(certificate, key_pem(key), authority.root_pem)
        outside.verify_mode = ssl.CERT_OPTIONAL
        self.outside = TlsServer(outside)
        self.certificate = x509.load_pem_x509_certificate(certificate)
        identity = make_identity(self.yard.authority, "server")
        self.mesh = TlsServer(self._context(identity.certificate, identity.key, identity.bundle))

    def _context(self, certificate: bytes, key: bytes, roots: bytes) -> ssl.SSLContext:
        chain, secret = self.folder / "chain.pem", self.folder / "key.pem"
        chain.write_bytes(certificate)
        secret.write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, secret)
        context.load_verify_locations(cadata=roots.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def revoke(self, path: str, *certificates: x509.Certificate) -> None:
        """Serve, as an agent would, the authority's roots with a list of what it revoked."""
        now = self.authority.now
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.authority.certificate.subject)
            .last_update(now - timedelta(minutes=1))
            .next_update(now + timedelta(hours=1))
        )
        for certificate in certificates:
            revoked = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        crl = builder.sign(self.authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)
        context = CertificateValidationContext(
            trusted_ca=DataSource(inline_bytes=self.authority.root_pem), crl=DataSource(inline_bytes=crl)
        )
        self.yard.secrets.append(Secret(name=f"file-root:{ROOTS}~{path}", validation_context=context))

    def ask(self, name: str, text: str, *, host: str = "") -> tuple[int, dict[str, Any]]:
        """Configure `text`; return the status of one request, and what the server's last handshake said, if any."""
        for server in (self.outside, self.mesh):
            server.seen.clear()
        self.yard.use(text, name=name, outside=self.outside.port, mesh=self.mesh.port)
        status = self.yard.get(host or f"{name}.test", to=TO).status
        seen = [*self.outside.seen, *self.mesh.seen]
        return status, seen[-1] if seen and status == 200 else {}


@pytest.fixture(scope="module")
def world(folder: Path, server: ConfigServer) -> Iterator[World]:
    world = World(folder, server)
    with world.outside, world.mesh, world.yard:
        yield world


def outside(tls: str, more: str = "") -> str:
    return SERVER % ("MESH_EXTERNAL", "{address: 127.0.0.1, ports: {http: $outside}}") + RULE % tls + more


# ---------------------------------------------------------------- to the world outside


@pytest.mark.parametrize(
    ("name", "tls", "status"),
    [
        pytest.param("api", f"mode: SIMPLE, caCertificates: {ROOTS}", 200, id="certificate of the host"),
        pytest.param("impostor", f"mode: SIMPLE, caCertificates: {ROOTS}", 503, id="certificate of another host"),
        pytest.param(
            "san", f"mode: SIMPLE, caCertificates: {ROOTS}, subjectAltNames: [api.test]", 200, id="subjectAltNames"
        ),
        pytest.param(
            "wrong",
            f"mode: SIMPLE, caCertificates: {ROOTS}, subjectAltNames: [b.test]",
            503,
            id="another name",
        ),
        pytest.param("any", "mode: SIMPLE, insecureSkipVerify: true", 200, id="insecureSkipVerify"),
        pytest.param(
            "mutual",
            f"mode: MUTUAL, caCertificates: {ROOTS}, clientCertificate: {CHAIN}, privateKey: {KEY}, sni: api.test, "
            "subjectAltNames: [api.test]",
            200,
            id="MUTUAL",
        ),
    ],
)
def test_who_is_believed(world: World, name: str, tls: str, status: int) -> None:
    found, seen = world.ask(name, outside(tls))
    assert found == status
    if status == 200:
        assert seen["tls"]
        assert seen["client"] == (["client.test"] if "MUTUAL" in tls else [])


@pytest.mark.parametrize(
    ("name", "tls", "sni"),
    [
        pytest.param("by-host", "mode: SIMPLE, insecureSkipVerify: true", "by-host.test", id="the request's host"),
        pytest.param(
            "by-rule", "mode: SIMPLE, insecureSkipVerify: true, sni: other.test", "other.test", id="the rule's"
        ),
    ],
)
def test_the_name_that_is_asked_for(world: World, name: str, tls: str, sni: str) -> None:
    assert world.ask(name, outside(tls))[1]["sni"] == sni


def test_revoked_certificates(world: World) -> None:
    world.revoke("/etc/none.crl")
    world.revoke("/etc/all.crl", world.certificate)
    rule = f"mode: SIMPLE, caCertificates: {ROOTS}, subjectAltNames: [api.test], caCrl: "
    assert world.ask("good", outside(rule + "/etc/none.crl"))[0] == 200
    assert world.ask("revoked", outside(rule + "/etc/all.crl"))[0] == 503


def test_disable_is_plain_text(world: World) -> None:
    assert world.ask("plain", outside("mode: DISABLE")) == (200, {"tls": False})


def test_a_block_without_a_mode_is_plain_text(world: World) -> None:
    in_mesh = SERVER % ("MESH_INTERNAL", "{address: 127.0.0.1, ports: {http: $mesh}, serviceAccount: server}")
    assert world.ask("modeless", in_mesh + RULE % "sni: unused.test") == (200, {"tls": False})


DEFAULTS = """---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {tlsDefaults: {%s}}
"""


def test_tls_parameters_of_the_mesh(world: World) -> None:
    world.outside.context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        rule = "mode: SIMPLE, insecureSkipVerify: true"
        _, seen = world.ask("ciphers", outside(rule, DEFAULTS % "cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]"))
        assert (seen["version"], seen["cipher"]) == ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")
        status, _ = world.ask("newest", outside(rule, DEFAULTS % "minProtocolVersion: TLSV1_3"))
        assert status == 503  # the server speaks nothing newer than 1.2
    finally:
        world.outside.context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


def test_curves_of_the_mesh(world: World) -> None:
    world.outside.context.set_ecdh_curve("secp384r1")
    rule = "mode: SIMPLE, insecureSkipVerify: true"
    assert world.ask("curve", outside(rule, DEFAULTS % "ecdhCurves: [P-384]"))[0] == 200
    assert world.ask("no-curve", outside(rule, DEFAULTS % "ecdhCurves: [P-256]"))[0] == 503
    world.outside.context.set_ecdh_curve("prime256v1")


# ---------------------------------------------------------------- the mesh's own

MESH_ENDPOINT = "{address: 127.0.0.1, ports: {http: $mesh}, serviceAccount: server}"
IDENTITY = "spiffe://cluster.local/ns/default/sa/client"


def test_istio_mutual(world: World) -> None:
    entry = SERVER % ("MESH_EXTERNAL", MESH_ENDPOINT)
    status, seen = world.ask("workload", entry + RULE % "mode: ISTIO_MUTUAL")
    assert (status, seen["client"], seen["sni"]) == (200, [IDENTITY], "outbound_.80_._.workload.test")
    status, seen = world.ask("named", entry + RULE % "mode: ISTIO_MUTUAL, sni: name.test")
    assert (status, seen["sni"]) == (200, "name.test")
    other = "mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://cluster.local/ns/default/sa/other']"
    assert world.ask("stranger", entry + RULE % other)[0] == 503


def test_mutual_tls_is_decided_endpoint_by_endpoint(world: World) -> None:
    both = f"{MESH_ENDPOINT}, {{address: 127.0.0.1, ports: {{http: $outside}}}}"
    balancer = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec: {host: $name.test, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
"""
    world.ask("mixed", SERVER % ("MESH_INTERNAL", both) + balancer)
    for _ in range(3):
        assert world.yard.get("mixed.test", to=TO).status == 200
    assert {(seen["tls"], *seen.get("client", ())) for seen in world.mesh.seen} == {(True, IDENTITY)}
    assert {seen["tls"] for seen in world.outside.seen} == {False}


def test_no_mutual_tls_of_itself_where_the_mesh_has_switched_it_off(world: World) -> None:
    off = """apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {enableAutoMtls: false}
"""
    assert world.ask("auto-off", SERVER % ("MESH_INTERNAL", MESH_ENDPOINT) + off) == (200, {"tls": False})


def test_a_server_must_be_who_its_service_says(world: World) -> None:
    other = MESH_ENDPOINT.replace("serviceAccount: server", "serviceAccount: other")
    assert world.ask("impostors", SERVER % ("MESH_INTERNAL", other))[0] == 503


def test_subsets_are_asked_for_by_name(world: World) -> None:
    text = (
        SERVER % ("MESH_INTERNAL", MESH_ENDPOINT)
        + """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec: {host: $name.test, subsets: [{name: v1}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec: {hosts: [$name.test], http: [{route: [{destination: {host: $name.test, subset: v1}}]}]}
"""
    )
    assert world.ask("parts", text)[1]["sni"] == "outbound_.80_.v1_.parts.test"
