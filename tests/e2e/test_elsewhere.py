"""A workload on another machine than its control plane: joined by a token, kept in the mesh by its certificate.

As root that machine is a network namespace of its own, joined to this one by one cable; else another state folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.ports import free_port

from lateen.citadel.audit import read_audit

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(180)]

CALL = "import urllib.request as u, sys; print(u.urlopen(sys.argv[1], timeout=8).read().decode())"
FAR = "spiffe://cluster.local/ns/default/sa/far"
NEAR = "spiffe://cluster.local/ns/default/sa/near"


@dataclass
class Machine:
    """Somewhere else: what to put before a command to run it there, and the addresses of both ends of the cable."""

    enter: Sequence[str]
    here: str
    there: str  # "": its workloads choose loopback addresses
    also_there: str  # one workload an address
    process: subprocess.Popen[bytes] | None = None

    def address(self, ip: str) -> list[str]:
        return ["--address", ip] if self.process is not None else []


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0:
        yield Machine((), "127.0.0.1", "", "")
        return
    process = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    link, pid = f"lt{process.pid % 100000}", str(process.pid)
    subnet = f"10.198.{process.pid % 250}"
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    try:
        own = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{pid}/ns/net") != own, what="another network")
        for command in (
            ["ip", "link", "add", f"{link}a", "type", "veth", "peer", "name", f"{link}b", "netns", pid],
            ["ip", "address", "add", f"{subnet}.1/24", "dev", f"{link}a"],
            ["ip", "link", "set", f"{link}a", "up"],
            [*enter, "ip", "address", "add", f"{subnet}.2/24", "dev", f"{link}b"],
            [*enter, "ip", "address", "add", f"{subnet}.3/24", "dev", f"{link}b"],
            [*enter, "ip", "link", "set", f"{link}b", "up"],
            [*enter, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True)
        yield Machine(enter, f"{subnet}.1", f"{subnet}.2", f"{subnet}.3", process)
    finally:
        process.kill()
        process.wait()


class Pair:
    """A control plane with a workload beside it, and one elsewhere."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.at = f"{machine.here}:{free_port()}"
        self.mesh = MeshRun(network="explicit", extra=["--listen", self.at])
        self.tokens = 0

    def token(self, account: str, *words: str) -> Path:
        self.tokens += 1
        path = self.mesh.root / f"token-{self.tokens}"
        made = self.mesh.run("token", "create", "--service-account", account, "--file", str(path), *words)
        assert made.returncode == 0, made.stderr
        assert self.at in made.stderr
        assert path.stat().st_mode & 0o777 == 0o600
        assert made.stdout == ""
        return path

    def command(self, token: Path, *words: str, what: str = "run", address: str | None = None) -> list[str]:
        run = [sys.executable, "-m", "lateen", what, "--state", str(self.mesh.root / "far")]
        join = ["--control-plane", self.at, "--join-token-file", str(token)]
        at = self.machine.address(self.machine.there if address is None else address)
        return [*self.machine.enter, *run, *join, *at, *words]

    def start_far(self, *words: str) -> None:
        token = self.token("default/far")
        self.mesh.start(
            "far-v1",
            self.command(
                token, "--service", "far", "--version", "v1", "--service-account", "far", "--port", "http:9080",
                *words, "--", sys.executable, str(ECHO),
            ),
        )  # fmt: skip
        eventually(lambda: self.ready("far-v1"), what="the workload elsewhere is ready")
        token.unlink()  # it is of no use any more

    def ready(self, name: str) -> bool:
        workload = self.mesh.workload_status(name)
        return bool(workload and workload["ready"] and workload["connected"])

    def call(self, source: str, url: str) -> dict[str, str]:
        """Ask as an application does, through its proxy; return the headers that arrived."""
        info = self.mesh.workload_status(source)
        assert info is not None
        environment = dict(
            entry.split("=", 1)
            for entry in Path(f"/proc/{info['appPid']}/environ").read_text().split("\0")
            if "=" in entry
        )
        enter = self.machine.enter if source.startswith("far") else ()
        done = subprocess.run(
            [*enter, sys.executable, "-c", CALL, url], env=environment, capture_output=True, text=True, timeout=20,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        headers: dict[str, str] = json.loads(done.stdout)["headers"]
        return headers

    def audit(self, identity: str) -> list[str]:
        trail = read_audit(self.mesh.state)
        return [entry.source for entry in trail if entry.event == "issued" and entry.identity == identity]


@pytest.fixture(scope="module")
def pair(machine: Machine) -> Iterator[Pair]:
    made = Pair(machine)
    try:
        made.mesh.up()
        made.mesh.workload(
            "near", "v1", [sys.executable, str(ECHO)],
            words=["--service-account", "near", *machine.address(machine.here)],
        )  # fmt: skip
        made.start_far("--cert-ttl", "8s")
        made.mesh.wait_ready("near-v1")
        yield made
    finally:
        made.mesh.close()


def test_they_talk_mutual_tls_both_ways(pair: Pair) -> None:
    for source, host, server, client in (("near-v1", "far", FAR, NEAR), ("far-v1", "near", NEAR, FAR)):
        got = eventually(lambda source=source, host=host: pair.call(source, f"http://{host}:9080/"), what=host)
        assert f"By={server}" in got["x-forwarded-client-cert"]
        assert f"URI={client}" in got["x-forwarded-client-cert"]
    far = pair.mesh.workload_status("far-v1")
    assert far is not None
    assert (far["remote"], far["identity"], far["mode"]) == (True, FAR, "explicit")
    (row,) = [line.split() for line in pair.mesh.run("status").stdout.splitlines() if line.startswith("far-v1 ")]
    assert row[1] == "elsewhere"
    if pair.machine.process is not None:
        assert far["ip"] == pair.machine.there


RULES = """
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: asked, namespace: default}
spec:
  selector: {matchLabels: {app: far}}
  check: {list: {value: request.method, values: [PUT], type: REGEX, deny: PRESENT}}
---
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: in-envoy, namespace: default}
spec:
  selector: {matchLabels: {app: far}}
  match: request.url_path == "/no"
  check: {deny: {status: 404}}
"""


def test_rules_in_envoy_act_there_and_those_that_are_asked_are_told_of(pair: Pair) -> None:
    def status(path: str) -> str:
        try:
            pair.call("near-v1", f"http://far:9080{path}")
        except AssertionError as error:
            return str(error)
        return "200"

    rules = pair.mesh.config / "rules.yaml"
    rules.write_text(RULES.partition("---")[2])
    eventually(lambda: "404" in status("/no") and status("/") == "200", what="the rule in Envoy acts")
    rules.write_text(RULES)
    # The two machines of this test have their files in common, so Mixer's socket is in reach here. It is told as ever.
    wanted = "workload far-v1 is elsewhere and does not reach mixer: what it would ask by default/asked is refused"
    eventually(lambda: wanted in [one["message"] for one in pair.mesh.status()["warnings"]], what="it is told")
    rules.unlink()
    eventually(lambda: status("/") == "200", what="no rule is left")


def test_it_renews_by_its_certificate(pair: Pair) -> None:
    eventually(lambda: "client-certificate" in pair.audit(FAR), what="a renewal")
    assert pair.audit(FAR).count("join-token") == 1


def test_nothing_of_the_token_is_left(pair: Pair) -> None:
    listed = json.loads(pair.mesh.run("token", "list", "-o", "json").stdout)["tokens"]
    assert [(one["identity"], one["state"], one["used"]) for one in listed] == [(FAR, "used", 1)]
    assert "used" in pair.mesh.run("token", "list").stdout


def test_it_stays_while_the_control_plane_is_away_and_follows_when_it_is_back(pair: Pair) -> None:
    issued = len(pair.audit(FAR))
    assert pair.mesh.stop("up", number=signal.SIGKILL) == -signal.SIGKILL
    for source, host in (("near-v1", "far"), ("far-v1", "near")):
        # The status says nothing now; who is where has not changed.
        saved = json.loads((pair.mesh.state / "workloads" / f"{source}.json").read_text())
        environment = dict(
            entry.split("=", 1)
            for entry in Path(f"/proc/{saved['appPid']}/environ").read_text().split("\0")
            if "=" in entry
        )
        enter = pair.machine.enter if source.startswith("far") else ()
        done = subprocess.run(
            [*enter, sys.executable, "-c", CALL, f"http://{host}:9080/"], env=environment, capture_output=True,
            text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    pair.mesh.up()
    eventually(lambda: pair.ready("far-v1") and pair.ready("near-v1"), what="both are back")
    eventually(lambda: len(pair.audit(FAR)) > issued, what="renewed by the new control plane")
    assert pair.audit(FAR).count("join-token") == 1
    pair.mesh.write(
        "near.yaml",
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: near}
spec:
  hosts: [near]
  http:
  - headers: {request: {set: {x-told: after}}}
    route: [{destination: {host: near}}]
""",
    )
    eventually(lambda: pair.call("far-v1", "http://near:9080/").get("x-told") == "after", what="new configuration")


def test_a_gateway_elsewhere(pair: Pair) -> None:
    pair.mesh.write(
        "gateway.yaml",
        """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {app: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: far}}]}]
