"""Two meshes on one machine, each with a root of its own: who believes whom, and what a rotation of roots does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(180)]

A, B = "a.example", "b.example"
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


class Meshes(NamedTuple):
    a: MeshRun
    b: MeshRun
    port: dict[str, int]  # of the bundle endpoint, by trust domain


def config(other: str, port: int, root: str) -> str:
    pem = "".join(f"        {line}\n" for line in root.splitlines())
    return f"""
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  caCertificates:
  - spiffeBundleUrl: https://127.0.0.1:{port}/
    trustDomains: [{other}]
    endpoint:
      spiffeId: spiffe://{other}/ns/istio-system/sa/lateen
      pem: |
{pem}"""


def entry(ip: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: far}}
spec:
  hosts: [far.b.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  endpoints: [{{address: {ip}}}]
  subjectAltNames: [spiffe://{B}/ns/default/sa/far]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: far}}
spec: {{host: far.b.example, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}}}
"""


@pytest.fixture(scope="module")
def meshes() -> Iterator[Meshes]:
    port = {A: free_port(), B: free_port()}
    runs = []
    try:
        for domain in (A, B):
            words = ["--trust-domain", domain, "--allow-fetch", "127.0.0.0/8", "--bundle-refresh", "1s"]
            words += ["--bundle-endpoint", f"127.0.0.1:{port[domain]}"]
            run = MeshRun(network="explicit", extra=[*words, "--root-settle", "1s"])
            runs.append(run)
            run.up()
        a, b = runs
        b.write("strict.yaml", STRICT)
        b.workload("far", "v1", [sys.executable, str(ECHO)], words=["--service-account", "far"])
        a.workload("near", "v1", [sys.executable, str(ECHO)], words=["--service-account", "near"])
        b.wait_ready("far-v1")
        a.wait_ready("near-v1")
        info = b.workload_status("far-v1")
        assert info is not None
        a.write("far.yaml", entry(info["ip"]))
        yield Meshes(a, b, port)
    finally:
        for run in runs:
            run.close()


def root_of(run: MeshRun) -> str:
    found = [path for path in (run.state / "ca").rglob("*.pem") if "cert" in path.name]
    return found[0].read_text()


def call(run: MeshRun) -> tuple[int, str]:
    """Ask the far service through the near workload's proxy; return status and body."""
    with open(f"/proc/{run.workload_status('near-v1')['appPid']}/environ") as file:  # type: ignore[index]
        env = dict(line.split("=", 1) for line in file.read().split("\0") if "=" in line)
    words = [
        "curl",
        "-s",
        "-m",
        "5",
        "-w",
        "\n%{http_code}",
        "--proxy",
        env["http_proxy"],
        "http://far.b.example:9080/",
    ]
    out = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    body, _, status = out.rpartition("\n")
    return int(status or 0), body


def federate(meshes: Meshes) -> None:
    a, b, port = meshes
    a.write("mesh.yaml", config(B, port[B], root_of(b)))
    b.write("mesh.yaml", config(A, port[A], root_of(a)))


def principals(run: MeshRun) -> str:
    lines = run.metrics("far-v1").splitlines()
    return "".join(
        line for line in lines if line.startswith("istio_requests_total{") and 'reporter="destination"' in line
    )


def test_without_federation_nobody_believes_the_other(meshes: Meshes) -> None:
    assert eventually(lambda: call(meshes.a)[0] == 503, what="the entry is known")
    assert A not in principals(meshes.b)


def test_federated_a_workload_calls_the_other_mesh_with_its_own_identity(meshes: Meshes) -> None:
    federate(meshes)
    eventually(lambda: call(meshes.a)[0] == 200, what="the other mesh answers")
    wanted = f'source_principal="spiffe://{A}/ns/default/sa/near"'
    eventually(lambda: wanted in principals(meshes.b), what="the foreign principal in metrics")
    kept = json.loads((meshes.a.state / "federation.json").read_text())
    assert len(kept) == 1


def test_the_federation_follows_a_rotation_of_the_others_root(meshes: Meshes) -> None:
    if call(meshes.a)[0] != 200:
        pytest.skip("not federated")
    before = (meshes.a.state / "federation.json").read_text()
    assert meshes.b.run("ca", "rotate", "root").returncode == 0
    eventually(lambda: (meshes.a.state / "federation.json").read_text() != before, what="the new root")
    for _ in range(20):
        assert call(meshes.a)[0] == 200


def test_what_was_fetched_last_stays_while_nobody_answers(meshes: Meshes) -> None:
    a, b, _ = meshes
    if call(a)[0] != 200:
        pytest.skip("not federated")
    b.stop("up")
    try:
        eventually(lambda: "is believed until" in a.log("up"), what="told")
        assert call(a)[0] == 200
    finally:
        b.up()


def test_no_longer_federated_nobody_is_believed(meshes: Meshes) -> None:
    a, b, _ = meshes
    (b.config / "mesh.yaml").unlink()
    a.stop("near-v1")  # connections that stand are not asked again, so a new one is wanted
    a.workload("near", "v1", [sys.executable, str(ECHO)], words=["--service-account", "near"])
    a.wait_ready("near-v1")
    eventually(lambda: call(meshes.a)[0] == 503, what="refused again")
