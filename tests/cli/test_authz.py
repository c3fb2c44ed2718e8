"""`lateen authz`: what a proxy's listeners hold in words, and what becomes of one request, by which rule and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from lateen.cli import authz_check, authz_test, main
from lateen.cli.held_policies import Guarded, HeldIssuer, HeldPolicy, held_guards
from lateen.errors import BadInput, Unavailable
from lateen.wire.access import AccessReport, PolicyInfo, PortInfo

TYPES = "type.googleapis.com/envoy.extensions.filters."
MUTUAL = {"typed_config": {"require_client_certificate": True}}

DENY_ADMIN = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  action: DENY
  rules:
    - to: [{operation: {paths: [/admin*]}}]
    - to: [{operation: {methods: [DELETE]}}]
      when: [{key: "request.auth.claims[team]", notValues: [ops]}]
"""
ALLOW_FRONT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: default}
spec:
  rules:
    - from: [{source: {principals: [cluster.local/ns/default/sa/front]}}]
"""
TOKENS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: staff, namespace: default}
spec:
  jwtRules: [{issuer: staff, audiences: [shop], jwksUri: "https://keys.example/jwks"}]
"""


def policy(text: str, *, line: int = 2, rules: tuple[int, ...] = ()) -> PolicyInfo:
    document = yaml.safe_load(text)
    return PolicyInfo(
        kind=document["kind"],
        namespace="default",
        name=document["metadata"]["name"],
        file="mesh/p.yaml",
        line=line,
        rules=rules,
        document=document,
    )


