"""A mesh whose certificates an authority elsewhere signs: a real OpenBao in both modes, and a class of a package."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.openbao import OpenBao
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(180)]

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
MOUNT = "pki-e2e"
LIAR = '''
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from datetime import datetime, timedelta, timezone
from lateen.api.base import Spec
from lateen.citadel.external import ExternalAuthority

class Parameters(Spec, frozen=True, kw_only=True):
    root: str
    key: str
    lie_about: str

class Liar(ExternalAuthority):
    """Signs what it is asked for, but another identity for one service account."""
    Parameters = Parameters

    def sign(self, order):
        p = self.parameters
        root = x509.load_pem_x509_certificate(self.context.path(p.root).read_bytes())
        key = serialization.load_pem_private_key(self.context.path(p.key).read_bytes(), None)
        csr = x509.load_pem_x509_csr(order.csr)
        name = str(order.spiffe_id)
        if name.endswith("/" + p.lie_about):
            name = name.replace(p.lie_about, "admin")
        now = datetime.now(timezone.utc)
        names = [x509.UniformResourceIdentifier(name), *map(x509.DNSName, order.dns_names)]
        usage = dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
                               "encipher_only", "decipher_only"), False)
        oids = x509.oid.ExtendedKeyUsageOID
        eku = x509.ExtendedKeyUsage([oids.SERVER_AUTH, oids.CLIENT_AUTH])
        leaf = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(root.subject)
            .public_key(csr.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(min(now + order.lifetime, root.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(names), True)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.KeyUsage(digital_signature=True, key_encipherment=True, **usage), True)
            .add_extension(eku, False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
            .sign(key, hashes.SHA256()))
        return leaf.public_bytes(serialization.Encoding.PEM)
'''


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"), free_port())
    server.start()
    server.make_pki(MOUNT)
    server.policy(
        "lateen",
        {
            f"{MOUNT}/root/sign-intermediate": ["update"],
            f"{MOUNT}/sign/mesh": ["update"],
            f"{MOUNT}/cert/ca_chain": ["read"],
        },
    )
    yield server
    server.stop()


def mesh_of(folder: Path, bao: OpenBao, mode: str) -> MeshRun:
    token = folder / "token"
    token.write_text(bao.token("lateen"))
    token.chmod(0o600)
    file = folder / "authority.yaml"
    file.write_text(
        f"kind: vault\nmode: {mode}\nparameters:\n  address: {bao.url}\n  caFile: {bao.ca_file}\n  mount: {MOUNT}\n"
        f"  auth: {{token: {{file: token}}}}\n" + ("  role: mesh\n" if mode == "leaf" else "")
    )
    mesh = MeshRun(extra=["--authority", str(file)])
    mesh.write("strict.yaml", STRICT)
    return mesh


def start(mesh: MeshRun, service: str) -> None:
    mesh.workload(service, "v1", [sys.executable, str(ECHO)], words=["--service-account", service])


def reaches(mesh: MeshRun, client: str, server: str) -> bool:
    call = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{server}:9080/"]
    return mesh.inside(f"{client}-v1", call).stdout == b"200"


def chain(mesh: MeshRun, workload: str) -> list[x509.Certificate]:
    held = json.loads(mesh.run("proxy-config", "secrets", workload, "-o", "json").stdout)
    own = next(entry for entry in held if entry["name"] == "default")
    text = own["secret"]["tls_certificate"]["certificate_chain"]
    import base64

    pem = base64.b64decode(text["inline_bytes"]) if "inline_bytes" in text else text["inline_string"].encode()
    return x509.load_pem_x509_certificates(pem)


@pytest.mark.parametrize("mode", ["intermediate", "leaf"])
def test_a_mesh_lives_by_a_vault_and_outlives_its_outage(bao: OpenBao, tmp_path: Path, mode: str) -> None:
    mesh = mesh_of(tmp_path, bao, mode)
    try:
        mesh.up()
        for service in ("front", "back"):
            start(mesh, service)
        mesh.wait_ready("front-v1", "back-v1")
        eventually(lambda: reaches(mesh, "front", "back"), what="mutual TLS under STRICT")
        leaf, *between = chain(mesh, "back-v1")
        assert leaf.issuer.rfc4514_string() != f"CN=Root of {MOUNT}" or mode == "leaf"
        top = between[-1] if between else leaf
        assert top.issuer.rfc4514_string() == f"CN=Root of {MOUNT}"
        assert bool(between) == (mode == "intermediate")

        status = mesh.run("ca", "status").stdout
        assert "elsewhere" in status
        assert f"mode: {mode}" in status
        assert "state: works" in status

        bao.stop()
        start(mesh, "late")
        if mode == "intermediate":
            mesh.wait_ready("late-v1")
            assert reaches(mesh, "late", "back")
        else:
            eventually(lambda: "certificate not received" in mesh.log("late-v1"), what="the agent says why")
            eventually(
                lambda: any("vault does not work" in warning["message"] for warning in mesh.status()["warnings"]),
                what="the status says so",
                seconds=30,
            )
            assert mesh.workload_status("late-v1") is None or not mesh.workload_status("late-v1")["ready"]  # type: ignore[index]
        assert reaches(mesh, "front", "back")

        # The control plane starts again while the authority is away: it has all that it needs.
        mesh.stop("up", number=signal.SIGKILL)
        mesh.up()
        assert reaches(mesh, "front", "back")

        bao.launch()
        bao.unseal()
        mesh.wait_ready("front-v1", "back-v1", "late-v1")
        eventually(lambda: reaches(mesh, "late", "back"), what="the late one is in", seconds=45)
        assert mesh.run("ca", "rotate", "root").returncode == 1
        assert "by itself" in mesh.run("ca", "rotate", "intermediate").stderr
    finally:
        mesh.close()


def test_a_class_of_a_package_signs_and_its_lies_are_handed_to_nobody(tmp_path: Path) -> None:
    """The package is a folder on the path with the metadata of one that was installed."""
    from tests.fakes.certs import StrangeAuthority, key_pem

    package = tmp_path / "site"
    info = package / "acme_lateen-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "acme_lateen.py").write_text(LIAR)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lateen\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lateen.authorities]\nacme = acme_lateen:Liar\n")
    authority = StrangeAuthority()
    (tmp_path / "root.pem").write_bytes(authority.root_pem)
    (tmp_path / "key.pem").write_bytes(key_pem(authority.key))
    file = tmp_path / "authority.yaml"
    file.write_text("kind: acme\nroots: root.pem\nparameters: {root: root.pem, key: key.pem, lieAbout: mallory}\n")
    mesh = MeshRun(extra=["--authority", str(file)])
    mesh.write("strict.yaml", STRICT)
    os.environ["PYTHONPATH"] = str(package)
    try:
        mesh.up()
        for service in ("front", "back", "mallory"):
            start(mesh, service)
        mesh.wait_ready("front-v1", "back-v1")
        eventually(lambda: reaches(mesh, "front", "back"), what="mutual TLS under STRICT")
        eventually(lambda: "certificate not received" in mesh.log("mallory-v1"), what="the lie is refused")
        audit = [json.loads(line) for line in (mesh.state / "audit.jsonl").read_text().splitlines()]
        assert not [entry for entry in audit if entry["event"] == "issued" and entry["identity"].endswith("/admin")]
        assert not [entry for entry in audit if entry["event"] == "issued" and entry["identity"].endswith("/mallory")]
        refused = [entry for entry in audit if entry["event"] == "refused" and entry["identity"].endswith("/mallory")]
        assert "must not be used" in refused[0]["reason"]
        warnings = [warning["message"] for warning in mesh.status()["warnings"]]
        assert any("not what was asked for" in text for text in warnings), warnings
    finally:
        del os.environ["PYTHONPATH"]
        mesh.close()


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "authority.yaml"
    file.write_text("kind: vault\nparameters:\n  adress: https://x\n")
    mesh = MeshRun()
    try:
        found = mesh.run("up", str(mesh.config), "--authority", str(file))
        assert found.returncode == 1
        assert f"{file}:3: parameters.adress: is not a field" in found.stderr
        both = mesh.run("up", str(mesh.config), "--authority", str(file), "--ca-certs", str(tmp_path))
        assert "--authority and --ca-certs exclude each other" in both.stderr
    finally:
        mesh.close()
