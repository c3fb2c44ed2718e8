"""Secrets are planted all over a mesh, it is used and broken in every way, and nothing it shows or leaves has them.

Assurance 19, docs/security/assurance.md. What may have them is named in `ALLOWED`: the keys' own files, and the memory
of who uses them.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import secrets
import signal
import stat
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tests.e2e.harness import MeshRun, eventually
from tests.fakes.certs import StrangeAuthority, p256_csr
from tests.fakes.ports import free_port
from tests.fakes.proxies import ask
from tests.fakes.tls_clients import TlsClient, make_pair, secret_yaml
from tests.fakes.tokens import jwk, private_jwk, sign

from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest

APPS = Path(__file__).parent / "apps"
# Below the state folder: where keys are at home, and what is said of them there is for nobody else.
ALLOWED = ("ca/ca-key.pem", "secrets/", "jwt/", "tokens", "last-good/")  # the last: copies of the user's own files
CONFIG = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
accessLogFile: /dev/stdout
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.test]
    tls: {mode: SIMPLE, credentialName: shop}
  - port: {number: 8443, name: broken, protocol: HTTPS}
    hosts: [broken.test]
    tls: {mode: SIMPLE, credentialName: broken}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: nowhere.default.svc.cluster.local}}]
  - route: [{destination: {host: web, port: {number: 9080}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner}
spec: {hosts: [partner.test], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}],
       endpoints: [{address: 192.0.2.1}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: partner}
spec:
  host: partner.test
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: FOLDER/client.crt, privateKey: FOLDER/client.key,
                        caCertificates: FOLDER/client.crt}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: by-secret}
spec:
  host: other.test
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: shop}}
"""
PAGES = (
    "/config_dump?include_eds",
    "/certs",
    "/stats/prometheus",
    "/clusters?format=json",
    "/listeners",
    "/server_info",
    "/init_dump",
    "/runtime",
)
TOKENS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules:
  - issuer: issuer.test
    jwks: 'KEYS'
    outputPayloadToHeader: x-payload
    forwardOriginalToken: true
  - {issuer: elsewhere.test, jwksUri: "https://user:PASSWORD@127.0.0.1:1/keys"}
"""
BAD_TOKENS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: broken}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules: [{issuer: issuer.test, jwks: '{"keys": [{"kty": "oct", "k": "BROKEN"'}]
"""
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {{name: %s}}\n%s"
BAD = {  # in the folder of Secrets; `{token}` is planted
    "not-yaml": SECRET % ("bad-1", "stringData:\n  tls.key: '{token}\n  x: ["),
    "not-pem": SECRET % ("bad-2", "stringData: {{tls.crt: '{token}', tls.key: '{token}'}}\n"),
    "not-base64": SECRET % ("bad-3", "data: {{tls.crt: '{token}!', tls.key: '{token}!'}}\n"),
    "unknown-field": SECRET % ("bad-4", "'{token}': x\nstringData: {{tls.key: '{token}'}}\n"),
    "wrong-shape": SECRET % ("bad-5", "stringData: ['{token}']\n"),
    "wrong-kind": SECRET % ("bad-6", "stringData: {{tls.key: ['{token}', 5]}}\n"),
    "half-pem": SECRET % ("bad-7", "stringData:\n  tls.key: |\n    -----BEGIN PRIVATE KEY-----\n    {token}\n"),
    "twice": SECRET % ("shop", "stringData: {{tls.key: '{token}'}}\n"),
}


@dataclass
class Planted:
    """Secrets by what they are, and every form in which one could come to light."""

    texts: dict[str, bytes] = field(default_factory=dict)

    def add(self, what: str, text: bytes) -> bytes:
        self.texts[what] = text
        return text

    def forms(self) -> Iterator[tuple[str, str, bytes]]:
        for what, text in self.texts.items():
            if text.startswith(b"-----"):
                lines = text.splitlines()[1:-1]
                der = base64.b64decode(b"".join(lines))
                # In front of its secret part every key of a kind is the same.
                yield from ((what, "a line of PEM", line) for line in lines[1:-1] or lines)
                yield what, "DER", der[40:64]
                yield what, "hex of DER", der[40:64].hex().encode()
                for shift in range(3):
                    yield what, f"base64 of PEM, {shift}", base64.b64encode(text[shift:])[160:200]
                yield what, "hex of PEM", text.hex().encode()[240:300]
                yield what, "URL of PEM", urllib.parse.quote(b"".join(lines[1:2]), safe="").encode()
            else:
                yield what, "as it is", text
                yield what, "in capitals of hex", text.hex().upper().encode()
                yield what, "hex", text.hex().encode()
                yield what, "URL", urllib.parse.quote(text, safe="").encode()
                for shift in range(3):  # base64 of something that it is the middle of
                    yield what, f"base64, {shift}", base64.b64encode(b"x" * shift + text)[4:-4]

    def found_in(self, places: Mapping[str, bytes]) -> list[tuple[str, str, str, bytes]]:
        """Return what was found, in which form, where, and behind what."""
        return [
            (what, form, place, data[max(0, data.index(text) - 80) : data.index(text)])
            for place, data in places.items()
            for what, form, text in self.forms()
            if text in data
        ]


