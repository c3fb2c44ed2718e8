"""Looking at a running mesh: edges of every kind, logs as they are written, spans from within."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.observe.test_spans import TRACE, ZIPKIN

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(180)]

APPS = Path(__file__).parent / "apps"
CONFIG = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: private}
spec:
  selector: {matchLabels: {app: echo}}
  action: DENY
  rules: [{to: [{operation: {paths: [/private]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  selector: {matchLabels: {app: closed}}
  action: ALLOW
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: ["*"]
  gateways: [web]
  http: [{route: [{destination: {host: echo, port: {number: 9080}}}]}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    mesh = MeshRun()
    try:
        mesh.write("mesh.yaml", CONFIG)
        mesh.up()
        for name in ("echo", "client"):
            mesh.workload(name, "v1", [sys.executable, str(ECHO)], words=["--service-account", name])
        for name in ("bytes", "closed"):
            mesh.workload(name, "v1", [sys.executable, str(APPS / "bytes.py"), "lines:9000"], port="tcp:9000")
        mesh.start("collector", mesh.command("collector"))
        mesh.gateway()
        mesh.wait_ready("echo-v1", "client-v1", "bytes-v1", "closed-v1", "collector", "ingressgateway")
        yield mesh
    finally:
        mesh.close()


def ask(mesh: MeshRun, url: str, count: int) -> list[int]:
    result = mesh.inside("client-v1", [sys.executable, str(APPS / "ask.py"), "http", url, str(count)])
    assert result.returncode == 0, result.stderr
    return [status for status, _ in json.loads(result.stdout)]


def talk(mesh: MeshRun, host: str, times: int) -> Any:
    result = mesh.inside("client-v1", [sys.executable, str(APPS / "talk.py"), "line", host, "9000", str(times)])
    return json.loads(result.stdout)


def test_edges_of_every_kind(mesh: MeshRun) -> None:
    """A gateway's, those of bytes, those that a policy refuses."""
    assert ask(mesh, "http://echo:9080/", 8) == [200] * 8
    assert ask(mesh, "http://echo:9080/private", 4) == [403] * 4
    assert [mesh.get("/").status for _ in range(5)] == [200] * 5
    assert len(talk(mesh, "bytes", 3)) == 3
    assert talk(mesh, "closed", 2) == ["", ""]

    def met() -> bool:
        result = mesh.run("graph", "-o", "json")
        edges = {(edge["source"], edge["destination"]): edge for edge in json.loads(result.stdout)}
        told = {
            pair: (edge["protocol"], edge["requests"], edge["refused"], edge["successRatio"], edge["mutualTls"])
            for pair, edge in edges.items()
        }
        assert told["client-v1", "echo-v1"] == ("http", 12, 4, 1.0, True), told
        assert told["ingressgateway", "echo-v1"] == ("http", 5, 0, 1.0, True), told
        assert told["client-v1", "bytes-v1"] == ("tcp", 3, 0, 1.0, True), told
        # Refused connections reached the server's proxy, by mutual TLS; which of them it refused is in its access log.
        assert told["client-v1", "closed-v1"] == ("tcp", 2, 0, 1.0, True), told
        assert "unknown" not in {name for pair in told for name in pair}
        return True

    eventually(met, what="edges")
    text = mesh.run("graph").stdout
    assert "echo-v1  12 http requests, 100.0% ok, 4 refused" in text
    assert "closed-v1  2 connections, mTLS" in text
    table = mesh.run("top", "--once").stdout
    assert next(line for line in table.splitlines() if "ingressgateway" in line).count("echo-v1") == 1


def test_logs_of_one_and_of_many(mesh: MeshRun) -> None:
    assert ask(mesh, "http://echo:9080/one?x=1", 1) == [200]

    def lines(*words: str) -> list[str]:
        result = mesh.run("logs", *words)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    found = eventually(lambda: [line for line in lines("echo-v1", "-n", "-1") if "/one" in line], what="a line")
    assert json.loads(found[0])["path"] == "/one?x=1"
    # Of a connection there is one line, when it has ended.
    before = len(lines("closed-v1", "-n", "-1"))
    assert talk(mesh, "closed", 2) == ["", ""]
    denied = eventually(lambda: len(now := lines("closed-v1", "-n", "-1")) >= before + 2 and now, what="their lines")
    assert [json.loads(line)["connection_termination_details"] for line in denied[before:]] == [
        "rbac_access_denied_matched_policy[none]"
    ] * 2
    both = eventually(lambda: len(two := [x for x in lines("*-v1") if "/one" in x]) == 2 and two, what="both sides")
    assert sorted(line.partition(" | ")[0].strip() for line in both) == ["client-v1", "echo-v1"]
    with subprocess.Popen(mesh.command("logs", "echo-v1", "-f", "-n", "0"), stdout=subprocess.PIPE, text=True) as tail:
        try:
            assert tail.stdout is not None
            eventually(lambda: Path(f"/proc/{tail.pid}/stat").read_text().split()[2] == "S", what="it follows")
            ask(mesh, "http://echo:9080/two", 1)
            line = tail.stdout.readline()
            while "/two" not in line:
                line = tail.stdout.readline()
        finally:
            tail.terminate()
    assert lines("echo-v1", "--envoy", "--since", "1h") is not None


def test_spans_from_within_the_mesh_are_shown(mesh: MeshRun) -> None:
    """The collector is a workload like any other, and is looked at from outside."""
    code = (
        "import json, sys, urllib.request as u\n"
        "head = {'content-type': 'application/json'}\n"
        "r = u.Request('http://collector:9411/api/v2/spans', sys.stdin.buffer.read(), head)\n"
        "print(u.urlopen(r, timeout=8).status)"
    )
    span = json.dumps([{**ZIPKIN, "traceId": TRACE}]).encode()
    result = mesh.inside("client-v1", [sys.executable, "-c", code], feed=span)
    assert result.stdout.strip() == b"202", result.stderr
    shown = mesh.run("trace", TRACE[:8])
    assert shown.returncode == 0, shown.stderr
    assert "server get /" in shown.stdout
    assert TRACE in mesh.run("trace").stdout
