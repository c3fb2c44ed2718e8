"""Bytes, servers that speak first, and TLS that is the application's own, through two sidecars with mutual TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.e2e.measuring import samples
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

APPS = Path(__file__).parent / "apps"
CLIENT = "client-v1"
READER = "spiffe://cluster.local/ns/default/sa/reader"
IDLE_SECONDS = 15

# Name and number of each port, and what serves it. Of "first", "text" and "secret" the name says nothing; nor does that
# of "db", but servers on 3306 are known to speak first.
PORTS = {
    "tcp-lines:9000": "lines:9000",
    "tcp-first:2525": "banner:2525",
    "db:3306": "banner:3306",
    "first:9100": "banner:9100",
    "text:9101": "lines:9101",
    "tcp-whole:9200": "whole:9200",
    "some-whole:9201": "whole:9201",
    "https-own:9443": "tls:9443",
    "secret:9444": "tls:9444",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The application's own certificate and key, which no part of the mesh knows."""
    folder, key = tmp_path_factory.mktemp("t"), ec.generate_private_key(ec.SECP256R1())
    folder.chmod(0o755)
    (folder / "cert.pem").write_bytes(pem_of(StrangeAuthority().certify(key, names=[x509.DNSName("own.example")])))
    (folder / "key.pem").write_bytes(key_pem(key))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def mesh(certificate: tuple[Path, Path]) -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.up()
        run.workload("client", "v1", [sys.executable, str(ECHO)], words=["--service-account", "reader"])
        for version in ("v1", "v2"):
            run.workload(
                "bytes",
                version,
                [sys.executable, str(APPS / "bytes.py"), *PORTS.values()],
                port="",
                env={"SERVICE_VERSION": version, "CERT": str(certificate[0]), "KEY": str(certificate[1])},
                words=["--service-account", "bytes", *(word for port in PORTS for word in ("--port", port))],
            )
        run.gateway()
        run.wait_ready(CLIENT, "bytes-v1", "bytes-v2", "ingressgateway")
        eventually(lambda: {a[:2] for a in talk(run, "line", 9000, 8)} == {"v1", "v2"}, what="both answer")
        yield run
    finally:
        run.close()


@pytest.fixture(scope="module", autouse=True)
def idle(mesh: MeshRun) -> Iterator[subprocess.Popen[bytes]]:
    """A connection that is silent while the other tests run."""
    argv = [sys.executable, str(APPS / "talk.py"), "idle", "bytes", "9000", str(IDLE_SECONDS)]
    process = mesh.start_inside(CLIENT, argv)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def _own_rules_only(mesh: MeshRun) -> Iterator[None]:
    yield
    for path in mesh.config.glob("test-*.yaml"):
        path.unlink()


