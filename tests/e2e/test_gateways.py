"""Gateways at the edge of a real mesh: certificates from the folder of secrets, TLS that ends there or is passed on."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from tests.e2e.harness import MeshRun, eventually
from tests.fakes.certs import StrangeAuthority
from tests.fakes.http3_client import http3_get
from tests.fakes.ports import free_port
from tests.fakes.proxies import Answer, ask, dial
from tests.fakes.tls_clients import Pair, TlsClient, make_pair, revoke, rsa_key, secret_yaml, serial_of
from websockets.sync.client import connect as websocket

from lateen.pilot.translate.pack import TYPE_PREFIX

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

SECRET_TYPE = TYPE_PREFIX + Secret.DESCRIPTOR.full_name
LISTENER_TYPE = TYPE_PREFIX + Listener.DESCRIPTOR.full_name
APPS = Path(__file__).parent / "apps"
CROSSING = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: far}}
spec:
  hosts: [far.test]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 15443}}]
  endpoints: [{{address: {gateway}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: far}}
spec:
  host: far.test
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
      sni: {sni}
      subjectAltNames: ["spiffe://cluster.local/ns/default/sa/default"]
"""

PORTS = (80, 443, 6443, 7000, 7443, 9443)

GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 80, name: http, protocol: HTTP}}
    hosts: ["shop.test"]
    tls: {{httpsRedirect: true}}
  - port: {{number: 443, name: shop, protocol: HTTPS}}
    hosts: ["shop.test"]
    tls: {{mode: SIMPLE, credentialName: shop}}
  - port: {{number: 443, name: wild, protocol: HTTPS}}
    hosts: ["*.wild.test"]
    tls: {{mode: SIMPLE, credentialNames: [wild-rsa, wild-ecdsa]}}
  - port: {{number: 443, name: admin, protocol: HTTPS}}
    hosts: ["admin.wild.test"]
    tls: {{mode: MUTUAL, credentialName: partner}}
  - port: {{number: 443, name: partner, protocol: HTTPS}}
    hosts: ["partner.test"]
    tls: {{mode: MUTUAL, credentialName: partner, subjectAltNames: [a.partner.test, b.partner.test]}}
  - port: {{number: 443, name: maybe, protocol: HTTPS}}
    hosts: ["maybe.test"]
    tls: {{mode: OPTIONAL_MUTUAL, credentialName: generic, caCertCredentialName: partner}}
  - port: {{number: 443, name: strict, protocol: HTTPS}}
    hosts: ["strict.test"]
    tls:
      mode: SIMPLE
      serverCertificate: {strict_crt}
      privateKey: {strict_key}
      minProtocolVersion: TLSV1_2
      maxProtocolVersion: TLSV1_2
      cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]
  - port: {{number: 443, name: spki, protocol: HTTPS}}
    hosts: ["spki.test"]
    tls: {{mode: MUTUAL, credentialName: generic, caCertCredentialName: partner, verifyCertificateSpki: ["{spki}"]}}
  - port: {{number: 443, name: any, protocol: HTTPS}}
    hosts: ["any.test"]
    tls: {{mode: MUTUAL, credentialName: generic, caCertCredentialName: partner, insecureSkipVerify: true}}
  - port: {{number: 443, name: missing, protocol: HTTPS}}
    hosts: ["missing.test"]
    tls: {{mode: SIMPLE, credentialName: nowhere}}
  - port: {{number: 6443, name: lines, protocol: TLS}}
    hosts: ["lines.test"]
    tls: {{mode: SIMPLE, credentialName: generic}}
  - port: {{number: 7000, name: tcp, protocol: TCP}}
    hosts: ["*"]
  - port: {{number: 7443, name: through, protocol: TLS}}
    hosts: ["*.through.test"]
    tls: {{mode: PASSTHROUGH}}
  - port: {{number: 15443, name: mesh, protocol: TLS}}
    hosts: ["web.default.svc.cluster.local"]
    tls: {{mode: AUTO_PASSTHROUGH}}
  - port: {{number: 9443, name: pinned, protocol: HTTPS}}
    hosts: ["pinned.test"]
    tls:
      mode: MUTUAL
      tlsCertificates: [{{serverCertificate: {strict_crt}, privateKey: {strict_key}}}]
      caCertificates: {roots}
      caCrl: {crl}
      verifyCertificateHash: ["{pin}"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: web, port: {{number: 9080}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: lines}}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp:
  - match: [{{port: 6443}}, {{port: 7000}}]
    route: [{{destination: {{host: lines, port: {{number: 9092}}}}}}]
  tls:
  - match: [{{port: 7443, sniHosts: ["web.through.test"]}}]
    route: [{{destination: {{host: tls-web, port: {{number: 9443}}}}}}]
