"""`lateen authz` on a mesh that runs: what it says of a request is what becomes of that request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.harness import ECHO, MeshRun
from tests.fakes.tokens import jwks, sign

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

TOKENS = """\
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: staff}
spec:
  selector: {matchLabels: {app: back}}
  jwtRules: [{issuer: staff, audiences: [shop], jwks: '%s'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: staff-only}
spec:
  selector: {matchLabels: {app: back}}
  action: DENY
  rules:
    - to: [{operation: {paths: [/staff*]}}]
      from: [{source: {notRequestPrincipals: [staff/*]}}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("policies.yaml", POLICIES + TOKENS % jwks("ec"))
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
        ("DENY", "staff-only", 1, False),
        ("DENY", "tried", 1, True),
    }
    assert [one["writtenAt"] for one in held["policies"]] == [
        f"{mesh.config}/policies.yaml:{line}" for line in (1, 11, 36, 20)
    ]
    assert held["issuers"] == [{"issuer": "staff", "ports": [0, 9080]}]
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


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iss": "staff", "aud": "shop", "sub": "ann"}, 200),
        ({"iss": "staff", "aud": "else", "sub": "ann"}, 403),
        ({"iss": "other", "aud": "shop", "sub": "ann"}, 401),
        (None, 403),
    ],
)
def test_what_a_token_says_counts_as_the_proxy_takes_it(
    mesh: MeshRun, claims: dict[str, Any] | None, status: int
) -> None:
    request = ["GET", "/staff/rota"]
    token = ["--claims", json.dumps(claims)] if claims is not None else []
    told = mesh.run("authz", "test", "--from", "front-v1", "--to", "back-v1", *request, *token, "-o", "json")
    header = ["-H", f"Authorization: Bearer {sign(claims)}"] if claims is not None else []
    asked = mesh.inside(
        "front-v1",
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *header, "http://back:9080/staff/rota"],
    )
    answer = json.loads(told.stdout)
    assert int(asked.stdout) == status
    assert answer["status"] == status, answer
