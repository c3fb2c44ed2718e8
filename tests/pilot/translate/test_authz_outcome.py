"""What AuthorizationPolicies let in and keep out, through one real Envoy that a whole Pilot configures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.gate import Gate, Reply
from tests.fakes.proxies import ConfigServer

pytestmark = pytest.mark.envoy

HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {}, namespace: {}{}}}\nspec: "
MTLS = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: it, namespace: default}}\n"
IN, OUT = 200, 403


@pytest.fixture(scope="module")
def gate(server: ConfigServer, folder: Path) -> Iterator[Gate]:
    with Gate(folder, server) as gate:
        yield gate


def policy(spec: str, *, name: str = "it", namespace: str = "default", dry_run: bool = False) -> str:
    """Return one policy as YAML."""
    more = ', annotations: {istio.io/dry-run: "true"}' if dry_run else ""
    return HEAD.format(name, namespace, more) + spec + "\n---\n"


def allow(rule: str) -> str:
    return policy(f"{{rules: [{rule}]}}")


def deny(rule: str) -> str:
    return policy(f"{{action: DENY, rules: [{rule}]}}")


def source(fields: str) -> str:
    return f"{{from: [{{source: {{{fields}}}}}]}}"


def operation(fields: str) -> str:
    return f"{{to: [{{operation: {{{fields}}}}}]}}"


def when(key: str, fields: str) -> str:
    return f'{{when: [{{key: "{key}", {fields}}}]}}'


def answers(gate: Gate, *asked: dict[str, Any]) -> list[int]:
    return [gate.ask(**one).status for one in asked]


# ---------------------------------------------------------------- actions

WEB = source('principals: ["cluster.local/ns/default/sa/web"]')
GET = operation("methods: [GET]")


def test_without_policies_everybody_gets_in(gate: Gate) -> None:
    gate.use("")
    assert answers(gate, {}, {"account": "web"}) == [IN, IN]
    assert (gate.says(), gate.says(account="web"), gate.says(port=gate.loose)) == (b"app:hello",) * 2 + (
        b"loose:hello",
    )


def test_an_empty_policy_keeps_everybody_out_on_every_port(gate: Gate) -> None:
    gate.use(policy("{}"))
    assert gate.ask() == Reply(403, b"RBAC: access denied", gate.ask().headers)
    assert answers(gate, {"account": "web"}, {"port": gate.loose}) == [OUT, OUT]
    assert (gate.says(), gate.says(account="web"), gate.says(port=gate.loose)) == (b"", b"", b"")


def test_an_empty_rule_lets_everybody_in_or_keeps_everybody_out(gate: Gate) -> None:
    gate.use(allow("{}"))
    assert (gate.ask().status, gate.says()) == (IN, b"app:hello")
    gate.use(deny("{}"))
    assert (gate.ask().status, gate.says(), gate.says(port=gate.loose)) == (OUT, b"", b"")


def test_deny_goes_before_allow(gate: Gate) -> None:
    gate.use(allow("{}") + policy(f"{{action: DENY, rules: [{WEB}]}}", name="but"))
    assert answers(gate, {"account": "web"}, {"account": "other"}, {}) == [OUT, IN, IN]


def test_policies_of_one_action_are_alternatives(gate: Gate) -> None:
    gate.use(allow(WEB) + policy(f"{{rules: [{GET}]}}", name="reading", namespace="istio-system"))
    asked = [{"account": "web", "method": "POST"}, {"account": "other"}, {"account": "other", "method": "POST"}]
    assert answers(gate, *asked) == [IN, IN, OUT]


def test_an_audit_never_decides(gate: Gate) -> None:
    gate.use(policy(f"{{action: AUDIT, rules: [{WEB}]}}"))
    assert answers(gate, {"account": "web"}, {}) == [IN, IN]


def test_all_sections_of_a_rule_must_hold(gate: Gate) -> None:
    gate.use(
        allow(
            '{from: [{source: {principals: ["*/web"], notIpBlocks: ["127.1.0.0/16"]}}, {source: {namespaces: [ops]}}],'
            " to: [{operation: {methods: [GET]}}, {operation: {methods: [POST], paths: [/post]}}],"
            ' when: [{key: "request.headers[x]", values: ["1", "2"]}, {key: "request.headers[y]", notValues: ["*"]}]}'
        )
    )
    one = [("x", "1")]
    fits = {"account": "web", "headers": one}
    assert answers(gate, fits, {**fits, "account": "ops/any"}, {**fits, "method": "POST", "path": "/post"}) == [IN] * 3
    for other in (
        {"account": "other"},
        {"account": ""},
        {"source": "127.1.1.1"},
        {"method": "POST"},
        {"headers": []},
        {"headers": [("x", "3")]},
        {"headers": [*one, ("y", "")]},
    ):
        assert answers(gate, {**fits, **other}) == [OUT], other


# ---------------------------------------------------------------- sources and operations

ME = "cluster.local/ns/default/sa/web"
SOURCES = [
    # what is written, whom it names, whom it does not
    pytest.param(f'principals: ["{ME}"]', ["web"], ["web2", "other/web", ""], id="principal"),
    pytest.param('principals: ["cluster.local/ns/default/sa/w*"]', ["web", "w"], ["other", ""], id="prefix"),
    pytest.param('principals: ["*/sa/web"]', ["web", "other/web"], ["x-web", "web2", ""], id="suffix"),
    pytest.param('principals: ["*"]', ["web", "other/any"], [""], id="any principal"),
    pytest.param('principals: ["cluster.local/ns/default/sa/a.b"]', ["a.b"], ["axb"], id="dots are dots"),
    pytest.param('principals: ["*/sa/a.b"]', ["a.b"], ["axb"], id="dots of a suffix are dots"),
    pytest.param('principals: ["*/sa/[a-z]"]', ["[a-z]"], ["a"], id="brackets are brackets"),
    pytest.param('principals: ["*/sa/a*c"]', ["a*c"], ["abc", "ac"], id="a star in the middle is a star"),
    pytest.param('notPrincipals: ["*/sa/web"]', ["other", ""], ["web"], id="no identity is none of them"),
    pytest.param("namespaces: [ops]", ["ops/web"], ["web", "ops2/web", "xops/web", ""], id="namespace"),
    pytest.param('namespaces: ["o*s"]', ["ops/web", "os/x"], ["opsx/web", ""], id="glob"),
    pytest.param('namespaces: ["*-a"]', ["x-a/b"], ["x/b-a", "xa/b"], id="a glob ends at the slash"),
    pytest.param('namespaces: ["a*sa"]', ["a-sa/web"], ["abc/web"], id="a glob is within its segment"),
    pytest.param('namespaces: ["a.c"]', ["a.c/web"], ["abc/web"], id="dots of namespaces"),
    pytest.param("notNamespaces: [ops]", ["web", ""], ["ops/web"], id="not a namespace"),
    pytest.param("serviceAccounts: [web]", ["web"], ["ops/web", "web2", ""], id="account of the policy's namespace"),
    pytest.param("serviceAccounts: [ops/web]", ["ops/web"], ["web", "ops/web2"], id="account of another namespace"),
    pytest.param("serviceAccounts: [a.b]", ["a.b"], ["axb"], id="dots of accounts"),
    pytest.param("notServiceAccounts: [ops/web]", ["web", ""], ["ops/web"], id="not an account"),
    pytest.param("trustDomains: [cluster.local]", ["web"], [""], id="trust domain"),
    pytest.param('trustDomains: ["*.local"]', ["web"], [""], id="trust domain's end"),
    pytest.param('trustDomains: ["clus*"]', ["web"], [""], id="trust domain's beginning"),
    pytest.param('trustDomains: ["*"]', ["web"], [""], id="any trust domain"),
    pytest.param("trustDomains: [clusterXlocal]", [], ["web", ""], id="another trust domain"),
    pytest.param("notTrustDomains: [cluster.local]", [""], ["web"], id="not a trust domain"),
]


@pytest.mark.parametrize(("fields", "named", "others"), SOURCES)
def test_sources(gate: Gate, fields: str, named: list[str], others: list[str]) -> None:
    gate.use(allow(source(fields)))
    assert {name: gate.ask(account=name).status for name in named} == dict.fromkeys(named, IN)
    assert {name: gate.ask(account=name).status for name in others} == dict.fromkeys(others, OUT)
    assert {name: gate.says(account=name) for name in named} == dict.fromkeys(named, b"app:hello")
    assert {name: gate.says(account=name) for name in others} == dict.fromkeys(others, b"")


def test_a_principal_is_the_same_under_every_alias_of_the_trust_domain(gate: Gate) -> None:
    mesh = (
        "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
        "spec: {trustDomainAliases: [old.domain]}\n---\n"
    )
    for fields in (
        f'principals: ["{ME}"]',
        'principals: ["old.domain/ns/default/sa/web"]',
        "trustDomains: [old.domain]",
        "serviceAccounts: [web]",
    ):
        gate.use(mesh + allow(source(fields)))
        assert answers(gate, {"account": "web"}, {"account": "web@old.domain"}, {}) == [IN, IN, OUT], fields
    gate.use(mesh + deny(source(f'principals: ["{ME}"]')))
    assert answers(gate, {"account": "web"}, {"account": "web@old.domain"}, {}) == [OUT, OUT, IN]


def test_an_identity_is_known_on_a_session_that_is_taken_up_again(gate: Gate) -> None:
    gate.use(deny(WEB))
    assert gate.ask_again("web") == [(False, OUT), (True, OUT)]
    assert gate.ask_again("other") == [(False, IN), (True, IN)]


@pytest.mark.parametrize("field", ["ipBlocks", "remoteIpBlocks"])
def test_addresses_of_clients(gate: Gate, field: str) -> None:
    gate.use(allow(source(f'{field}: ["127.1.0.0/16", "127.2.3.4"]')))
    assert answers(gate, {"source": "127.1.9.9"}, {"source": "127.2.3.4"}, {"source": "127.2.3.5"}) == [IN, IN, OUT]
    assert [gate.says(source=one) for one in ("127.1.9.9", "127.2.3.5")] == [b"app:hello", b""]
    negated = f"not{field[0].upper()}{field[1:]}"
    gate.use(allow(source(f'{negated}: ["127.1.0.0/16"]')))
    assert answers(gate, {"source": "127.1.9.9"}, {"source": "127.2.3.4"}) == [OUT, IN]


def test_what_a_proxy_says_of_its_client_counts_for_remote_addresses_alone(gate: Gate) -> None:
    forwarded = {"headers": [("x-forwarded-for", "203.0.113.7")]}
    gate.use(allow(source('remoteIpBlocks: ["203.0.113.0/24"]')))
    assert answers(gate, forwarded, {}) == [IN, OUT]
    gate.use(allow(source('ipBlocks: ["203.0.113.0/24"]')))
    assert answers(gate, forwarded) == [OUT]


OPERATIONS = [
    pytest.param("methods: [GET]", [{}], [{"method": "POST"}], id="method"),
    pytest.param('methods: ["P*"]', [{"method": "POST"}], [{}], id="beginning of a method"),
    pytest.param("notMethods: [GET]", [{"method": "POST"}], [{}], id="not a method"),
    pytest.param(
        "hosts: [a.example.com]",
        [{"host": host} for host in ("a.example.com", "A.Example.COM", "a.example.com.", "a.example.com:81")],
        [{"host": host} for host in ("aXexample.com", "b.a.example.com", "a.example.com.evil", "a.example.comx:81")],
        id="host",
    ),
    pytest.param(
        'hosts: ["a.example.com:81"]',
        [{"host": host} for host in ("a.example.com:81", "a.example.com.:81")],
        [{"host": host} for host in ("a.example.com", "a.example.com:8", "a.example.com:810")],
        id="host with its port",
    ),
    pytest.param(
        'hosts: ["*.example.com"]',
        [{"host": host} for host in ("a.example.com", "A.B.EXAMPLE.com:81", "a.example.com.")],
        [{"host": host} for host in ("example.com", "aexample.com", "a.example.com.evil")],
        id="end of a host",
    ),
    pytest.param(
        'hosts: ["a.example*"]',
        [{"host": host} for host in ("a.example.com", "A.EXAMPLE:8")],
        [{"host": "b.a.example.com"}],
        id="beginning of a host",
    ),
    pytest.param('hosts: ["*"]', [{}], [], id="any host"),
    pytest.param('notHosts: ["*.example.com"]', [{"host": "other"}], [{"host": "A.example.com:81"}], id="not a host"),
    pytest.param("paths: [/a]", [{"path": p} for p in ("/a", "/a?b")], [{"path": p} for p in ("/a/", "/b")], id="path"),
    pytest.param('paths: ["/a*"]', [{"path": "/ab/c"}], [{"path": "/b"}], id="beginning of a path"),
    pytest.param('paths: ["*.js"]', [{"path": "/x/y.js?v=1"}], [{"path": "/xyjs"}, {"path": "/y.js/"}], id="its end"),
    pytest.param('paths: ["*"]', [{"path": "/x"}], [], id="any path"),
    pytest.param(
        'paths: ["/a/{*}/b"]',
        [{"path": p} for p in ("/a/x/b", "/a/x*y/b", "/a/%7b%7d/b")],
        [{"path": p} for p in ("/a/b", "/a/x/y/b", "/a/x/b/")],
        id="one segment",
    ),
    pytest.param(
        'paths: ["/a/{**}"]',
        [{"path": p} for p in ("/a/", "/a/x", "/a/x/y*z/")],
        [{"path": p} for p in ("/a", "/ab/x")],
        id="segments",
    ),
    pytest.param(
        'paths: ["/a/{*}/c/{**}/d.e"]',
        [{"path": p} for p in ("/a/b/c/x/d.e", "/a/b/c/x/y/d.e")],
        [{"path": p} for p in ("/a/b/c/d.e", "/a/b/c/x/dXe", "/a/b/b/c/x/d.e")],
        id="segments before others",
    ),
    pytest.param('notPaths: ["/a/{**}"]', [{"path": "/b"}], [{"path": "/a/x"}], id="not a path"),
]


@pytest.mark.parametrize(("fields", "named", "others"), OPERATIONS)
def test_operations(gate: Gate, fields: str, named: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    gate.use(allow(operation(fields)))
    assert (answers(gate, *named), answers(gate, *others)) == ([IN] * len(named), [OUT] * len(others))
    gate.use(deny(operation(fields)))
    assert (answers(gate, *named), answers(gate, *others)) == ([OUT] * len(named), [IN] * len(others))


def test_a_host_that_is_kept_out_is_kept_out_beside_others(gate: Gate) -> None:
    sly = [{"host": host} for host in ("a,bad.com", "bad.com:80,a", "user@bad.com", "bad.com:80x")]
    twice = {"host": "a", "headers": [("host", "bad.com")]}
    gate.use(deny(operation("hosts: [bad.com]")))
    assert answers(gate, *sly, twice, {"host": "a"}) == [OUT, OUT, OUT, OUT, OUT, IN]
    gate.use(allow(operation("hosts: [bad.com]")))
    assert answers(gate, *sly, twice) == [OUT, OUT, OUT, OUT, OUT]


def test_ports_are_those_of_the_workload(gate: Gate) -> None:
    gate.use(allow(operation('ports: ["$http"]')))
    assert (gate.ask().status, gate.says(), gate.says(port=gate.loose)) == (IN, b"", b"")
    gate.use(allow(operation('ports: ["80"]')))  # the Service's
    assert gate.ask().status == OUT
    gate.use(deny(operation('notPorts: ["$tcp"]')))
    assert (gate.ask().status, gate.says(), gate.says(port=gate.loose)) == (OUT, b"app:hello", b"")


# ---------------------------------------------------------------- conditions


def heads(*values: str) -> dict[str, Any]:
    return {"headers": [("X-Role", value) for value in values]}


HEADERS = [
    # what is written, action, what is let in, what is kept out
    pytest.param("values: [user]", "ALLOW", [heads("user")], [heads(), heads("users"), heads("user,x")], id="allow"),
    pytest.param('values: ["us*"]', "ALLOW", [heads("user")], [heads(), heads("xus")], id="allow a beginning"),
    pytest.param('values: ["*er"]', "ALLOW", [heads("user")], [heads(), heads("users")], id="allow an end"),
    pytest.param('values: ["*"]', "ALLOW", [heads("any")], [heads(), heads("")], id="allow what is there"),
    pytest.param(
        "notValues: [bad]",
        "ALLOW",
        [heads(), heads("good"), heads("badly")],
        [heads("bad"), heads("good", "bad"), heads("bad", "good"), heads("good, bad"), heads("bad,good")],
        id="allow but",
    ),
    pytest.param(
        "values: [admin]",
        "DENY",
        [heads(), heads("user"), heads("administrator"), heads("xadmin, adminx")],
        [
            heads("admin"),
            heads("user", "admin"),
            heads("admin", "user"),
            heads("user,admin"),
            heads("user, admin , x"),
        ],
        id="deny",
    ),
    pytest.param('values: ["a.*"]', "DENY", [heads("ab"), heads("x a.")], [heads("a.b"), heads("x, a.b")], id="a dot"),
    pytest.param('values: ["*.b"]', "DENY", [heads("ab")], [heads("a.b"), heads("a.b, x")], id="deny an end"),
    pytest.param('values: ["*"]', "DENY", [heads()], [heads("any"), heads("")], id="deny what is there"),
]


@pytest.mark.parametrize(("fields", "action", "let_in", "kept_out"), HEADERS)
def test_headers(
    gate: Gate, fields: str, action: str, let_in: list[dict[str, Any]], kept_out: list[dict[str, Any]]
) -> None:
    gate.use(policy(f"{{action: {action}, rules: [{when('request.headers[x-role]', fields)}]}}"))
    assert (answers(gate, *let_in), answers(gate, *kept_out)) == ([IN] * len(let_in), [OUT] * len(kept_out))


def test_the_host_as_a_header_is_the_host(gate: Gate) -> None:
    for key in ("request.headers[host]", "request.headers[:authority]", "request.headers[Host]"):
        gate.use(deny(when(key, "values: [bad.com]")))
        assert answers(gate, *({"host": host} for host in ("bad.com", "BAD.com.:80", "good.com"))) == [OUT, OUT, IN]


CONDITIONS = [
    pytest.param("source.ip", '"127.1.0.0/16"', {"source": "127.1.1.1"}, {"source": "127.2.1.1"}, id="source.ip"),
    pytest.param("remote.ip", '"127.1.0.0/16"', {"source": "127.1.1.1"}, {"source": "127.2.1.1"}, id="remote.ip"),
    pytest.param("source.principal", f'"{ME}"', {"account": "web"}, {"account": "x"}, id="source.principal"),
    pytest.param("source.namespace", '"o*"', {"account": "ops/web"}, {"account": "web"}, id="source.namespace"),
    pytest.param("source.serviceAccount", "web", {"account": "web"}, {"account": "x/web"}, id="source.serviceAccount"),
    pytest.param("source.trustDomain", '"*.local"', {"account": "web"}, {}, id="source.trustDomain"),
    pytest.param("destination.ip", '"127.0.0.0/8"', {}, None, id="destination.ip"),
    pytest.param("destination.port", '"$http"', {}, {"port": "loose"}, id="destination.port"),
]


@pytest.mark.parametrize(("key", "value", "named", "other"), CONDITIONS)
def test_conditions(gate: Gate, key: str, value: str, named: dict[str, Any], other: dict[str, Any] | None) -> None:
    elsewhere = [{**other, **({"port": gate.loose} if "port" in other else {})}] if other is not None else []
    for fields, expected in ((f"values: [{value}]", (IN, OUT)), (f"notValues: [{value}]", (OUT, IN))):
        gate.use(allow(when(key, fields)))
        assert (answers(gate, named), answers(gate, *elsewhere)) == ([expected[0]], [expected[1]] * len(elsewhere))


def test_the_server_name_that_a_client_asks_for(gate: Gate) -> None:
    gate.use(allow(when("connection.sni", 'values: ["OUTBOUND_.80_*"]')))
    assert gate.says(account="web", sni="outbound_.80_._.app.default") == b"app:hello"
    assert (gate.says(account="web", sni="other"), gate.says(account="web"), gate.says()) == (b"", b"", b"")


def claims(payload: str) -> str:
    """Return a filter that says what a verified token would: checking tokens is not what is looked at here."""
    return f"""
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: claims, namespace: default}}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: claims
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
          metadata:
          - metadata_namespace: envoy.filters.http.jwt_authn
            value: {{payload: {payload}}}
          - metadata_namespace: envoy.filters.http.other
            value: {{word: it, words: [one, two]}}
