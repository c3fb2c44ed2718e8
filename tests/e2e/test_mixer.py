"""Rules in a whole mesh: what Mixer decides, counts and logs, and what becomes of requests without it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.harness import ECHO, Answer, MeshRun, eventually
from tests.net.test_turns import takes_turns

from lateen.mixer.process import TURN_NANOSECONDS
from lateen.net.kernel import turn_of

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.netns, pytest.mark.timeout(180)]

TOLD_SECONDS = 1.5  # Mixer tells every second
APPS = ("orders", "web")
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: orders, port: {number: 9080}}}]}]
"""


class Shop:
    """Two services and a gateway in front of one of them."""

    def __init__(self, mesh: MeshRun) -> None:
        self.mesh = mesh

    def rule(self, spec: str, *, name: str = "it", namespace: str = "default") -> None:
        """Write one rule in place of all others."""
        self.mesh.write(
            "rule.yaml",
            f"apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\n"
            f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}",
        )

    def get(self, path: str = "/", **headers: str) -> Answer:
        return self.mesh.get(path, {name.replace("_", "-"): value for name, value in headers.items()})

    def from_web(self, *headers: str) -> int:
        """Ask orders from inside web; return the status."""
        argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        for header in headers:
            argv += ["-H", header]
        return int(self.mesh.inside("web-v1", [*argv, "http://orders:9080/"]).stdout)

    def mixer(self) -> dict[str, Any]:
        found: dict[str, Any] = self.mesh.status().get("mixer") or {}
        return found


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    mesh = MeshRun()
    try:
        mesh.config.joinpath("gateway.yaml").write_text(GATEWAY)
        mesh.up()
        for app in APPS:
            mesh.workload(app, "v1", [sys.executable, str(ECHO)], words=["--service-account", app])
        mesh.gateway()
        mesh.wait_ready("orders-v1", "web-v1", "ingressgateway")
        eventually(lambda: mesh.get("/").status == 200, what="first page")
        yield Shop(mesh)
    finally:
        mesh.close()


@pytest.fixture(autouse=True)
def clean(shop: Shop) -> Iterator[None]:
    yield
    (shop.mesh.config / "rule.yaml").unlink(missing_ok=True)
    eventually(lambda: shop.get(x_who="intern").status == 200 and shop.from_web("x-who: intern") == 200)


RULE = """
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: other, namespace: default}
spec:
"""
DENY = """
  selector: {matchLabels: {app: orders}}
  match: 'request.headers["x-who"] == "intern"'
  check: {deny: {status: 423, body: not for interns, headers: {x-why: policy}}}
"""


def test_a_denial_has_the_status_the_body_and_the_headers_that_are_written(shop: Shop) -> None:
    shop.rule(DENY)
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied")
    answer = shop.get(x_who="intern")
    assert (answer.body, answer.headers["x-why"]) == (b"not for interns", "policy")
    assert shop.get(x_who="boss").status == 200
    assert shop.get().status == 200
    assert shop.from_web("x-who: intern") == 423
    eventually(lambda: shop.mixer()["state"] == "serving", what="Mixer serves")  # Envoy does not need it for this rule


def test_who_asks_is_known_by_certificate_and_not_by_what_it_says(shop: Shop) -> None:
    shop.rule(
        """
  selector: {matchLabels: {app: orders}}
  match: source.serviceAccount == "web"
  check: {allow: {}}
"""
    )
    eventually(lambda: shop.get().status == 403, what="the gateway is refused")
    assert shop.from_web() == 200
    forged = {
        "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/default/sa/web",
        "source.serviceAccount": "web",
        "lateen-asker": '{"rules": []}',
        "x-lateen-peer": "web-v1;default;web;v1;lateen;web;v1",
    }
    assert shop.mesh.get("/", forged).status == 403


def test_a_quota_is_kept_for_each_client(shop: Shop) -> None:
    shop.rule(
        """
  selector: {matchLabels: {app: orders}}
  quota: {limit: 3, per: 10m, by: ['request.headers["x-client"]'], body: slow down}
"""
    )
    # Until the rule acts, more than its limit passes.
    eventually(lambda: {shop.get(x_client="first").status for _ in range(5)} >= {429}, what="the limit acts")
    statuses = [shop.get(x_client="second").status for _ in range(6)]
    assert statuses == [200] * 3 + [429] * 3
    assert shop.get(x_client="third").status == 200


def test_headers_are_changed_on_their_way(shop: Shop) -> None:
    shop.rule(
        """
  selector: {matchLabels: {app: orders}}
  check:
    headers:
      request: {set: {x-caller: source.principal, x-absent: 'request.headers["x-none"]'}, remove: [x-secret]}
      response: {set: {x-served: "'orders'"}}
"""
    )
    eventually(lambda: "x-served" in shop.get(x_secret="s").headers, what="the rule acts")
    seen = shop.get(x_secret="s", x_caller="me").json["headers"]
    assert seen["x-caller"] == "spiffe://cluster.local/ns/default/sa/ingressgateway"
    assert "x-secret" not in seen
    assert "x-absent" not in seen


