"""`lateen authz` on a mesh that runs: what it says of a request is what becomes of that request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(120)]

POLICIES = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  selector: {matchLabels: {app: back}}
  rules:
    - from: [{source: {serviceAccounts: [front]}}]
      to: [{operation: {methods: [GET]}}]
    - to: [{operation: {paths: [/open]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  selector: {matchLabels: {app: back}}
  action: DENY
  rules:
    - to: [{operation: {paths: [/admin*]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: tried
  annotations: {istio.io/dry-run: "true"}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/tried]}}]}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("policies.yaml", POLICIES)
        run.up()
        for service in ("front", "other", "back"):
            run.workload(service, "v1", [sys.executable, str(ECHO)], words=["--service-account", service])
        run.wait_ready("front-v1", "other-v1", "back-v1")
        yield run
    finally:
        run.close()


def test_check_shows_what_the_proxy_enforces(mesh: MeshRun) -> None:
    held = json.loads(mesh.run("authz", "check", "back-v1", "-o", "json").stdout)
    assert held["identity"] == "spiffe://cluster.local/ns/default/sa/back"
    assert {(one["action"], one["name"], one["rules"], one["dryRun"]) for one in held["policies"]} == {
        ("ALLOW", "callers", 2, False),
        ("DENY", "no-admin", 1, False),
        ("DENY", "tried", 1, True),
    }
    assert [one["writtenAt"] for one in held["policies"]] == [
        f"{mesh.config}/policies.yaml:{line}" for line in (1, 11, 20)
    ]
    assert {one["port"]: one["mutualTls"] for one in held["ports"]} == {9080: "PERMISSIVE", 0: "PERMISSIVE"}
    assert held["notHeld"] == []

    shown = mesh.run("authz", "check", "back-v1")
    assert shown.returncode == 0
    assert f"{mesh.config}/policies.yaml:11" in shown.stdout
    assert "what no ALLOW policy matches is denied" in shown.stdout
    other = mesh.run("authz", "check", "front-v1").stdout
    assert "callers" not in other
    assert "tried" in other


@pytest.mark.parametrize(
    ("caller", "method", "path", "rule"),
    [
        ("front", "GET", "/x", "policies.yaml:7"),
        ("front", "POST", "/x", ""),
        ("other", "GET", "/x", ""),
        ("other", "POST", "/open", "policies.yaml:9"),
        ("front", "GET", "/admin/users", "policies.yaml:18"),
        ("front", "GET", "/x/../admin", "policies.yaml:18"),
        ("other", "GET", "/open?a=/admin", "policies.yaml:9"),
        ("front", "GET", "/tried", "policies.yaml:7"),
    ],
)
def test_the_answer_is_what_becomes_of_the_request(
    mesh: MeshRun, caller: str, method: str, path: str, rule: str
) -> None:
    told = mesh.run("authz", "test", "--from", f"{caller}-v1", "--to", "back-v1", method, path, "-o", "json")
    answer: dict[str, Any] = json.loads(told.stdout)
    asked = mesh.inside(
        f"{caller}-v1",
        [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--path-as-is",
            "-X",
            method,
            f"http://back:9080{path}",
        ],
    )
    refused = asked.stdout == b"403"  # the application itself answers what it does not know with other statuses
    assert answer["status"] == (403 if refused else 200), answer
    assert told.returncode == (2 if refused else 0)
    assert (answer["match"] or {"writtenAt": ""})["writtenAt"].endswith(rule)
    assert bool(answer["match"]) == bool(rule)