---
"""


TOKEN = '{iss: "https://a/b", sub: me, aud: [x, y], azp: app, one: {two: [deep, er]}, admin: true, level: "3"}'
CLAIMS = [
    ("request.auth.principal", ["https://a/b/me", "*me", "*", "https://a/b/*", "*/me"], ["a/b/me", "x/*"]),
    ("request.auth.audiences", ["x", "y", "*", "x*"], ["z", "x,y"]),
    ("request.auth.presenter", ["app", "*pp"], ["ap"]),
    ("request.auth.claims[one][two]", ["deep", "er", "d*"], ["eep", "two"]),
    ("request.auth.claims[level]", ["3"], ["4"]),
    ("request.auth.claims[admin]", [], ["true", "*"]),
    ("request.auth.claims[none]", [], ["*", "x"]),
    ("experimental.envoy.filters.http.other[word]", ["it", "*"], ["i"]),
    ("experimental.envoy.filters.http.other[words]", ["[one]", "[t*]"], ["one", "[three]"]),
]


@pytest.mark.parametrize(("key", "named", "others"), CLAIMS, ids=[key for key, _, _ in CLAIMS])
def test_claims_and_what_other_filters_found(gate: Gate, key: str, named: list[str], others: list[str]) -> None:
    for value in named:
        gate.use(claims(TOKEN) + allow(when(key, f'values: ["{value}"]')))
        assert gate.ask().status == IN, value
    rest = ", ".join(f'"{value}"' for value in others)
    gate.use(claims(TOKEN) + allow(when(key, f"values: [{rest}]")))
    assert gate.ask().status == OUT
    gate.use(allow(when(key, f"values: [{rest}, {', '.join(map(repr, named)) or 'x'}]")))
    assert gate.ask().status == OUT  # without a token


def test_request_principals(gate: Gate) -> None:
    gate.use(claims(TOKEN) + allow(source('requestPrincipals: ["https://a/b/me"]')))
    assert gate.ask().status == IN
    gate.use(claims(TOKEN) + allow(source('notRequestPrincipals: ["*"]')))
    assert gate.ask().status == OUT
    gate.use(deny(source('notRequestPrincipals: ["*"]')))
    assert gate.ask().status == OUT  # who has no token is kept out


# ---------------------------------------------------------------- TCP


def test_an_allow_rule_that_asks_for_http_lets_no_bytes_in(gate: Gate) -> None:
    gate.use(allow('{from: [{source: {principals: ["*"]}}], to: [{operation: {methods: [GET]}}]}'))
    assert (gate.ask(account="web").status, gate.says(account="web")) == (IN, b"")
    gate.use(allow('{from: [{source: {notRequestPrincipals: ["*"]}}]}'))
    assert (gate.ask().status, gate.says()) == (IN, b"")


def test_a_deny_rule_goes_without_what_only_http_has(gate: Gate) -> None:
    gate.use(deny('{from: [{source: {principals: ["*/web"]}}], to: [{operation: {paths: [/admin]}}]}'))
    assert (gate.ask(account="web").status, gate.ask("/admin", account="web").status) == (IN, OUT)
    assert (gate.says(account="web"), gate.says(account="other"), gate.says()) == (b"", b"app:hello", b"app:hello")


def test_a_deny_rule_with_nothing_that_bytes_have_keeps_all_bytes_out_and_this_is_told(gate: Gate) -> None:
    gate.use(deny(operation("paths: [/admin]")))
    assert (gate.ask().status, gate.ask("/admin").status, gate.says()) == (IN, OUT, b"")
    assert [problem for problem in gate.problems if "denies everything" in problem.message]


# ---------------------------------------------------------------- what Envoy would refuse


def test_what_no_matcher_can_hold_keeps_requests_out_whichever_way(gate: Gate) -> None:
    long = "a" * 5000
    for rule in (source(f'principals: ["*{long}"]'), operation(f'paths: ["/{{*}}/{long}"]')):
        gate.use(allow(rule))
        assert gate.ask(account="web").status == OUT
        gate.use(deny(rule))
        assert gate.ask(account="web").status == OUT
    for rule in (source(f'notPrincipals: ["*{long}"]'), operation(f'notPaths: ["/{{*}}/{long}"]')):
        gate.use(allow(rule))
        assert gate.ask(account="web").status == OUT
        gate.use(deny(rule))
        assert gate.ask(account="web").status == OUT
    gate.use(allow(when("request.headers[no name]", 'values: ["*"]')))
    assert gate.ask().status == OUT
    gate.use(deny(when("request.headers[no name]", 'values: ["*"]')))
    assert gate.ask().status == OUT


def test_the_longest_texts_are_no_burden(gate: Gate) -> None:
    globs, segments = "*a" * 512, "/{*}" * 256
    dots, star = "." * 1020, "." * 1023
    text = (
        f'{{from: [{{source: {{namespaces: ["{globs}", "{"*" * 1024}"], principals: ["*{star}"]}}}}],'
        f' to: [{{operation: {{paths: ["{segments}"], hosts: ["{dots}", "*{star}"]}}}}],'
        f' when: [{{key: "request.headers[x]", values: ["{dots}"]}}]}}'
    )
    gate.use(deny(text) + policy(f"{{rules: [{text}]}}", name="and"))
    assert gate.ask(account="web").status == OUT
    gate.use(deny(text))
    assert gate.ask(account="web").status == IN


def test_many_rules_and_values_are_one_listener(gate: Gate) -> None:
    values = ", ".join(f'"*/sa/account-{number}"' for number in range(500))
    rules = ", ".join([source(f"principals: [{values}]")] * 20)
    gate.use(policy(f"{{rules: [{rules}]}}"))
    assert answers(gate, {"account": "account-499"}, {"account": "account-500"}) == [IN, OUT]


# ---------------------------------------------------------------- what is told


def test_the_access_log_names_the_rule_that_refused(gate: Gate, folder: Path) -> None:
    log = folder / "access.log"
    logged = mesh_config(f"accessLogFile: {log}")
    web = policy(f"{{action: DENY, rules: [{{from: [{{source: {{namespaces: [x]}}}}]}}, {WEB}]}}", name="not-web")
    gate.use(logged + web + policy(f"{{rules: [{GET}]}}", name="reading", namespace="istio-system"))
    gate.ask("/first", account="web")
    gate.ask("/second", method="POST")
    gate.ask("/third")
    gate.says(account="web")
    gate.use(logged + web)
    gate.says(account="web", port=gate.loose)
    wanted = {
        "GET /first": "rbac_access_denied_matched_policy[ns[default]-policy[not-web]-rule[1]]",
        "POST /second": "rbac_access_denied_matched_policy[none]",
        "GET /third": "via_upstream",
    }
    refused = " - rbac_access_denied_matched_policy[ns[default]-policy[not-web]-rule[1]] "

    def lines() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    # A connection of bytes has no request line: why it ended stands in its place.
    gate.until(lambda: len(lines()) >= 5 and any(refused in line for line in lines()))
    found = {start: next(line for line in lines() if start in line) for start in wanted}
    assert {start: text in found[start] for start, text in wanted.items()} == dict.fromkeys(wanted, True), found


# ---------------------------------------------------------------- dry run


def test_what_is_tried_out_is_counted_and_decides_nothing(gate: Gate) -> None:
    def counted(name: str) -> dict[tuple[str, str], int]:
        return {
            (sample.labels["authz_dry_run_action"], sample.labels["authz_dry_run_result"]): int(sample.value)
            for sample in gate.envoy.samples(name)
            if "authz_dry_run_action" in sample.labels
            and sample.labels.get("http_conn_manager_prefix") in (None, f"inbound_0.0.0.0_{gate.http}")
        }

    gate.use(
        policy(f"{{rules: [{WEB}]}}", dry_run=True)
        + policy("{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}", name="not-x", dry_run=True)
    )
    before = counted("http_rbac"), counted("network_rbac")
    assert answers(gate, {"account": "web"}, {"account": "other"}, {"path": "/x"}) == [IN, IN, IN]
    assert gate.says() == b"app:hello"
    after = counted("http_rbac"), counted("network_rbac")
    assert {key: after[0][key] - before[0].get(key, 0) for key in after[0]} == {
        ("allow", "allowed"): 1,
        ("allow", "denied"): 2,
        ("deny", "allowed"): 2,
        ("deny", "denied"): 1,
    }
    assert {key for key in after[1] if after[1][key] > before[1].get(key, 0)} == {
        ("allow", "denied"),
        ("deny", "denied"),
    }
    gate.use(policy("{}", dry_run=True) + policy(f"{{rules: [{WEB}]}}", name="enforced"))
    assert answers(gate, {"account": "web"}, {"account": "other"}) == [IN, OUT]


# ---------------------------------------------------------------- one spelling for each request


def mesh_config(spec: str) -> str:
    return f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{{spec}}}\n---\n"


SPELT = ["//admin", "/%2Fadmin", "/x/..%2fadmin", "/x/../admin", "/%61dmin", "\\admin", "/x%5C..%5Cadmin", "/./admin"]


@pytest.mark.parametrize(
    ("level", "kept_out"),
    [
        pytest.param("", SPELT, id="a policy looks at paths"),
        pytest.param("DECODE_AND_MERGE_SLASHES", SPELT, id="decoded"),
        pytest.param("MERGE_SLASHES", ["//admin", "/x/../admin", "/%61dmin", "/./admin"], id="merged"),
        pytest.param("BASE", ["/x/../admin", "/%61dmin", "/./admin"], id="base"),
        pytest.param("NONE", [], id="none"),
    ],
)
def test_a_policy_means_every_spelling_of_a_path(gate: Gate, level: str, kept_out: list[str]) -> None:
    mesh = mesh_config(f"pathNormalization: {{normalization: {level}}}") if level else ""
    gate.use(mesh + deny(operation("paths: [/admin]")))
    spelt = [path for path in SPELT if path != "\\admin"]  # no path, so refused before anybody asks
    expected = {path: OUT if path in kept_out else IN for path in spelt}
    assert {path: gate.ask(path).status for path in spelt} == expected
    assert gate.ask("\\admin").status == 400


PARAMETERS = ["/admin;x", "/a;b/c;d", "/a;b/pre/x", "/x;y/suf;z", "/t;u/v;w/x"]


def test_what_keeps_out_looks_past_parameters_of_paths(gate: Gate) -> None:
    fields = 'paths: ["/admin", "/a/c", "/a/pre*", "*/suf", "/t/{*}/x"]'
    gate.use(deny(operation(fields)))
    assert {path: gate.ask(path).status for path in PARAMETERS} == dict.fromkeys(PARAMETERS, OUT)
    assert answers(gate, {"path": "/adminx;"}, {"path": "/a/b;c"}, {"path": "/t/x"}) == [IN, IN, IN]
    gate.use(allow(operation(fields)))
    assert {path: gate.ask(path).status for path in PARAMETERS} == dict.fromkeys(PARAMETERS, OUT)


def test_where_no_policy_looks_at_paths_they_reach_the_application_as_in_istio(gate: Gate) -> None:
    gate.use(allow(operation("methods: [GET]")))
    gate.ask("/a//b%2Fc/../d")
    assert gate.seen[-1]["path"] == "/a//d"
    gate.use(allow(operation('paths: ["*"]')))
    gate.ask("/a//b%2Fc/../d")
    assert gate.seen[-1]["path"] == "/a/b/d"


def test_a_path_with_a_fragment_is_refused(gate: Gate) -> None:
    gate.use(deny(operation("paths: [/admin]")))
    assert gate.ask("/admin#x").status == 400


def test_headers_that_servers_read_as_another_are_refused_where_a_policy_looks_at_headers(gate: Gate) -> None:
    gate.use(allow("{}"))
    sly = {"headers": [("x_role", "admin")]}
    assert answers(gate, sly) == [IN]
    gate.use(deny(when("request.headers[x-role]", "values: [admin]")))
    assert answers(gate, sly, {}) == [400, IN]
    gate.use(deny(when("request.headers[x_role]", "values: [admin]")))
    assert answers(gate, sly, {}) == [OUT, IN]
