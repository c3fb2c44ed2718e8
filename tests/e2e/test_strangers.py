"""What listens in a running mesh, all of it, and what a stranger gets there: nothing but health. Assurance 20.

A stranger is another user of the machine, at the Unix sockets; and at the ports a workload of another namespace that
goes around its proxy, without a certificate and with its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun

NOBODY = 65534
# What may listen, by (who, where). Anything else that listens is a surprise, and fails.
SOCKETS = {
    "control plane": {"run/ca.sock", "run/xds.sock", "run/xds-local.sock", "run/taste/ads.sock"},
    "agent": {"w/NAME/sds.sock", "w/NAME/agent.sock", "w/NAME/svid.sock"},
    "envoy": {"w/NAME/admin.sock"},
    "tasting envoy": set(),
    "holder": {"run/net.sock"},
}
PORTS = {"0.0.0.0:15001", "0.0.0.0:15006", "0.0.0.0:15020", "0.0.0.0:15021", "127.0.0.1:15053", "127.0.0.1:15054",
         "0.0.0.0:15090"}  # fmt: skip
CONFIG = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: all, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
# Asks every port of an address what strangers ask, and prints what each answers.
PATHS = (
    "/,/healthz/ready,/stats/prometheus,/metrics,/config_dump,/quitquitquit,/debug/syncz,/debug/configz",
    "/healthz/ready,/stats/prometheus,/config_dump",  # by TLS
)
PROBE = r"""
import json, socket, ssl, sys
host, cert, key = sys.argv[1:4]
found = {}
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if cert:
    context.load_cert_chain(cert, key)
context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
for port in map(int, sys.argv[4].split(",")):
    for tls, paths in ((False, sys.argv[5].split(",")), (True, sys.argv[6].split(","))):
        for path in paths:
            data = b""
            try:
                with socket.create_connection((host, port), 1) as sock:
                    sock.settimeout(0.3)
                    if tls:
                        sock = context.wrap_socket(sock)
                    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n".encode())
                    while part := sock.recv(65536):
                        data += part
            except OSError:
                pass
            if data:
                found[f"{port} {path}{' tls' if tls else ''}"] = data.decode("latin-1")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("config.yaml", CONFIG)
        run.up()
        run.workload("web", "v1", [sys.executable, str(ECHO)])
        run.workload(
            "thief", "v1", [sys.executable, str(ECHO)], words=["--namespace", "other", "--service-account", "thief"]
        )
        run.wait_ready("web-v1", "thief-v1")
        yield run
    finally:
        run.close()


def processes(run: MeshRun) -> dict[int, str]:
    """Return every process of the mesh, and what it is. The applications' own are not the mesh's."""
    found: dict[int, str] = {}
    status = run.status()
    found[status["controlPlane"]["pid"]] = "control plane"
    applications = {workload["appPid"] for workload in status["workloads"]}
    for workload in status["workloads"]:
        found[workload["pid"]] = "agent"
        found[workload["envoyPid"]] = "envoy"
    for entry in run.leftovers():
        pid, _, line = entry.partition(": ")
        if int(pid) not in found and int(pid) not in applications:
            found[int(pid)] = "tasting envoy" if "/run/taste" in line else "holder"
    return found