def report(*policies: PolicyInfo, **fields: Any) -> AccessReport:
    defaults: dict[str, Any] = {
        "workload": "reviews-v1",
        "kind": "sidecar",
        "namespace": "default",
        "identity": "spiffe://cluster.local/ns/default/sa/reviews",
        "ip": "10.77.0.5",
        "trust_domains": ("cluster.local", "old.example"),
        "normalisation": "BASE",
        "ports": (
            PortInfo(port=9080, protocol="HTTP", mtls="STRICT", service="reviews.default.svc.cluster.local"),
            PortInfo(port=3306, protocol="MYSQL", mtls="PERMISSIVE"),
            PortInfo(port=0, mtls="DISABLE"),
        ),
        "policies": policies,
    }
    return AccessReport(**{**defaults, **fields})


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answers of the control plane by method."""
    answers: dict[str, Any] = {}

    def call(_: Any, method: str, __: Any, **___: Any) -> Any:
        if method not in answers:
            raise Unavailable("no control plane answers")
        return answers[method]

    monkeypatch.setattr(authz_test, "call_control", call)
    monkeypatch.setattr(authz_check, "call_control", call)
    return answers


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["authz", "test", "--to", "reviews-v1", "-o", "json", *words])
    return code, json.loads(capsys.readouterr().out)


FRONT = ("--from", "default/front")


def test_a_denied_request_names_policy_rule_and_line(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    control["Access"] = report(policy(DENY_ADMIN, rules=(7, 8)), policy(ALLOW_FRONT, rules=(6,)))
    code, answer = ask(capsys, *FRONT, "GET", "/x/../admin/users?id=1")
    assert code == 2
    assert (answer["allowed"], answer["status"], answer["action"]) == (False, 403, "DENY")
    assert answer["match"] == {
        "action": "DENY",
        "namespace": "default",
        "name": "no-admin",
        "rule": 0,
        "writtenAt": "mesh/p.yaml:7",
    }
    assert answer["normalised"] == ['path "/x/../admin/users" as "/admin/users"']

    assert main(["authz", "test", "--to", "reviews-v1", *FRONT, "GET", "/admin"]) == 2
    assert capsys.readouterr().out.startswith("denied with 403  matches DENY default/no-admin, rule 0 (mesh/p.yaml:7)")


def test_an_allowed_request_names_what_allows_it(control: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    control["Access"] = report(policy(DENY_ADMIN, rules=(7, 8)), policy(ALLOW_FRONT, rules=(6,)))
    code, answer = ask(capsys, *FRONT, "GET", "/reviews/1")
    assert (code, answer["allowed"], answer["match"]["writtenAt"]) == (0, True, "mesh/p.yaml:6")
    code, answer = ask(capsys, "--from", "default/other", "GET", "/reviews/1")
    assert (code, answer["allowed"], answer["match"]) == (2, False, None)
    assert "no rule of an ALLOW policy matches" in answer["why"]


@pytest.mark.parametrize("caller", ["spiffe://cluster.local/ns/default/sa/front", "old.example/ns/default/sa/front"])
def test_callers_are_named_in_several_ways(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str], caller: str
) -> None:
    control["Access"] = report(policy(ALLOW_FRONT))
    code, answer = ask(capsys, "--from", caller, "GET", "/")
    assert code == 0
    assert answer["from"].removeprefix("spiffe://") == caller.removeprefix("spiffe://")


@pytest.mark.parametrize(
    ("caller", "port", "words"),
    [
        ("none", "9080", "STRICT, and the caller speaks plain text"),
        ("default/front", "4000", "DISABLE, and takes no mutual TLS"),
        ("evil.example/ns/default/sa/front", "9080", "trust domain evil.example of the caller"),
    ],
)
def test_connections_that_do_not_come_about(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str], caller: str, port: str, words: str
) -> None:
    control["Access"] = report(policy(ALLOW_FRONT))
    code, answer = ask(capsys, "--from", caller, "--port", port, "GET", "/")
    assert (code, answer["allowed"]) == (2, False)
    assert words in answer["why"]


def test_tokens_are_known_only_where_their_issuer_is(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    control["Access"] = report(policy(DENY_ADMIN), policy(TOKENS))
    ops = tmp_path / "ops.json"
    ops.write_text('{"iss": "staff", "aud": ["shop"], "sub": "ann", "team": "ops"}')
    assert ask(capsys, *FRONT, "--claims", f"@{ops}", "DELETE", "/x")[0] == 0
    assert ask(capsys, *FRONT, "DELETE", "/x")[0] == 2
    for issuer, audience, status in (("other", "shop", 401), ("staff", "else", 403)):
        claims = json.dumps({"iss": issuer, "aud": audience, "team": "ops"})
        code, answer = ask(capsys, *FRONT, "--claims", claims, "GET", "/x")
        assert (code, answer["status"]) == (2, status)
    # Where nobody verifies tokens, none says anything.
    control["Access"] = report(policy(DENY_ADMIN))
    assert ask(capsys, *FRONT, "--claims", f"@{ops}", "DELETE", "/x")[0] == 2


def test_a_tcp_port_is_asked_without_method(control: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    control["Access"] = report(policy(ALLOW_FRONT))
    assert ask(capsys, *FRONT, "--port", "3306")[0] == 0
    code, answer = ask(capsys, "--from", "none", "--port", "3306")
    assert (code, answer["status"]) == (2, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*FRONT, "--port", "3306", "GET", "/"), "carries MYSQL, which has no method"),
        ((*FRONT,), "carries HTTP; wanted METHOD and PATH"),
        ((*FRONT, "--port", "70000", "GET"), "--port 70000: a port between 1 and 65535 wanted"),
        ((*FRONT, "-H", "broken", "GET", "/"), "-H 'broken': NAME:VALUE wanted"),
        ((*FRONT, "--claims", "[1]", "GET", "/"), "got list, wanted an object in JSON"),
        ((*FRONT, "--claims", "{", "GET", "/"), "wanted an object in JSON"),
        (("--from", "spiffe://x", "GET", "/"), "is no SPIFFE ID"),
        (("--from", "Bad/Name", "GET", "/"), "namespace 'Bad'"),
    ],
)
def test_wrong_words_are_told(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    control["Access"] = report(policy(ALLOW_FRONT))
    assert main(["authz", "test", "--to", "reviews-v1", *words]) == 1
    assert message in capsys.readouterr().err


# ---- check


def rbac(field: str, action: str, *names: str, prefix: str = "", http: bool = True) -> dict[str, Any]:
    rules: dict[str, Any] = {"policies": {name: {} for name in names}}
    if action != "ALLOW":
        rules["action"] = action
    where = "http" if http else "network"
    return {"typed_config": {"@type": f"{TYPES}{where}.rbac.v3.RBAC", field: rules, "shadow_rules_stat_prefix": prefix}}


def chain(port: int | None, *filters: dict[str, Any], mutual: bool, http: bool = True) -> dict[str, Any]:
    manager = {
        "@type": f"{TYPES}network.http_connection_manager.v3.HttpConnectionManager",
        "http_filters": list(filters),
    }
    proxy = {"typed_config": {"@type": f"{TYPES}network.tcp_proxy.v3.TcpProxy"}}
    return {
        "filter_chain_match": {} if port is None else {"destination_port": port},
        "filters": [{"typed_config": manager}] if http else [*filters, proxy],
        **({"transport_socket": MUTUAL} if mutual else {}),
    }


def inbound(*chains: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "virtualInbound",
        "traffic_direction": "INBOUND",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
        "filter_chains": [chain(15006, mutual=False, http=False), *chains],
    }


FRONT_RULES = ("ns[default]-policy[front]-rule[0]", "ns[default]-policy[front]-rule[1]")
ASKED = "istio-ext-authz-opa-1-ns[default]-policy[ask]-rule[0]"


def listeners() -> list[dict[str, Any]]:
    tokens = {
        "typed_config": {
            "@type": f"{TYPES}http.jwt_authn.v3.JwtAuthentication",
            "providers": {"origins-0": {"issuer": "staff"}},
        }
    }
    dry = rbac("shadow_rules", "DENY", "ns[root]-policy[try]-rule[0]", prefix="istio_dry_run_deny_")
    outbound = chain(None, rbac("rules", "ALLOW", "ns[a]-policy[b]-rule[0]"), mutual=False)
    return [
        inbound(
            chain(
                9080,
                rbac("shadow_rules", "DENY", ASKED),
                tokens,
                dry,
                rbac("rules", "ALLOW", *FRONT_RULES),
                mutual=True,
            ),
            chain(3306, rbac("rules", "ALLOW", *FRONT_RULES, http=False), mutual=True, http=False),
            chain(3306, rbac("rules", "ALLOW", *FRONT_RULES, http=False), mutual=False, http=False),
            chain(None, rbac("rules", "LOG", "ns[default]-policy[log]-rule[0]"), mutual=False),
        ),
        {"name": "15001", "traffic_direction": "OUTBOUND", "filter_chains": [outbound]},
    ]


def test_what_a_sidecar_holds() -> None:
    ports, policies, issuers = held_guards(listeners(), gateway=False)
    assert ports == (
        Guarded(3306, http=False, tcp=True, mtls="PERMISSIVE"),
        Guarded(9080, http=True, tcp=False, mtls="STRICT"),
        Guarded(0, http=True, tcp=False, mtls="DISABLE"),
    )
    assert policies == (
        HeldPolicy("default", "ask", "CUSTOM", dry_run=False, provider="opa-1", rules=1, ports=(9080,)),
        HeldPolicy("default", "front", "ALLOW", dry_run=False, provider="", rules=2, ports=(3306, 9080)),
        HeldPolicy("default", "log", "AUDIT", dry_run=False, provider="", rules=1, ports=(0,)),
        HeldPolicy("root", "try", "DENY", dry_run=True, provider="", rules=1, ports=(9080,)),
    )
    assert issuers == (HeldIssuer("staff", (9080,)),)


def test_check_tells_what_the_proxy_lacks(
    control: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = {
        "configs": [
            {
                "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                "dynamic_listeners": [{"name": one["name"], "active_state": {"listener": one}} for one in listeners()],
            }
        ]
    }
    monkeypatch.setattr(authz_check, "ask_json", lambda *_: dump)
    control["Access"] = report(policy(ALLOW_FRONT, line=12), policy(DENY_ADMIN, line=3))
    assert main(["authz", "check", "reviews-v1"]) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("ALLOW"))
    assert [cell.strip() for cell in row.split("  ") if cell] == [
        "ALLOW",
        "default/front",
        "2",
        "3306, 9080",
        "enforced",
        "mesh/p.yaml:12",
    ]
    assert "CUSTOM by opa-1" in out
    assert "dry run" in out
    assert "not held: AuthorizationPolicy default/no-admin (mesh/p.yaml:3)" in out

    control.clear()
    assert main(["authz", "check", "reviews-v1", "-o", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in data["policies"]] == ["ask", "front", "log", "try"]
    assert data["notHeld"] == []


def test_reports_survive_the_wire() -> None:
    sent = report(policy(DENY_ADMIN, rules=(7, 8)), policy(TOKENS), providers={"opa": "grpc"})
    assert msgspec.json.decode(msgspec.json.encode(sent), type=AccessReport) == sent


def test_unknown_callers_are_bad_input(control: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="a port between"):
        authz_test._port(report(), -1)