def talk(mesh: MeshRun, action: str, port: int, argument: object, *, host: str = "bytes", of: str = CLIENT) -> Any:
    argv = [sys.executable, str(APPS / "talk.py"), action, host, str(port), str(argument)]
    result = mesh.inside(of, argv, seconds=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def address(mesh: MeshRun, name: str) -> str:
    found = mesh.workload_status(name)
    assert found is not None
    return str(found["ip"])


def opened(mesh: MeshRun, *, mutual_tls: bool = True) -> float:
    """Connections that reached the servers: from the client by mutual TLS, or from anybody in plain text."""
    labels = (
        (f'source_principal="{READER}"', 'connection_security_policy="mutual_tls"')
        if mutual_tls
        else ('connection_security_policy="none"',)
    )
    return sum(
        samples(mesh, f"bytes-{version}", "istio_tcp_connections_opened_total", *labels) for version in ("v1", "v2")
    )


# ---------------------------------------------------------------- who speaks first


@pytest.mark.parametrize("port", [2525, 3306], ids=["named-tcp", "known-number"])
def test_a_server_that_speaks_first_is_not_held_up(mesh: MeshRun, port: int) -> None:
    before, plain = opened(mesh), opened(mesh, mutual_tls=False)
    heard = talk(mesh, "banner", port, 10)
    assert heard["said"].startswith("220 v")
    assert heard["answer"].endswith(" ahoy")
    assert heard["seconds"] < 5
    eventually(lambda: opened(mesh) > before, what="it was mutual TLS", seconds=15)
    assert opened(mesh, mutual_tls=False) == plain


def test_on_a_port_that_names_no_protocol_it_waits_as_long_as_the_mesh_says(mesh: MeshRun) -> None:
    held = talk(mesh, "banner", 9100, 1.5)
    assert held["said"] == "", "by default nothing is let through before the client has spoken"
    mesh.write(
        "test-mesh.yaml",
        "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
        "protocolDetectionTimeout: 0.3s\n",
    )
    heard = eventually(
        lambda: found if (found := talk(mesh, "banner", 9100, 1.5))["said"] else None, what="the server is heard"
    )
    assert heard["said"].startswith("220 v")
    assert heard["answer"].endswith(" ahoy")
    assert 0.25 <= heard["seconds"] < 1.5
    # Whoever speaks first still decides what it is.
    assert talk(mesh, "line", 9101, 1)[0].endswith(" ahoy")

    # A client without sidecar may speak plain text (PERMISSIVE), and then it is the server's proxy that waits.
    there = address(mesh, "bytes-v1")
    plain = eventually(
        lambda: found if (found := talk(mesh, "banner", 2525, 3, host=there, of="ingressgateway"))["said"] else None,
        what="plain text is let through as well",
    )
    assert plain["said"] == "220 v1 ready"
    assert plain["seconds"] >= 0.25


def test_plain_text_port_by_port(mesh: MeshRun) -> None:
    there = address(mesh, "bytes-v1")

    def plain(port: int) -> Any:
        return talk(mesh, "banner", port, 1.5, host=there, of="ingressgateway")

    mesh.write(
        "test-mtls.yaml",
        """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: bytes}
spec:
  selector: {matchLabels: {app: bytes}}
  mtls: {mode: STRICT}
  portLevelMtls: {2525: {mode: DISABLE}}
""",
    )
    heard = eventually(
        lambda: found if (found := plain(2525))["said"] else None, what="plain text on the port that allows it"
    )
    assert heard["answer"] == "v1 ahoy"
    assert "said" not in plain(3306) or not plain(3306)["said"], "and on no other"
    assert talk(mesh, "banner", 2525, 10)["said"].startswith("220 v"), "sidecars know where to speak plain text"
    assert talk(mesh, "banner", 3306, 10)["said"].startswith("220 v")


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("port", [9200, 9201], ids=["named-tcp", "found-out"])
def test_one_side_may_close_and_still_be_answered(mesh: MeshRun, port: int) -> None:
    assert talk(mesh, "whole", port, 6_400_000).split()[1] == "6400000"


def test_connections_follow_weights_and_subsets(mesh: MeshRun) -> None:
    mesh.write(
        "test-weights.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bytes}
spec:
  host: bytes
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes}
spec:
  hosts: [bytes]
  tcp:
  - match: [{port: 2525}]
    route: [{destination: {host: bytes, subset: v2}}]
  - match: [{port: 9000}]
    route:
    - {destination: {host: bytes, subset: v1}, weight: 80}
    - {destination: {host: bytes, subset: v2}, weight: 20}
""",
    )
    eventually(
        lambda: {talk(mesh, "banner", 2525, 10)["said"] for _ in range(4)} == {"220 v2 ready"}, what="the rule holds"
    )
    shares = Counter(answer[:2] for answer in talk(mesh, "line", 9000, 100))
    assert sum(shares.values()) == 100
    assert 4 <= shares["v2"] <= 40, shares  # 20 expected, four standard deviations below, five above


# ---------------------------------------------------------------- TLS of the application's own


@pytest.mark.parametrize("port", [9443, 9444], ids=["named-https", "found-out"])
def test_tls_of_the_application_passes_unopened(mesh: MeshRun, certificate: tuple[Path, Path], port: int) -> None:
    own = x509.load_pem_x509_certificate(certificate[0].read_bytes()).public_bytes(Encoding.DER).hex()
    before, plain = opened(mesh), opened(mesh, mutual_tls=False)
    heard = talk(mesh, "tls", port, "own.example")
    assert heard["certificate"] == own
    assert heard["answer"].endswith(" ahoy")
    eventually(lambda: opened(mesh) > before, what="mutual TLS was around it", seconds=15)
    assert opened(mesh, mutual_tls=False) == plain


def test_tls_is_routed_by_its_server_name(mesh: MeshRun) -> None:
    mesh.write(
        "test-sni.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bytes}
spec:
  host: bytes
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes}
spec:
  hosts: [bytes, "*.own.example"]
  tls:
  - match: [{port: 9443, sniHosts: [one.own.example]}]
    route: [{destination: {host: bytes, subset: v1}}]
  - match: [{port: 9443, sniHosts: ["*.own.example"]}]
    route: [{destination: {host: bytes, subset: v2}}]
""",
    )
    eventually(
        lambda: {talk(mesh, "tls", 9443, "two.own.example")["answer"] for _ in range(4)} == {"v2 ahoy"},
        what="the rule holds",
    )
    assert {talk(mesh, "tls", 9443, "one.own.example")["answer"] for _ in range(4)} == {"v1 ahoy"}


def test_a_silent_connection_stays_open(idle: subprocess.Popen[bytes]) -> None:
    """Last in this module: through all that was applied meanwhile."""
    answers = json.loads(idle.communicate(timeout=IDLE_SECONDS + 20)[0])
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert answers[0].endswith(" ahoy")
