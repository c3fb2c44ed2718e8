"""A real gRPC client that is its own proxy (`xds:///`): it resolves, calls and follows the configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

APPS = Path(__file__).parent / "apps"
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""


def routes(text: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo}}
spec:
  hosts: [echo]
  http:
  - route: {text}
"""


ALL_TO_V2 = routes("[{destination: {host: echo, subset: v2}}]")
SHARED = routes(
    "[{destination: {host: echo, subset: v1}, weight: 80}, {destination: {host: echo, subset: v2}, weight: 20}]"
)

Call = Callable[[int], list[str]]


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.up()
        for version in ("v1", "v2"):
            run.workload(
                "echo",
                version,
                [sys.executable, str(APPS / "grpc_echo.py")],
                port="grpc:7070",
                env={"SERVICE_VERSION": version},
            )
        run.workload("client", "v1", [sys.executable, str(APPS / "echo.py")])
        run.wait_ready("echo-v1", "echo-v2", "client-v1")
        yield run
    finally:
        run.close()


@pytest.fixture
def call(mesh: MeshRun) -> Iterator[Call]:
    """Call on one channel of a client that runs in the network of a workload."""
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"unix:{mesh.state}/run/xds-local.sock",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": "sidecar~127.0.0.1~client.default~default.svc.cluster.local",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default"},
        },
    }
    client = subprocess.Popen(
        [*mesh.enter("client-v1"), sys.executable, str(APPS / "grpc_caller.py"), "xds:///echo:7070"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None

    def run(count: int) -> list[str]:
        client.stdin.write(f"{count}\n")
        client.stdin.flush()
        answers: list[str] = json.loads(client.stdout.readline())
        return answers

    try:
        yield run
    finally:
        client.stdin.close()
        client.wait(15)
        client.stdout.close()
        for path in mesh.config.glob("test-*.yaml"):
            path.unlink()


def versions(answers: list[str]) -> Counter[str]:
    return Counter(answer.split()[0] for answer in answers)


def test_a_call_is_answered_by_every_version(call: Call) -> None:
    answers = call(20)
    assert sorted(answer.split(" ", 1)[1] for answer in answers) == sorted(f"hello {n}" for n in range(20))
    assert set(versions(answers)) == {"v1", "v2"}


def test_calls_on_one_channel_follow_subsets_and_weights(mesh: MeshRun, call: Call) -> None:
    assert set(versions(call(20))) == {"v1", "v2"}
    mesh.write("test-subsets.yaml", SUBSETS)
    mesh.write("test-routes.yaml", ALL_TO_V2)
    eventually(lambda: set(versions(call(10))) == {"v2"}, what="all to v2")
    assert set(versions(call(30))) == {"v2"}
    mesh.write("test-routes.yaml", SHARED)
    eventually(lambda: len(versions(call(10))) == 2, what="shared again")
    shares = versions(call(300))
    assert sum(shares.values()) == shares["v1"] + shares["v2"] == 300
    assert 25 <= shares["v2"] <= 95, shares  # 60 expected; five standard deviations to either side


def test_an_endpoint_that_leaves_is_not_called(mesh: MeshRun, call: Call) -> None:
    assert set(versions(call(20))) == {"v1", "v2"}
    assert mesh.stop("echo-v1") in (0, 143)
    eventually(lambda: set(versions(call(6))) == {"v2"}, what="only v2 is left")
    assert versions(call(20)) == {"v2": 20}