""",
    )
    token, port = pair.token("default/edge"), free_port()
    words = ["--name", "edge", "--service-account", "edge", "--listen", f"127.0.0.1:{port}:80"]
    pair.mesh.start("edge", pair.command(token, *words, what="gateway", address=pair.machine.also_there))

    def page() -> str:
        done = subprocess.run(
            [*pair.machine.enter, sys.executable, "-c", CALL, f"http://127.0.0.1:{port}/"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["headers"]["x-forwarded-client-cert"])

    certificate = eventually(page, what="an answer through the gateway elsewhere")
    assert f"By={FAR}" in certificate
    assert "URI=spiffe://cluster.local/ns/default/sa/edge" in certificate
    assert pair.mesh.stop("edge") == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param("used", "is used up: 1 of 1", id="used"),
        pytest.param("revoked", "no such join token", id="revoked"),
        pytest.param("other-identity", "is for another identity than 'default/far'", id="other-identity"),
        pytest.param("other-root", "none of 1 roots is one that join token", id="other-root"),
        pytest.param("no-roots", "it holds no roots: name their file with --ca-root", id="no-roots"),
    ],
)
def test_who_is_not_let_in(pair: Pair, spoil: str, message: str) -> None:
    account = "default/other" if spoil == "other-identity" else "default/far"
    token = pair.token(account)
    name = token.read_text().split(".")[1]
    match spoil:
        case "used":
            assert pair.mesh.run("token", "list").returncode == 0
            run(pair, token, "--name", "once", "--", "true")
        case "revoked":
            assert f"join token {name} for {FAR} is revoked" in pair.mesh.run("token", "revoke", name).stdout
        case "other-root":
            token.write_text(token.read_text().splitlines()[0] + "\n" + strange_root())
        case "no-roots":
            token.write_text(token.read_text().splitlines()[0])
    done = run(pair, token, "--name", "late", "--", "true")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr.splitlines()[-1], done.stderr
    secret = token.read_text().split(".")[2].split("\n")[0]
    assert secret not in done.stderr + pair.mesh.log("up")
    assert pair.mesh.workload_status("late") is None


def run(pair: Pair, token: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = pair.command(token, "--service-account", "far", *words, address=pair.machine.also_there)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def strange_root() -> str:
    from tests.fakes.certs import StrangeAuthority

    return StrangeAuthority().root_pem.decode()


def test_it_leaves_in_order(pair: Pair) -> None:
    assert pair.call("near-v1", "http://far:9080/")
    assert pair.mesh.stop("far-v1") == 0
    assert pair.mesh.workload_status("far-v1") is None
    with pytest.raises(AssertionError, match="503"):
        pair.call("near-v1", "http://far:9080/")
