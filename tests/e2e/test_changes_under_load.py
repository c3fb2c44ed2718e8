"""Subsets and their routes come, change and go in files that are written one after the other: no request notices."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(240)]

APPS = Path(__file__).parent / "apps"
ROUNDS = 100
VERSIONS = ("v1", "v2", "v3")
PAUSES_SECONDS = (0.0, 0.0, 0.02, 0.15)  # between the files of one apply: a copy, a slow tool
LOAD_SECONDS = 120  # at most: the load is ended when the rounds are over

BASE = """
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""


def rule(subsets: dict[str, str]) -> str:
    entries = "".join(f"\n  - {{name: {name}, labels: {{version: {version}}}}}" for name, version in subsets.items())
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo}\n"
        f"spec:\n  host: echo\n  subsets:{entries}\n"
    )


def routes(subsets: dict[str, str], *, gateway: str = "mesh") -> str:
    """Return what sends the mesh's (or a gateway's) requests to these subsets alike; without any to the service."""
    host, where = ("echo", "") if gateway == "mesh" else ('"*"', "\n  gateways: [edge]")
    entries = "".join(
        f"\n    - {{destination: {{host: echo, subset: {name}}}, weight: {100 // len(subsets)}}}" for name in subsets
    )
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {gateway}}}\n"
        f"spec:\n  hosts: [{host}]{where}\n"
        f"  http:\n  - route:{entries or ' [{destination: {host: echo}}]'}\n"
    )


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("base.yaml", BASE)
        run.write("edge.yaml", routes({}, gateway="edge"))
        run.up()
        for version in VERSIONS:
            run.workload(
                "echo", version, [sys.executable, str(APPS / "cases_app.py"), "echo", version], port="http:8080"
            )
        run.workload("client", "v1", ["sleep", "1000"], port="")
        run.gateway()
        run.wait_ready(*(f"echo-{version}" for version in VERSIONS), "client-v1", "ingressgateway")
        eventually(lambda: run.get("/").status == 200, what="the gateway serves")
        yield run
    finally:
        run.close()


def test_subsets_come_and_go_with_their_routes_in_any_order(mesh: MeshRun) -> None:
    dice = random.Random(20261125)
    caller = mesh.start_inside(
        "client-v1", [sys.executable, str(APPS / "caller.py"), "http://echo/", str(LOAD_SECONDS), "0.002"]
    )
    reached: set[str] = set()
    with mesh.load("/", gap_seconds=0.003) as load:
        for number in range(ROUNDS):
            names = [f"s{number}-{i}" for i in range(dice.choice((1, 1, 2)))]
            subsets = {name: dice.choice(VERSIONS) for name in names}
            files: dict[str, str | None] = {
                "rule.yaml": rule(subsets),
                "mesh.yaml": routes(subsets),
                "edge.yaml": routes(subsets, gateway="edge"),
            }
            if number % 10 == 9:  # all subsets leave; the next round brings others
                files = {"rule.yaml": None, "mesh.yaml": None, "edge.yaml": routes({}, gateway="edge")}
            for name in dice.sample(sorted(files), len(files)):
                content = files[name]
                if content is None:
                    (mesh.config / name).unlink()
                else:
                    mesh.write(name, content)
                time.sleep(dice.choice(PAUSES_SECONDS))  # what the tool that writes the files takes, not a wait
            if number % 20 == 5:

                def follows(subsets: dict[str, str] = subsets) -> bool:
                    versions = {mesh.get("/").json["version"] for _ in range(12)}
                    reached.update(versions)
                    return versions == set(subsets.values())

                eventually(follows, what=f"traffic follows round {number}", seconds=10)
        sent = load.sent
    caller.send_signal(2)
    out, err = caller.communicate(timeout=20)
    report = json.loads(out)
    assert (load.bad, report["bad"]) == ([], []), err
    assert sent > ROUNDS
    assert report["sent"] > ROUNDS
    assert reached <= set(VERSIONS)
    told = mesh.status()
    assert (told["errors"], told["warnings"]) == ([], [])


def test_a_route_to_what_never_comes_is_applied_all_the_same(mesh: MeshRun) -> None:
    mesh.write("edge.yaml", routes({"nowhere": "v1"}, gateway="edge"))
    eventually(lambda: mesh.get("/").status == 503, what="the route acts without its subset", seconds=15)
    mesh.write("rule.yaml", rule({"nowhere": "v2"}))
    eventually(lambda: mesh.get("/").status == 200, what="and heals when the subset comes", seconds=15)