def listening(pid: int) -> Iterator[str]:
    """Yield the paths and addresses on which a process listens, of whatever network the socket is."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        if match:
            inodes.add(match[1])
    # A socket is listed where it was made: in the host's network, or in the process's own.
    lines = {line for who in ("self", pid) for line in Path(f"/proc/{who}/net/unix").read_text().splitlines()[1:]}
    for line in lines:
        words = line.split()
        if words[6] in inodes and int(words[3], 16) & 0x10000:  # accepts connections
            yield words[7] if len(words) > 7 else "unnamed"


def ports_within(run: MeshRun, workload: str) -> set[str]:
    """Return what listens in the network of a workload, by whoever."""
    found = set()
    info = run.workload_status(workload)
    assert info is not None
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{info['envoyPid']}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                address, _, port = words[1].rpartition(":")
                host = ".".join(str(byte) for byte in reversed(bytes.fromhex(address))) if name == "tcp" else "::"
                found.add(f"{host}:{int(port, 16)}")
    return found


def short(run: MeshRun, path: str) -> str:
    path = re.sub(r"w/[^/]+/", "w/NAME/", path.removeprefix(f"{run.state}/"))
    return re.sub(r"/\.net\.sock\.\d+$", "/net.sock", path)  # bound aside, then renamed


def test_nothing_listens_that_is_not_known(mesh: MeshRun) -> None:
    known = processes(mesh)
    assert set(known.values()) == set(SOCKETS)
    for kind, wanted in SOCKETS.items():
        found = {short(mesh, path) for pid, what in known.items() if what == kind for path in listening(pid)}
        # gRPC's own end of a socket that is guarded: in a folder of its own, which its name is drawn for.
        found = {path for path in found if not re.fullmatch(r"(.*/)?\.p\w+/s", path)}
        assert found == wanted, kind
    for name in ("web-v1", "thief-v1"):
        assert ports_within(mesh, name) == PORTS | {"0.0.0.0:9080"}


def test_another_user_reaches_no_socket(mesh: MeshRun) -> None:
    paths = [str(path) for path in mesh.state.rglob("*") if path.is_socket()]
    assert len(paths) >= 10
    for path in paths:
        assert os.stat(path).st_mode & 0o077 == 0, path
    if os.geteuid() != 0:
        # Only root can become somebody else; the modes above are what the kernel would go by.
        assert mesh.state.stat().st_mode & 0o077 == 0
        return
    script = (
        "import os,socket,sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "for path in sys.argv[1:]:\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):\n"
        "        try:\n"
        "            with socket.socket(socket.AF_UNIX, kind) as sock: sock.connect(path)\n"
        "            print(path)\n"
        "        except OSError: pass\n"
    )

    def reached() -> list[str]:
        told = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
        return told.stdout.split()

    assert reached() == []
    # Not even where somebody has opened the folders, as backups and careless commands do.
    folders = [mesh.root, mesh.state, *(path for path in mesh.state.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mode & 0o777 for path in folders}
    try:
        for path in folders:
            path.chmod(0o755)
        assert reached() == []
    finally:
        for path, mode in before.items():
            path.chmod(mode)


@pytest.mark.parametrize("certificate", ["none", "its own"])
def test_a_workload_of_another_namespace_gets_health_alone(mesh: MeshRun, certificate: str) -> None:
    info, thief = mesh.workload_status("web-v1"), mesh.workload_status("thief-v1")
    assert info is not None
    assert thief is not None
    cert = key = ""
    if certificate == "its own":
        cert, key = own_certificate(mesh)
    numbers = [*sorted(int(place.rpartition(":")[2]) for place in PORTS), 9080, 15000, 15004, 15012, 15014]
    # By the proxy's own way out, as a process does that has left the capture behind: marked, with privileges.
    argv = [sys.executable, "-c", PROBE, info["ip"], cert, key, ",".join(map(str, numbers)), *PATHS]
    told = subprocess.run(
        ["nsenter", f"--net=/proc/{thief['envoyPid']}/ns/net", *usernamespace(thief["envoyPid"]), *uncaptured(argv)],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    answers = {asked: text for asked, text in json.loads(told.stdout).items() if not says_nothing(text)}
    health = {f"{port} /healthz/ready" for port in (15020, 15021)}
    assert {
        asked: text[:300] for asked, text in answers.items() if asked not in health | application(certificate)
    } == {}
    assert health <= answers.keys()
    for asked in health:
        assert answers[asked].startswith("HTTP/1.1 200")
        assert answers[asked].endswith("\r\n\r\n")  # that it is ready, and no word more
    refused = {asked: text for asked, text in json.loads(told.stdout).items() if asked not in answers}
    assert not [text for text in refused.values() if "istio_" in text or "envoy_" in text]


def says_nothing(text: str) -> bool:
    """Refused; or the proxy says that nobody is there, as it does to its own mesh on ports that policies leave open."""
    return text.startswith("HTTP/1.1 40") or (text.startswith("HTTP/1.1 503") and "\r\n\r\nupstream connect" in text)


def application(certificate: str) -> set[str]:
    """What its policies open to a workload of the mesh: the application's own port, by mutual TLS."""
    return {f"9080 {path} tls" for path in PATHS[1].split(",")} if certificate == "its own" else set()


def usernamespace(pid: int) -> list[str]:
    return [] if os.geteuid() == 0 else [f"--user=/proc/{pid}/ns/user", "--preserve-credentials"]


def uncaptured(argv: list[str]) -> list[str]:
    """Return the command with each of its sockets marked as the proxy's: nothing of it is captured on its way out."""
    mark = (
        "import socket; _make = socket.socket.__init__\n"
        "def marked(self, *a, **k):\n"
        "    _make(self, *a, **k)\n"
        "    if self.family == socket.AF_INET: self.setsockopt(socket.SOL_SOCKET, 36, 1337)\n"
        "socket.socket.__init__ = marked\n"
    )
    return [argv[0], argv[1], mark + argv[2], *argv[3:]]


def own_certificate(mesh: MeshRun) -> tuple[str, str]:
    """Have Citadel sign a certificate for the thief's own account, as its agent does."""
    import grpc
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from tests.fakes.certs import key_pem, make_csr

    from lateen.wire.ca import (
        CREATE_CERTIFICATE,
        IDENTITY_METADATA,
        IstioCertificateRequest,
        IstioCertificateResponse,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    request = IstioCertificateRequest(csr=make_csr(key, digest=hashes.SHA256()).decode())
    with grpc.insecure_channel(f"unix:{mesh.state}/run/ca.sock") as channel:
        data = channel.unary_unary(CREATE_CERTIFICATE)(
            request.SerializeToString(), metadata=((IDENTITY_METADATA, "other/thief"),), timeout=10
        )
    chain = "".join(IstioCertificateResponse.FromString(data).cert_chain)
    paths = mesh.root / "thief.crt", mesh.root / "thief.key"
    paths[0].write_text(chain)
    paths[1].write_bytes(key_pem(key))
    return str(paths[0]), str(paths[1])