def test_lines_and_metrics_are_reported(shop: Shop) -> None:
    shop.rule(
        """
  selector: {matchLabels: {app: orders}}
  match: response.code >= 400
  report:
    log:
      file: orders.jsonl
      severity: WARNING
      fields: {code: response.code, path: request.path, who: source.workload.name}
    metric: {name: bad_orders, labels: {code: response.code}}
"""
    )
    file = shop.mesh.state / "mixer-logs" / "orders.jsonl"

    def logged() -> list[dict[str, Any]]:
        shop.get("/?status=404")
        shop.get("/")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    lines = eventually(logged, what="a line")
    assert {(line["code"], line["path"], line["who"], line["severity"]) for line in lines} == {
        (404, "/?status=404", "ingressgateway", "WARNING")
    }
    assert {line["rule"] for line in lines} == {"default/it"}
    assert file.stat().st_mode & 0o077 == 0


def test_a_gateway_asks_too(shop: Shop) -> None:
    shop.rule(DENY.replace("app: orders", "istio: ingressgateway"))
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied at the edge")
    assert shop.from_web("x-who: intern") == 200


def test_a_gateway_is_named(shop: Shop) -> None:
    """Its Envoys decide, the workloads behind them do not."""
    shop.rule(DENY.replace("selector: {matchLabels: {app: orders}}", "gateway: edge"))
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied at the edge")
    assert shop.from_web("x-who: intern") == 200


# Envoy's expressions have no patterns in lists: this one is asked.
ASKED = """
  selector: {matchLabels: {app: orders}}
  check: {list: {value: 'request.headers["x-who"]', values: [int.*], type: REGEX, deny: PRESENT, status: 423}}
"""


def test_a_rule_in_envoy_needs_no_mixer(shop: Shop) -> None:
    """And says so; one that has to be asked says why."""
    shop.rule(ASKED)
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied")
    pid = shop.mixer()["pid"]
    assert turn_of(pid) == TURN_NANOSECONDS or not takes_turns()
    shop.rule(DENY.replace("orders", "web") + "\n---\n" + RULE + DENY)
    eventually(lambda: shop.get(x_who="intern").body == b"not for interns", what="interns are denied otherwise")
    decisions = shop.mixer()["decisions"]
    os.kill(pid, signal.SIGSTOP)
    try:
        # Connections that were there before are drained, and decided by what was in force then.
        eventually(
            lambda: [shop.get(x_who=who).status for who in ("intern", "boss") * 3] == [423, 200] * 3,
            what="answers without Mixer",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    time.sleep(TOLD_SECONDS)
    decided = shop.mixer()["decisions"]
    assert decided >= decisions
    for who in ("intern", "boss") * 10:
        shop.get(x_who=who)
    time.sleep(TOLD_SECONDS)
    assert shop.mixer()["decisions"] == decided, "nothing is asked"
    told = json.loads(shop.mesh.run("mixer", "explain", "other", "-o", "json").stdout)
    assert [(part["part"], part["runs"]) for part in told["parts"]] == [("check.deny", "Envoy")]
    shop.rule(ASKED)
    told = json.loads(shop.mesh.run("mixer", "explain", "default/it", "-o", "json").stdout)
    assert told["parts"][0]["why"] == "Envoy's expressions have no lists of REGEX"


@pytest.mark.parametrize("policy", ["closed", "open"])
def test_without_mixer_a_rule_fails_as_it_says_and_mixer_comes_back(shop: Shop, policy: str) -> None:
    shop.rule(ASKED + f"  failurePolicy: {policy}\n")
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied")
    pid = shop.mixer()["pid"]
    os.kill(pid, signal.SIGSTOP)  # it would be started again at once
    try:
        found = eventually(
            lambda: (answer := shop.get(x_who="boss")).status != 423 and answer, what="an answer without Mixer"
        )
        if policy == "closed":
            found = eventually(lambda: (answer := shop.get()).status == 503 and answer, what="refusal")
            assert b"mixer does not answer" in found.body
        else:
            assert shop.get(x_who="intern").status == 200
    finally:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: shop.get(x_who="intern").status == 423 and shop.get().status == 200, what="Mixer is back")
    assert shop.mixer()["pid"] not in (0, pid)


def test_a_rule_that_is_wrong_is_told_by_line_and_changes_nothing(shop: Shop) -> None:
    shop.rule(DENY)
    eventually(lambda: shop.get(x_who="intern").status == 423, what="interns are denied")
    shop.rule(DENY.replace("request.headers", "request.heders"))
    told = eventually(lambda: shop.mesh.status()["errors"], what="the error is told")
    assert [entry["field"] for entry in told] == ["spec.match"]
    assert "heders" in told[0]["message"]
    assert shop.get(x_who="intern").status == 423