def fresh() -> bytes:
    return b"planted" + secrets.token_hex(20).encode()


@dataclass
class Scene:
    run: MeshRun
    planted: Planted
    port: int
    roots: bytes
    seen: dict[str, bytes] = field(default_factory=dict)  # what commands said, by command

    def command(self, *words: str) -> None:
        result = self.run.run(*words)
        self.seen[f"lateen {' '.join(words)}"] = (result.stdout + result.stderr).encode()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A mesh that was used, and broken, with secrets everywhere. The control plane crashed, and an agent did."""
    run, planted, authority = MeshRun(), Planted(), StrangeAuthority()
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))  # of a user who wants to have core dumps
    try:
        folder, port = run.state / "secrets", free_port()
        folder.mkdir(parents=True, mode=0o700)
        shop, broken, client = (make_pair(authority, name) for name in ("shop.test", "broken.test", "client.test"))
        planted.add("key of a Secret", shop.private_key)
        planted.add("key of a Secret that is none", broken.private_key)
        planted.add("key in a file", client.private_key)
        tokens = {name: planted.add(f"Secret {name}", fresh()) for name in BAD}
        (folder / "shop.yaml").write_text(secret_yaml("shop", shop, roots=authority.root_pem))
        # Somebody else's certificate: refused, and the words for it must not show the key.
        mixed = secret_yaml("broken", broken).replace(broken.chain.decode().splitlines()[3], "A" * 64)
        (folder / "broken.yaml").write_text(mixed)
        for name, text in BAD.items():
            (folder / f"{name}.yaml").write_text(text.format(token=tokens[name].decode()))
        # A Secret among the configuration is bad practice, and acts; and one that is broken there.
        in_config = planted.add("key of a Secret in the configuration", make_pair(authority, "x.test").private_key)
        pair = make_pair(authority, "y.test")
        run.write("secret.yaml", secret_yaml("among", pair).replace(pair.private_key.decode(), in_config.decode()))
        loose = planted.add("Secret in broken configuration", fresh()).decode()
        run.write("loose.yaml", f"kind: Secret\napiVersion: v1\nmetadata: {{name: l}}\nstringData: {{a: '{loose}'\n")
        client.write(run.root, "client")
        run.write("config.yaml", CONFIG.replace("FOLDER", str(run.root)))
        whole = private_jwk("ec-2")
        planted.add("private key among an issuer's", whole["d"].encode())
        keys = json.dumps({"keys": [jwk("ec"), whole]})
        password = planted.add("password in a URL", fresh()).decode()
        cut_short = planted.add("key of an issuer, cut short", fresh()).decode()
        run.write("tokens.yaml", TOKENS.replace("KEYS", keys).replace("PASSWORD", password))
        run.write("bad-tokens.yaml", BAD_TOKENS.replace("BROKEN", cut_short))
        environment = planted.add("password in an environment", fresh())
        run.up()
        many = [sys.executable, str(APPS / "many.py"), "http:9080", "tcp:9092"]
        run.workload("web", "v1", many, words=["--port", "tcp-lines:9092"], env={"DB_PASSWORD": environment.decode()})
        run.start("ingressgateway", run.command("gateway", "--listen", f"127.0.0.1:{port}:443"))
        run.wait_ready("web-v1", "ingressgateway")
        planted.add("key of the authority", (run.state / "ca" / "ca-key.pem").read_bytes())
        scene = Scene(run, planted, port, authority.root_pem)
        use(scene)
        inspect(scene, "in use")
        crash(scene)
        inspect(scene, "after the crashes")
        ask_commands(scene)
        yield scene
    finally:
        run.close()
        resource.setrlimit(resource.RLIMIT_CORE, before)


def use(scene: Scene) -> None:
    """Send secrets along every way that a client has."""
    bearer = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"RS256"}', fresh(), fresh()))
    headers = {
        "x-token": b"Bearer " + scene.planted.add("token of a user", bearer),
        "cookie": b"session=" + scene.planted.add("cookie", fresh()),
        "x-api-key": scene.planted.add("key of an API", fresh()),
        "proxy-authorization": b"Basic " + base64.b64encode(b"me:" + scene.planted.add("password", fresh())),
    }
    sent = {name: value.decode() for name, value in headers.items()}

    def asked() -> int:
        with TlsClient(scene.roots).connect(scene.port, "shop.test") as sock:
            status: int = ask(sock, host="shop.test", headers=sent).status
            return status

    eventually(lambda: asked() == 200, what="the shop is served")
    for path in ("/nowhere", "/?sleep=0", "/%zz", "/a/../b"):
        with TlsClient(scene.roots).connect(scene.port, "shop.test") as sock:
            ask(sock, path, host="shop.test", headers=sent)
    # Tokens that are checked: one that holds, and every way in which one does not.
    claims = {"iss": "issuer.test", "sub": scene.planted.add("claim in a token", fresh()).decode()}
    given = {
        "good": sign(claims),
        "expired": sign(claims, lasts=-3600),
        "wrongly signed": sign(claims, "ec-3", kid="ec"),
        "by nobody": sign({**claims, "iss": "nobody.test"}),
        "garbage": fresh().decode(),
    }
    found = {}
    for what, token in given.items():
        scene.planted.add(f"{what} token", token.encode())
        scene.planted.add(f"last part of the {what} token", token.rpartition(".")[2].encode())
        with TlsClient(scene.roots).connect(scene.port, "shop.test") as sock:
            found[what] = ask(sock, host="shop.test", headers={"authorization": f"Bearer {token}"}).status
    assert found == {"good": 200, "expired": 401, "wrongly signed": 401, "by nobody": 401, "garbage": 401}
    password = scene.planted.add("password over TCP", fresh())
    script = (
        "import socket,sys\n"
        "s=socket.create_connection(('web.default.svc.cluster.local',9092),5)\n"
        "s.sendall(b'AUTH '+sys.stdin.buffer.read()+b'\\r\\n')\n"
        "print(s.recv(100))\n"
    )
    told = scene.run.inside("web-v1", [sys.executable, "-c", script], feed=password)
    assert b"AUTH" in told.stdout, told
    told_token = scene.run.run("token", "create", "--service-account", "default/far")
    scene.planted.add("join token", told_token.stdout.splitlines()[0].encode())
    # A careless client of the authority, who sends its key along, and a token of a kind that nobody takes.
    key = scene.planted.add("key in a CSR", make_pair(StrangeAuthority(), "a.test").private_key)
    token = scene.planted.add("token for the authority", fresh()).decode()
    with grpc.insecure_channel(f"unix:{scene.run.state}/run/ca.sock") as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        for csr in (key, p256_csr() + key, b"-----BEGIN CERTIFICATE REQUEST-----\n" + key[28:]):
            for metadata in (
                ((IDENTITY_METADATA, "default/web"), ("authorization", f"Bearer {token}")),
                ((IDENTITY_METADATA, "../x"), ("authorization", f"Bearer {token}")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(IstioCertificateRequest(csr=csr.decode()).SerializeToString(), metadata=metadata, timeout=5)
                scene.seen[f"refusal of {len(scene.seen)}"] = str(caught.value.details()).encode()  # type: ignore[attr-defined]


def inspect(scene: Scene, when: str) -> None:
    """Read all that can be read of processes that run."""
    for workload in ("web-v1", "ingressgateway"):
        for page in PAGES:
            scene.seen[f"{page} of {workload} {when}"] = scene.run.admin(workload, page)
        for path in ("/stats/prometheus", "/healthz/ready"):
            scene.seen[f"agent's {path} of {workload} {when}"] = scene.run._ask(workload, path, "agent.sock")
    for pid, application in pids(scene.run).items():
        scene.seen[f"arguments of {pid} {when}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not application:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            # That one was given to its application by way of the agent.
            kept = [one for one in variables if not one.startswith(b"DB_PASSWORD=")]
            scene.seen[f"environment of {pid} {when}"] = b"\0".join(kept)


def ask_commands(scene: Scene) -> None:
    for words in (
        ("status",),
        ("status", "-o", "json"),
        ("proxy-status", "-o", "json"),
        ("metrics",),
        ("validate", str(scene.run.config)),
        ("validate", str(scene.run.state / "secrets")),
        ("token", "list", "-o", "json"),
        ("proxy-config", "secrets", "ingressgateway"),
        ("proxy-config", "all", "ingressgateway", "-o", "json"),
        ("proxy-config", "all", "web-v1", "-o", "json"),
    ):
        scene.command(*words)


def pids(run: MeshRun) -> dict[int, bool]:
    """Return the mesh's processes, and whether each is an application."""
    status = run.status()
    found = {status["controlPlane"]["pid"]: False}
    for workload in status["workloads"]:
        found.update({workload[name]: name == "appPid" for name in ("pid", "envoyPid", "appPid") if workload[name]})
    return found