"""

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: speak}
spec: {selector: {app: speak}, ports: [{name: http, port: 8083}, {name: grpc, port: 7070}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: speak}
spec:
  hosts: [speak.wild.test]
  gateways: [edge]
  http:
  - match: [{headers: {content-type: {prefix: application/grpc}}}]
    route: [{destination: {host: speak, port: {number: 7070}}}]
  - route: [{destination: {host: speak, port: {number: 8083}}}]
---
apiVersion: v1
kind: Service
metadata: {name: lines}
spec: {selector: {app: web}, ports: [{name: tcp, port: 9092}]}
---
apiVersion: v1
kind: Service
metadata: {name: tls-web}
spec: {selector: {app: web}, ports: [{name: tls, port: 9443}]}
"""


@dataclass
class Edge:
    """A mesh with gateways, whose certificates are known."""

    run: MeshRun
    ports: Mapping[int, int]  # number in the Gateway -> port on the host
    authority: StrangeAuthority
    partners: StrangeAuthority  # whom clients are checked by
    pairs: dict[str, Pair]
    files: Path

    @property
    def secrets(self) -> Path:
        return self.run.state / "secrets"

    def client(self, **fields: Any) -> TlsClient:
        return TlsClient(self.authority.root_pem, **fields)

    def shown(self, name: str) -> tuple[Path, Path]:
        return self.pairs[name].write(self.files, name)

    def serial(self, name: str, *, port: int = 443, **fields: Any) -> int:
        """Return the serial number of the certificate that `name` is answered with."""
        with self.client(**fields).connect(self.ports[port], name) as sock:
            return serial_of(sock)

    def get(
        self, name: str, path: str = "/", *, port: int = 443, host: str = "", headers: Any = (), **fields: Any
    ) -> Answer:
        with self.client(**fields).connect(self.ports[port], name) as sock:
            return ask(sock, path, host=host or name, headers=headers)

    def refuses(self, name: str, *, port: int = 443, **fields: Any) -> bool:
        """Tell whether a client is turned away, in its handshake or (TLS 1.3) with its first request."""
        try:
            return self.get(name, port=port, **fields).status == 0
        except (OSError, EOFError, ValueError):
            return True

    def write_secret(self, name: str, *args: Any, **fields: Any) -> None:
        temporary = self.secrets / f".{name}.tmp"
        temporary.write_text(secret_yaml(name, *args, **fields))
        temporary.replace(self.secrets / f"{name}.yaml")


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    run = MeshRun()
    try:
        authority, partners = StrangeAuthority(), StrangeAuthority()
        pairs = {
            "shop": make_pair(authority, "shop.test"),
            "wild-rsa": make_pair(authority, "*.wild.test", key=rsa_key()),
            "wild-ecdsa": make_pair(authority, "*.wild.test"),
            "partner": make_pair(authority, "partner.test", "admin.wild.test"),
            "generic": make_pair(authority, "maybe.test", "lines.test", "spki.test", "any.test"),
            "strict": make_pair(authority, "strict.test", "pinned.test"),
            "web": make_pair(authority, "web.through.test"),
            "a": make_pair(partners, "a.partner.test"),
            "c": make_pair(partners, "c.partner.test"),
            "revoked": make_pair(partners, "b.partner.test"),
            "stranger": make_pair(authority, "a.partner.test"),
        }
        edge = Edge(run, {port: free_port() for port in PORTS}, authority, partners, pairs, run.root)
        edge.secrets.mkdir(parents=True, mode=0o700)
        for name in ("shop", "wild-rsa", "wild-ecdsa"):
            edge.write_secret(name, pairs[name])
        edge.write_secret("generic", pairs["generic"], generic=True)
        edge.write_secret("partner", pairs["partner"], crl=b"")
        edge.write_secret("partner-cacert", roots=partners.root_pem, crl=revoke(partners, pairs["revoked"]))
        crt, key = pairs["strict"].write(run.root, "strict")
        roots, crl = run.root / "partners.crt", run.root / "partners.crl"
        roots.write_bytes(partners.root_pem)
        crl.write_bytes(revoke(partners, pairs["revoked"]))
        pin = pairs["a"].certificate.fingerprint(hashes.SHA256()).hex(":")
        public = pairs["a"].key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        spki = base64.b64encode(hashlib.sha256(public).digest()).decode()
        files = {"strict_crt": crt, "strict_key": key, "roots": roots, "crl": crl}
        run.write("gateway.yaml", GATEWAY.format(pin=pin, spki=spki, **files))
        run.write("services.yaml", SERVICES)
        run.up()
        web_crt, web_key = pairs["web"].write(run.root, "web")
        run.workload(
            "web",
            "v1",
            [sys.executable, str(APPS / "many.py"), "http:9080", "tcp:9092", "tls:9443"],
            words=["--port", "tcp-lines:9092", "--port", "tls-web:9443"],
            env={"CERT": str(web_crt), "KEY": str(web_key), "SERVICE_VERSION": "v1"},
        )
        speak = [sys.executable, str(APPS / "speak.py"), "ws:8083", "grpc:7070"]
        run.workload("speak", "v1", speak, port="http:8083", words=["--port", "grpc:7070"])
        listen = [word for number, port in edge.ports.items() for word in ("--listen", f"127.0.0.1:{port}:{number}")]
        run.start("ingressgateway", run.command("gateway", "--http3", *listen))
        run.wait_ready("web-v1", "speak-v1", "ingressgateway")
        eventually(lambda: edge.get("shop.test").status == 200, what="shop is served")
        yield edge
    finally:
        run.close()


