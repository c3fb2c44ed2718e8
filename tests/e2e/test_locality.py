"""A mesh over two regions and their zones on one machine: nearest servers first, zones share, the next take over."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

APPS = Path(__file__).parent / "apps"
SERVER = [sys.executable, str(APPS / "echo.py")]
PLACES = {"one": "eu/one", "two": "eu/two", "far": "us/one"}
SELF = {"ISTIO_META_ENABLE_SELF_DISCOVERY": "true"}

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: back}
spec:
  selector: {app: back}
  ports: [{name: http, port: 80, targetPort: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {app: front}
  ports: [{name: http, port: 80, targetPort: 9080}]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: back}
spec:
  host: back
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, interval: 0.2s, baseEjectionTime: 60s, maxEjectionPercent: 100}
    %s
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    run.write("services.yaml", SERVICES)
    try:
        run.up()
        for version, place in PLACES.items():
            run.workload("back", version, [*SERVER, f"back-{version}"], words=["--locality", place])
        for version in ("one", "two"):
            words = ["--locality", PLACES[version]]
            run.workload("front", version, [*SERVER, f"front-{version}"], words=words, env=SELF)
        run.wait_ready(*(f"back-{version}" for version in PLACES), "front-one", "front-two")
        yield run
    finally:
        run.close()


def answers(mesh: MeshRun, client: str, count: int = 20) -> Counter[str]:
    """Return who answered a client's requests."""
    script = (
        "import json, sys, urllib.request\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    try:\n"
        "        print(json.load(urllib.request.urlopen('http://back/', timeout=5))['app'])\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
    )
    done = mesh.inside(client, [sys.executable, "-c", script, str(count)], seconds=60)
    assert done.returncode == 0, done.stderr
    return Counter(done.stdout.decode().split())


def test_each_client_stays_in_its_zone(mesh: MeshRun) -> None:
    mesh.write("rule.yaml", RULE % "")
    for client in ("one", "two"):
        eventually(
            lambda client=client: answers(mesh, f"front-{client}") == {f"back-{client}": 20},  # type: ignore[misc]
            what=f"front-{client} asks its own zone alone",
        )


@pytest.mark.parametrize(
    ("setting", "zones"),
    [
        pytest.param("minClusterSize: 1", 1, id="zones share"),
        pytest.param("minClusterSize: 9", 2, id="too few endpoints"),
        pytest.param("enabled: false", 3, id="switched off"),
    ],
)
def test_zone_aware_balancing(mesh: MeshRun, setting: str, zones: int) -> None:
    # Half of either service is in each zone of the region, so that each zone's clients are served within it.
    mesh.write("rule.yaml", RULE % f"loadBalancer: {{zoneAwareLbSetting: {{{setting}}}}}")
    for client in ("one", "two"):
        eventually(
            lambda client=client: len(answers(mesh, f"front-{client}", 30)) == zones,  # type: ignore[misc]
            what=f"front-{client} is served by {zones}",
        )
        if zones == 1:
            assert answers(mesh, f"front-{client}") == {f"back-{client}": 20}


def test_the_next_nearest_takes_over(mesh: MeshRun) -> None:
    mesh.write("rule.yaml", RULE % "loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}")
    eventually(lambda: answers(mesh, "front-one") == {"back-one": 20}, what="its own zone alone")
    mesh.stop("back-one")
    eventually(lambda: answers(mesh, "front-one") == {"back-two": 20}, what="the other zone of its region")
    mesh.stop("back-two")
    eventually(lambda: answers(mesh, "front-one") == {"back-far": 20}, what="the region to fail over to")