def crash(scene: Scene) -> None:
    """Have the control plane and an agent die of a signal that dumps core, and an Envoy too; start again."""
    run = scene.run
    info = run.workload_status("web-v1")
    assert info is not None
    os.kill(info["envoyPid"], signal.SIGABRT)
    eventually(
        lambda: (run.workload_status("web-v1") or {}).get("envoyPid") not in (None, 0, info["envoyPid"]),
        what="another Envoy",
    )
    assert run.stop("up", number=signal.SIGABRT) == -signal.SIGABRT
    run.up()
    run.wait_ready("web-v1", "ingressgateway")
    assert run.stop("web-v1", number=signal.SIGABRT) == -signal.SIGABRT
    run.workload("web", "v1", [sys.executable, str(APPS / "many.py"), "http:9080", "tcp:9092"])
    run.wait_ready("web-v1")


def files_of(scene: Scene) -> dict[str, bytes]:
    """Return all files of the mesh but those that keys are at home in, and the logs of its processes."""
    found = {}
    for path in sorted(scene.run.root.rglob("*")):
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        place = str(path.relative_to(scene.run.root))
        own = place.startswith(tuple(f"s/{name}" for name in ALLOWED))
        if own or place.startswith(("c/", "client.")):
            continue
        found[place] = path.read_bytes()
    return found