def test_each_name_is_answered_with_its_own_certificate(edge: Edge) -> None:
    assert edge.serial("shop.test") == edge.pairs["shop"].serial
    assert edge.serial("x.wild.test") == edge.pairs["wild-ecdsa"].serial
    assert edge.serial("maybe.test") == edge.pairs["generic"].serial
    assert edge.refuses("nobody.test", check_name=False)


def test_of_two_certificates_the_client_gets_the_one_that_it_understands(edge: Edge) -> None:
    old = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    assert (
        edge.serial("x.wild.test", versions=old, ciphers="ECDHE-RSA-AES128-GCM-SHA256") == edge.pairs["wild-rsa"].serial
    )


def test_one_server_wants_old_clients_with_one_cipher(edge: Edge) -> None:
    old = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    new = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
    assert edge.get("strict.test", versions=old, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384").status == 200
    assert edge.refuses("strict.test", versions=old, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    assert edge.refuses("strict.test", versions=new)
    assert edge.get("shop.test", versions=new).status == 200


def test_clients_show_a_certificate_that_was_not_revoked_and_has_a_name_asked_for(edge: Edge) -> None:
    answer = edge.get("partner.test", shows=edge.shown("a"), headers={"x-forwarded-client-cert": "Hash=made-up"})
    assert answer.status == 200
    told = answer.json["headers"]["x-forwarded-client-cert"]
    assert "DNS=a.partner.test" in told  # who it is, as the gateway found out
    assert "made-up" not in told
    assert edge.refuses("partner.test")
    assert edge.refuses("partner.test", shows=edge.shown("c"))  # another name
    assert edge.refuses("partner.test", shows=edge.shown("revoked"))
    assert edge.refuses("partner.test", shows=edge.shown("stranger"))  # another authority


def test_a_client_may_show_a_certificate_where_it_is_optional(edge: Edge) -> None:
    # Without one, only the gateway itself is told, by the sidecar of the service.
    assert "DNS=" not in edge.get("maybe.test").json["headers"]["x-forwarded-client-cert"]
    told = edge.get("maybe.test", shows=edge.shown("c")).json["headers"]["x-forwarded-client-cert"]
    assert "DNS=c.partner.test" in told
    assert edge.refuses("maybe.test", shows=edge.shown("stranger"))


def test_files_serve_as_well_with_a_pinned_client_and_a_revocation_list(edge: Edge) -> None:
    assert edge.get("pinned.test", port=9443, shows=edge.shown("a")).status == 200
    assert edge.refuses("pinned.test", port=9443, shows=edge.shown("c"))  # not the pinned one
    assert edge.refuses("pinned.test", port=9443, shows=edge.shown("revoked"))
    assert edge.refuses("pinned.test", port=9443)


def test_clients_are_known_by_their_key_or_let_in_unverified(edge: Edge) -> None:
    assert edge.get("spki.test", shows=edge.shown("a")).status == 200
    assert edge.refuses("spki.test", shows=edge.shown("c"))
    # Let through, and told on: the service decides what it makes of a certificate that nobody vouches for.
    told = edge.get("any.test", shows=edge.shown("stranger")).json["headers"]["x-forwarded-client-cert"]
    assert "DNS=a.partner.test" in told
    assert edge.refuses("any.test")  # one must be shown all the same


def test_a_connection_for_one_server_carries_no_request_for_another(edge: Edge) -> None:
    assert edge.get("x.wild.test").status == 200
    assert edge.get("admin.wild.test", shows=edge.shown("a")).status == 200
    # Its client certificate cannot be gone around by way of the wildcard, whose connection anybody may make.
    assert edge.get("x.wild.test", host="admin.wild.test").status == 421
    assert edge.get("shop.test", host="x.wild.test").status == 421
    assert edge.get("shop.test", host="made-up.test").status == 404
    assert edge.get("shop.test", host="SHOP.test:443").status == 200


def test_plain_requests_are_sent_to_https(edge: Edge) -> None:
    with dial(edge.ports[80]) as sock:
        answer = ask(sock, "/x", host="shop.test")
    assert (answer.status, answer.headers["location"]) == (301, "https://shop.test/x")


def test_connections_are_carried_as_bytes(edge: Edge) -> None:
    with dial(edge.ports[7000]) as sock:
        assert line(sock) == b"v1 hello\n"
    with edge.client(alpn=()).connect(edge.ports[6443], "lines.test") as tls:
        assert serial_of(tls) == edge.pairs["generic"].serial
        assert line(tls) == b"v1 hello\n"
    assert edge.refuses("other.test", port=6443, check_name=False)


def test_tls_is_passed_on_by_the_name_asked_for(edge: Edge) -> None:
    assert edge.serial("web.through.test", port=7443) == edge.pairs["web"].serial
    assert edge.get("web.through.test", port=7443).json["port"] == 9443
    assert edge.refuses("other.through.test", port=7443, check_name=False)


def test_https_carries_websocket_and_grpc(edge: Edge) -> None:
    raw = socket.create_connection(("127.0.0.1", edge.ports[443]), timeout=10)
    with websocket(
        "wss://speak.wild.test/ws", sock=raw, ssl=edge.client().context(), server_hostname="speak.wild.test"
    ) as stream:
        stream.send("ahoy")
        assert stream.recv(10) == "ahoy"
    credentials = grpc.ssl_channel_credentials(edge.authority.root_pem)
    options = (("grpc.ssl_target_name_override", "speak.wild.test"), ("grpc.default_authority", "speak.wild.test"))
    with grpc.secure_channel(f"127.0.0.1:{edge.ports[443]}", credentials, options) as channel:
        assert channel.unary_unary("/speak.Speak/Say")(b"ahoy", timeout=10) == b"heard ahoy"


def test_what_is_served_by_https_is_served_by_http3(edge: Edge) -> None:
    told = edge.get("shop.test").headers["alt-svc"]
    assert told == f'h3=":{edge.ports[443]}"; ma=86400'  # the port that clients know, which the host shows
    answer = http3_get(edge.ports[443], "shop.test", "/by-quic", edge.authority.root_pem)
    assert (answer.status, answer.serial) == (200, edge.pairs["shop"].serial)
    assert json.loads(answer.body)["headers"]["x-forwarded-proto"] == "https"
    assert answer.headers["alt-svc"] == told
    # By server name as over TCP. Where clients must show a certificate there is no HTTP/3: Envoy would not ask for it.
    wild = http3_get(edge.ports[443], "x.wild.test", "/", edge.authority.root_pem)
    assert wild.serial in (edge.pairs["wild-rsa"].serial, edge.pairs["wild-ecdsa"].serial)
    assert http3_get(edge.ports[443], "x.wild.test", "/", edge.authority.root_pem, host="admin.wild.test").status == 421
    assert "alt-svc" not in edge.get("partner.test", shows=edge.shown("a")).headers
    with pytest.raises(OSError):
        http3_get(edge.ports[443], "partner.test", "/", edge.authority.root_pem, seconds=1.5)


def test_mesh_clients_reach_what_auto_passthrough_opens_by_its_name_alone(edge: Edge) -> None:
    gateway = edge.run.workload_status("ingressgateway")
    assert gateway is not None

    def cross(service: str, port: int) -> Any:
        sni = f"outbound_.{port}_._.{service}.default.svc.cluster.local"
        edge.run.write("crossing.yaml", CROSSING.format(gateway=gateway["ip"], sni=sni))
        done = edge.run.inside("speak-v1", [sys.executable, str(APPS / "ask.py"), "http", "http://far.test/", "1"])
        return json.loads(done.stdout)[0]

    answer = eventually(lambda: found if (found := cross("web", 9080))[0] == 200 else None, what="web is reached")
    assert answer[1]["port"] == 9080
    # The TLS is between the two sidecars: the gateway neither ends it nor sees into it.
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in answer[1]["headers"]["x-forwarded-client-cert"]
    assert eventually(lambda: cross("speak", 8083)[0] == 503, what="what is not opened is not reached")


def test_a_missing_secret_hurts_its_own_server_only_until_it_comes(edge: Edge) -> None:
    assert edge.refuses("missing.test", check_name=False)
    assert edge.get("shop.test").status == 200
    errors = [error for error in edge.run.status()["errors"] if "nowhere" in error["message"]]
    assert [(error["field"], error["message"]) for error in errors] == [
        ("spec.servers[9].tls.credentialName", "no Secret default/nowhere; connections that need it fail")
    ]
    assert errors[0]["line"] > 1
    edge.write_secret("nowhere", make_pair(edge.authority, "missing.test"))
    eventually(lambda: edge.get("missing.test").status == 200, what="the secret is served")
    assert not [error for error in edge.run.status()["errors"] if "nowhere" in error["message"]]


def test_a_certificate_is_rotated_under_a_connection_that_goes_on(edge: Edge) -> None:
    old = edge.pairs["shop"]
    with edge.client().connect(edge.ports[443], "shop.test") as kept:
        assert ask(kept, host="shop.test").status == 200
        renewed = edge.pairs["shop"] = make_pair(edge.authority, "shop.test")
        edge.write_secret("shop", renewed)
        eventually(lambda: edge.serial("shop.test") == renewed.serial, what="new handshakes get the new certificate")
        assert ask(kept, host="shop.test").status == 200
        assert serial_of(kept) == old.serial


def test_a_secret_that_is_none_changes_nothing_and_is_told_without_its_content(edge: Edge) -> None:
    wrong = Pair(edge.pairs["shop"].certificate, make_pair(edge.authority, "x.test").key)
    edge.write_secret("shop", wrong)
    told = eventually(lambda: [e for e in edge.run.status()["errors"] if e["file"].endswith("/shop.yaml")])
    assert [error["message"] for error in told] == ["is not the key of the certificate in tls.crt"]
    assert edge.serial("shop.test") == edge.pairs["shop"].serial
    edge.write_secret("shop", edge.pairs["shop"])
    eventually(lambda: not [e for e in edge.run.status()["errors"] if e["file"].endswith("/shop.yaml")])


def test_private_keys_are_in_no_output(edge: Edge) -> None:
    listed = edge.run.run("proxy-config", "secrets", "ingressgateway", "-o", "json").stdout
    assert "kubernetes://shop" in listed
    table = edge.run.run("proxy-config", "secrets", "ingressgateway").stdout
    assert "kubernetes://partner-cacert" in table
    texts = [
        listed,
        table,
        edge.run.log("up"),
        edge.run.log("ingressgateway"),
        json.dumps(edge.run.status()),
        edge.run.run("proxy-config", "all", "ingressgateway", "-o", "json").stdout,
    ]
    for pair in edge.pairs.values():
        body = pair.private_key.decode().splitlines()[1:-1]
        # The text as written and as base64 of it.
        for fragment in (body[0], base64.b64encode(pair.private_key).decode()[40:80]):
            assert not any(fragment in text for text in texts)


def test_secrets_are_given_to_nobody_who_has_not_proven_who_he_is(edge: Edge) -> None:
    """Over the socket for local clients anybody of this user may claim to be the gateway."""
    names = ("kubernetes://shop", "kubernetes://default/shop", "shop", "kubernetes://partner-cacert", "*")
    claims = DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=names)
    claims.node.id = "router~10.77.0.9~ingressgateway.default~default.svc.cluster.local"
    claims.node.metadata.update({"NAMESPACE": "default", "SERVICE_ACCOUNT": "ingressgateway"})
    with grpc.insecure_channel(f"unix:{edge.run.state}/run/xds-local.sock") as channel:
        stub = AggregatedDiscoveryServiceStub(channel)
        waiting = threading.Event()

        def requests() -> Iterator[DeltaDiscoveryRequest]:
            yield claims
            # Listeners are answered after secrets would have been: what was to come has come by then.
            yield DeltaDiscoveryRequest(type_url=LISTENER_TYPE)
            waiting.wait(10)

        answers: dict[str, list[str]] = {}
        for answer in stub.DeltaAggregatedResources(requests(), timeout=10):
            answers.setdefault(answer.type_url, []).extend(resource.name for resource in answer.resources)
            if answer.type_url == LISTENER_TYPE:
                break
        waiting.set()
    assert "0.0.0.0_443" in answers[LISTENER_TYPE]
    assert answers.get(SECRET_TYPE, []) == []


def line(sock: socket.socket) -> bytes:
    """Send one line and return the one that comes back."""
    sock.sendall(b"hello\n")
    with sock.makefile("rb") as stream:
        return stream.readline()