def test_a_planted_secret_would_be_found(scene: Scene) -> None:
    """The search itself: each form of each secret is found where it is."""
    for what, form, text in scene.planted.forms():
        assert (what, form) in {hit[:2] for hit in scene.planted.found_in({"x": b"<" + text + b">"})}
    assert scene.planted.found_in({"the key's own file": (scene.run.state / "ca" / "ca-key.pem").read_bytes()})
    assert len(scene.planted.texts) > 18


def test_no_secret_is_in_a_file_that_is_not_its_own(scene: Scene) -> None:
    files = files_of(scene)
    assert {"up.log", "web-v1.log", "ingressgateway.log", "s/audit.jsonl"} <= files.keys()
    assert sum("/nowhere" in data.decode(errors="replace") for data in files.values()) >= 1  # access logs are among it
    assert scene.planted.found_in(files) == []


def test_no_secret_is_in_what_anything_says(scene: Scene) -> None:
    assert sum("config_dump" in name for name in scene.seen) >= 4
    texts = b"".join(scene.seen.values())
    assert b"kubernetes://shop" in texts  # the secrets are told of
    assert b"bad-2" in texts
    assert scene.planted.found_in(scene.seen) == []


def test_crashes_left_no_memory_behind(scene: Scene) -> None:
    mine = core_limit(os.getpid())
    for pid, application in pids(scene.run).items():
        # An application's is the user's own: it is no business of the mesh.
        assert core_limit(pid) == (mine if application else "0"), Path(f"/proc/{pid}/cmdline").read_bytes()
    assert [str(path) for path in scene.run.root.rglob("*core*") if path.is_file()] == []


def core_limit(pid: int) -> str:
    """Return how large a core dump a process may leave, as the kernel writes it: "0", "unlimited"."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            return line.removeprefix("Max core file size").split()[0]
    raise AssertionError(pid)


def test_files_and_sockets_are_for_their_user_alone(scene: Scene) -> None:
    state = scene.run.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    open_to_others = [
        str(path.relative_to(state))
        for path in state.rglob("*")
        if path.name == "ca-key.pem" or path.suffix in (".sock", ".jsonl") or path.parent.name in ("jwt", "workloads")
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []
