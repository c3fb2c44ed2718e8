"""What the evaluator of policies decides, row by row of the specification."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lateen.api.decode import decode_documents
from lateen.authz import (
    Connection,
    Decision,
    HttpRequest,
    Normalisation,
    Policy,
    Request,
    Target,
    attached,
    decide,
    policy_of,
)
from lateen.authz.identity import namespace_matches
from lateen.authz.texts import glob_matches, host_matches, template_matches, text_matches

WEB = "spiffe://cluster.local/ns/default/sa/web"


def policies(text: str) -> tuple[Policy, ...]:
    """Decode documents of `{name, spec}` (and what else metadata has), as a file has them."""
    documents = []
    for number, document in enumerate(yaml.safe_load_all(text)):
        metadata = {"name": f"p{number}", "namespace": "default", **document.pop("metadata", {})}
        document = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "spec": document}
        documents.append({**document, "metadata": metadata})
    decoded = decode_documents(yaml.safe_dump_all(documents).encode(), "policies.yaml")
    assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
    return tuple(map(policy_of, decoded.objects))


def http(path: str = "/", *, peer: str | None = WEB, **fields: Any) -> Request:
    connection = {name: fields.pop(name) for name in tuple(fields) if name in Connection.__slots__}
    return Request(
        connection=make_connection(peer=peer, **connection),
        http=HttpRequest(**{"authority": "api", "path": path, **fields}),
    )


def tcp(**fields: Any) -> Request:
    return Request(connection=make_connection(**fields))


def make_connection(**fields: Any) -> Connection:
    plain = {"source_ip": "10.77.0.9", "destination_ip": "10.77.0.10", "destination_port": 9080}
    return Connection(**{**plain, **fields})


def one(rule: str, request: Request, *, action: str = "DENY", **more: Any) -> bool:
    """Return whether a policy of one rule matches."""
    return decide(policies(f"{{action: {action}, rules: [{rule}]}}"), request, **more).match is not None


# ---------------------------------------------------------------- who wins


@pytest.mark.parametrize(
    ("written", "allowed", "action"),
    [
        pytest.param("", True, "", id="no policy"),
        pytest.param("{}", False, "ALLOW", id="allow without rules"),
        pytest.param("rules: [{}]", True, "ALLOW", id="allow everything"),
        pytest.param("{action: DENY, rules: [{}]}", False, "DENY", id="deny everything"),
        pytest.param("rules: [{}]\n---\n{action: DENY, rules: [{}]}", False, "DENY", id="deny beats allow"),
        pytest.param("{action: AUDIT, rules: [{}]}", True, "", id="audit decides nothing"),
        pytest.param(
            "{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}", True, "", id="deny of something else"
        ),
        pytest.param("{rules: [{to: [{operation: {methods: [POST]}}]}]}", False, "ALLOW", id="allow of something else"),
        pytest.param(
            "{rules: [{to: [{operation: {methods: [POST]}}]}]}\n---\nrules: [{}]",
            True,
            "ALLOW",
            id="one allow is enough",
        ),
        pytest.param(
            "{metadata: {annotations: {istio.io/dry-run: 'true'}}, action: DENY, rules: [{}]}", True, "", id="dry run"
        ),
        pytest.param("{metadata: {annotations: {istio.io/dry-run: 'true'}}}", True, "", id="only a dry allow"),
        pytest.param("{action: CUSTOM, provider: {name: opa}, rules: [{}]}", True, "", id="asks"),
    ],
)
def test_who_wins(written: str, allowed: bool, action: str) -> None:
    found = decide(policies(written) if written else (), http())
    assert (found.allowed, found.action, found.status) == (allowed, action, 200 if allowed else 403)


def test_a_decision_says_which_rule_where_and_why() -> None:
    written = policies("{rules: [{to: [{operation: {methods: [POST]}}]}, {to: [{operation: {paths: [/a/*]}}]}]}")
    found = decide(written, http("/x/../a//b?c"))
    assert (found.policy, found.rule) == (written[0], 1)
    assert f"policies.yaml:{written[0].lines['spec.rules[1]']}" in found.why
    assert found.normalised == ('path "/x/../a//b" as "/a/b"',)
    refused = decide(written, http("/b"))
    assert refused.match is None
    assert "default/p0, rule 0: method is GET, wanted POST" in refused.why
    assert "default/p0, rule 1: path is /b, wanted /a/*" in refused.why


def test_custom_comes_before_tokens_and_asks_every_provider() -> None:
    asking = policies(
        "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/a*]}}]}]}\n---\nrules: [{}]"
    )
    assert decide(asking, http("/a")).asks == ("opa",)
    assert decide(asking, http("/b")).asks == ()
    assert decide(asking, http("/a"), providers={}).action == "CUSTOM"
    assert decide(asking, http("/a", token="invalid")).status == 401
    assert decide(asking, http("/a", token="invalid"), providers={}).status == 403
    second = policies("{metadata: {name: x}, action: CUSTOM, provider: {name: other}, rules: [{}]}")
    assert decide((*asking, *second), http("/b")).asks == ("other",)
    assert decide((*second, *asking), http("/a")).asks == ("opa", "other")
    assert decide((*second, *asking), http("/a"), providers={"opa": "grpc"}).status == 403
    assert decide(asking, tcp(), providers={"opa": "http"}) == Decision(
        allowed=True, status=200, action="ALLOW", match=decide(asking, tcp()).match, why=decide(asking, tcp()).why
    )
    assert decide(asking, tcp(), providers={"opa": "grpc"}).asks == ("opa",)


def test_what_is_audited_and_tried_out_is_told() -> None:
    found = decide(
        policies(
            "{action: AUDIT, rules: [{}]}\n---\n"
            "{metadata: {annotations: {istio.io/dry-run: 'true'}}, action: DENY, rules: [{}]}\n---\n"
            "{metadata: {annotations: {istio.io/dry-run: 'true'}}, rules: []}"
        ),
        http(),
    )
    assert found.allowed
    assert [str(match.policy) for match in found.audited] == ["default/p0"]
    denied, allowed = found.dry_run["DENY"], found.dry_run["ALLOW"]
    assert denied is not None
    assert str(denied.policy) == "default/p1"
    assert allowed is None


# ---------------------------------------------------------------- attributes

SOURCE = [
    ("principals: [cluster.local/ns/default/sa/web]", True),
    ("principals: [cluster.local/ns/default/sa/we]", False),
    ("principals: [cluster.local/ns/default/*]", True),
    ("principals: ['*/sa/web']", True),
    ("principals: ['*']", True),
    ("principals: ['cluster*web']", False),
    ("principals: [cluster-local/ns/default/sa/web]", False),
    ("notPrincipals: ['*']", False),
    ("notPrincipals: [cluster.local/ns/other/sa/web]", True),
    ("principals: ['*'], notPrincipals: ['*/sa/web']", False),
    ("namespaces: [default]", True),
    ("namespaces: [def*]", True),
    ("namespaces: ['*e*a*t']", True),
    ("namespaces: [defaul]", False),
    ("notNamespaces: [default]", False),
    ("serviceAccounts: [web]", True),
    ("serviceAccounts: [default/web]", True),
    ("serviceAccounts: [other/web]", False),
    ("serviceAccounts: [we]", False),
    ("notServiceAccounts: [web]", False),
    ("trustDomains: [cluster.local]", True),
    ("trustDomains: ['*.local']", True),
    ("trustDomains: ['cluster*']", True),
    ("trustDomains: ['*']", True),
    ("trustDomains: [cluster]", False),
    ("ipBlocks: [10.77.0.0/24]", True),
    ("ipBlocks: [10.77.0.9]", True),
    ("ipBlocks: ['2001:db8::/32']", False),
    ("notIpBlocks: [10.77.0.0/24]", False),
    ("remoteIpBlocks: [192.0.2.7]", True),
    ("remoteIpBlocks: [10.77.0.9]", False),
]
PLAIN = [  # without an identity only what is negated holds
    (text, text.startswith("not")) for text, _ in SOURCE if "ipBlocks" not in text and "IpBlocks" not in text
]


@pytest.mark.parametrize(("source", "matches"), SOURCE)
def test_sources(source: str, matches: bool) -> None:
    assert one(f"{{from: [{{source: {{{source}}}}}]}}", http(remote_ip="192.0.2.7")) is matches


@pytest.mark.parametrize(("source", "matches"), PLAIN)
def test_sources_of_a_peer_without_an_identity(source: str, matches: bool) -> None:
    assert one(f"{{from: [{{source: {{{source}}}}}]}}", http(peer=None)) is matches
    assert one(f"{{from: [{{source: {{{source}}}}}]}}", tcp()) is matches


@pytest.mark.parametrize(
    ("operation", "matches"),
    [
        ("hosts: [api.example.com]", True),
        ("hosts: [API.example.com]", True),
        ("hosts: ['*.com']", True),
        ("hosts: [api*]", True),
        ("hosts: [example.com]", False),
        ("ports: ['9080']", True),
        ("ports: ['80']", False),
        ("methods: [GET]", True),
        ("methods: [get]", False),
        ("methods: ['G*']", True),
        ("notMethods: [GET]", False),
        ("paths: [/a/b]", True),
        ("paths: [/a]", False),
        ("paths: ['/a*']", True),
        ("paths: ['*b']", True),
        ("paths: ['*']", True),
        ("paths: ['/a/{*}']", True),
        ("paths: ['/{**}']", True),
        ("paths: ['/{*}']", False),
        ("paths: ['/a*'], notPaths: ['*/b']", False),
    ],
)
def test_operations(operation: str, matches: bool) -> None:
    assert one(f"{{to: [{{operation: {{{operation}}}}}]}}", http("/a/b?c", authority="Api.example.com")) is matches


CLAIMS = {"iss": "https://login.test/eu", "sub": "ann", "aud": ["shop", "ads"], "azp": "app", "scope": "read write"}
CLAIMS |= {"org": {"team": ["a", 7], "level": 3}, "words": "x y"}


@pytest.mark.parametrize(
    ("key", "values", "matches"),
    [
        ("request.headers[X-Role]", "[user]", True),
        ("request.headers[x-role]", "[admin]", True),
        ("request.headers[x-role]", "['user,admin']", False),
        ("request.headers[x-none]", "['*']", False),
        ("source.ip", "[10.77.0.9]", True),
        ("destination.ip", "[10.77.0.8/29]", True),
        ("destination.port", "['9080']", True),
        ("connection.sni", "['*.test']", True),
        ("source.principal", "['*/sa/web']", True),
        ("source.namespace", "['*']", True),
        ("source.serviceAccount", "[web]", True),
        ("source.trustDomain", "['*']", True),
        ("request.auth.principal", "['https://login.test/eu/ann']", True),
        ("request.auth.principal", "['https://login.test/eu/*']", True),
        ("request.auth.principal", "['*/ann']", True),
        ("request.auth.principal", "['*.test/eu/ann']", True),
        ("request.auth.principal", "['https://login.test/eu/a*']", True),
        ("request.auth.principal", "['https:*']", True),
        ("request.auth.principal", "['*nn']", True),
        ("request.auth.principal", "['*']", True),
        ("request.auth.principal", "['https://login.test/ann']", False),
        ("request.auth.audiences", "[ads]", True),
        ("request.auth.presenter", "[app]", True),
        ("request.auth.claims[scope]", "[write]", True),
        ("request.auth.claims[words]", "[x]", False),
        ("request.auth.claims[org][team]", "[a]", True),
        ("request.auth.claims[org][team]", "['7']", False),
        ("request.auth.claims[org][level]", "['3']", False),
        ("request.auth.claims[org]", "['*']", False),
        ("experimental.envoy.filters.network.x[db]", "['a*']", True),
        ("experimental.envoy.filters.network.x[tables]", "['[b]']", True),
    ],
)
def test_conditions(key: str, values: str, matches: bool) -> None:
    request = http(
        headers=(("x-role", "user"), ("X-ROLE", "admin"), ("x-empty", "")),
        token="valid",
        claims=CLAIMS,
        sni="api.test",
    )
    request = Request(
        connection=request.connection,
        http=request.http,
        metadata={"envoy.filters.network.x": {"db": "abc", "tables": ["a", "b"]}},
    )
    assert one(f"{{when: [{{key: '{key}', values: {values}}}]}}", request) is matches
    assert one(f"{{when: [{{key: '{key}', notValues: {values}}}]}}", request) is not matches


def test_sources_operations_and_conditions_must_all_hold() -> None:
    rule = (
        "{from: [{source: {namespaces: [other]}}, {source: {namespaces: [default]}}],"
        " to: [{operation: {paths: [/a]}}, {operation: {paths: [/b], methods: [GET]}}],"
        " when: [{key: source.ip, values: [10.77.0.9]}, {key: 'request.headers[x]', notValues: ['*']}]}"
    )
    assert one(rule, http("/b"))
    assert not one(rule, http("/b", method="POST"))
    assert not one(rule, http("/b", peer=None))
    assert not one(rule, http("/b", headers=(("x", "1"),)))
    assert not one(rule, http("/b", source_ip="10.77.0.8"))


def test_aliases_of_the_trust_domain_are_one_domain() -> None:
    domains = ("mesh.test", "old.test")
    for peer, matches in (("mesh.test", True), ("old.test", True), ("strange.test", False)):
        request = http(peer=f"spiffe://{peer}/ns/default/sa/web")
        for named in ("mesh.test", "old.test", "cluster.local", "*.test"):
            rule = f"{{from: [{{source: {{principals: ['{named}/ns/default/sa/web']}}}}]}}"
            named_too = matches or named == "*.test"  # which is not only the mesh's
            assert one(rule, request, trust_domains=domains) is named_too, (named, peer)
        rule = "{from: [{source: {trustDomains: [old.test]}}]}"
        assert one(rule, request, trust_domains=domains) is matches


@pytest.mark.parametrize("pattern", ["/", "x/", "/x", "x"])
def test_a_request_principal_has_two_halves(pattern: str) -> None:
    request = http(token="valid", claims={"iss": "", "sub": ""})
    assert not one(f"{{from: [{{source: {{requestPrincipals: ['{pattern}']}}}}]}}", request)


# ---------------------------------------------------------------- TCP


def test_on_tcp_an_allow_rule_that_needs_http_never_matches() -> None:
    rule = "{from: [{source: {namespaces: [default]}}, {source: {requestPrincipals: ['*']}}]}"
    assert not one(rule, tcp(peer=WEB), action="ALLOW")
    assert one("{from: [{source: {namespaces: [default]}}]}", tcp(peer=WEB), action="ALLOW")
    assert "HTTP" in decide(policies(f"rules: [{rule}]"), tcp(peer=WEB)).why


@pytest.mark.parametrize("action", ["DENY", "AUDIT"])
def test_on_tcp_other_rules_go_without_what_needs_http(action: str) -> None:
    rule = "{to: [{operation: {paths: [/a], ports: ['9080']}}], when: [{key: 'request.headers[x]', values: [y]}]}"
    found = decide(policies(f"{{action: {action}, rules: [{rule}]}}"), tcp())
    assert (found.match or next(iter(found.audited))).rule == 0
    assert decide(policies(f"{{action: {action}, rules: [{rule}]}}"), tcp(destination_port=1)).audited == ()
    assert decide(policies(f"{{action: {action}, rules: [{rule}]}}"), tcp(destination_port=1)).allowed


# ---------------------------------------------------------------- texts and paths


def test_what_stars_mean() -> None:
    assert text_matches("*a*", "xa*")  # only the first one means something
    assert not text_matches("*a*", "xab")
    assert not text_matches("*", "")
    assert glob_matches("a*", "a")
    assert not glob_matches("a*a", "a")
    assert glob_matches("*ab*ab", "abab")
    assert not glob_matches("*ab*ab", "ab")


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/foo/{**}/", "/foo/a/", True),
        ("/foo/{**}/", "/foo//", True),
        ("/foo/{**}/", "/foo/a", False),
        ("/foo/{**}", "/foo/", True),
        ("/foo/{**}", "/foo", False),
        ("/foo/{**}", "/foo/a/b", True),
        ("/{*}/b", "//b", False),
        ("/{*}/{**}/c", "/a/b/b/c", True),
        ("/{*}", "/a/", False),
    ],
)
def test_templates(template: str, path: str, matches: bool) -> None:
    assert template_matches(template, path) is matches


@pytest.mark.parametrize(
    ("raw", "base", "merged", "decoded"),
    [
        ("/a", "/a", "/a", "/a"),
        ("/a?b/../c", "/a", "/a", "/a"),
        ("/a/./b/../c", "/a/c", "/a/c", "/a/c"),
        ("/a/..", "/", "/", "/"),
        ("/a/.", "/a/", "/a/", "/a/"),
        ("/../../a", "/a", "/a", "/a"),
        ("/%61/%2e%2E/b", "/b", "/b", "/b"),
        ("/a\\b", "/a/b", "/a/b", "/a/b"),
        ("/a//b", "/a//b", "/a/b", "/a/b"),
        ("/a//../b", "/a/b", "/a/b", "/a/b"),
        ("///", "///", "/", "/"),
        ("/%2f", "/%2f", "/%2f", "/"),
        ("/a/..;x=y/b", "/b", "/b", "/b"),
        ('/a"<>^`{|}', "/a%22%3C%3E%5E%60%7B%7C%7D", "/a%22%3C%3E%5E%60%7B%7C%7D", "/a%22%3C%3E%5E%60%7B%7C%7D"),
        ("http://user@elsewhere/a/../b", "/b", "/b", "/b"),
        ("/a%2fb", "/a%2fb", "/a%2fb", "/a/b"),
        ("/a%5C..%2Fb", "/a%5C..%2Fb", "/a%5C..%2Fb", "/b"),
        ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
        ("/a;b/%zz%", "/a;b/%zz%", "/a;b/%zz%", "/a;b/%zz%"),
        ("/A", "/A", "/A", "/A"),
    ],
)
def test_paths_are_compared_in_one_spelling(raw: str, base: str, merged: str, decoded: str) -> None:
    for level, path in (("BASE", base), ("MERGE_SLASHES", merged), ("DECODE_AND_MERGE_SLASHES", decoded)):
        rule = f"{{to: [{{operation: {{paths: ['{path}']}}}}]}}"
        assert one(rule, http(raw), normalisation=Normalisation(level=level)), level  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/a/%2e%2e;/b", "/;/b", "/a/.%2e;x/b", "/;"])
def test_what_servers_read_in_two_ways_is_refused_where_paths_matter(path: str) -> None:
    assert decide(policies("{rules: [{to: [{operation: {paths: ['/*']}}]}]}"), http(path)).status == 403
    assert decide(policies("rules: [{}]"), http(path)).status == 200


def test_a_target_in_absolute_form_names_its_host() -> None:
    rule = "{to: [{operation: {hosts: ['elsewhere:80']}}]}"
    found = decide(policies(f"{{action: DENY, rules: [{rule}]}}"), http("http://Elsewhere:80/a"))
    assert found.action == "DENY"
    assert found.normalised == ('path "http://Elsewhere:80/a" as "/a"', 'host "api" as "Elsewhere:80"')


def test_without_normalisation_a_path_is_compared_as_it_came() -> None:
    rule = "{to: [{operation: {paths: ['/a/../%61']}}]}"
    assert one(rule, http("/a/../%61?b"), normalisation=Normalisation(level="NONE"))


@pytest.mark.parametrize(
    "path", ["/a#b", "a", "", "*", "ftp://x/", "http:///x", "/a b", "/\x7f", "/a%00", "/\xfc", "/?\n"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    assert decide((), http(path)).status == 400


# ---------------------------------------------------------------- attachment


def test_which_policies_apply() -> None:
    written = policies(
        "{metadata: {name: root, namespace: istio-system}, rules: [{}]}\n---\n"
        "{metadata: {name: new, creationTimestamp: '2026-02-01T00:00:00Z'}, rules: [{}]}\n---\n"
        "{metadata: {name: old, creationTimestamp: '2026-01-01T00:00:00Z'}, rules: [{}]}\n---\n"
        "{metadata: {name: mine}, selector: {matchLabels: {app: web}}, rules: [{}]}\n---\n"
        "{metadata: {name: yours}, selector: {matchLabels: {app: api}}, rules: [{}]}\n---\n"
        "{metadata: {name: far, namespace: other}, rules: [{}]}\n---\n"
        "{metadata: {name: gate}, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}],"
        " rules: [{}]}"
    )
    names = [str(policy) for policy in attached(written, Target(namespace="default", labels={"app": "web"}))]
    assert names == ["istio-system/root", "default/mine", "default/old", "default/new"]
    gateway = Target(namespace="default", labels={"gateway.networking.k8s.io/gateway-name": "g"})
    assert "default/gate" in [str(policy) for policy in attached(written, gateway)]
    elsewhere = Target(namespace="other", labels=gateway.labels)
    assert [str(policy) for policy in attached(written, elsewhere)] == ["istio-system/root", "other/far"]


@pytest.mark.parametrize(
    ("pattern", "line", "lets_in", "keeps_out"),
    [
        ("admin", "admin", True, True),
        ("admin", "user, admin ,x", False, True),
        ("admin", "administrator", False, False),
        ("ad*", "user,admin", False, True),
        ("*min", "admin , user", False, True),
        ("a, b", "x,a, b", False, True),
        ("*", "", False, True),
    ],
)
def test_what_keeps_out_looks_into_lists(pattern: str, line: str, lets_in: bool, keeps_out: bool) -> None:
    request = http(headers=(("x", line),))
    rule = f"{{when: [{{key: 'request.headers[x]', values: ['{pattern}']}}]}}"
    assert (one(rule, request, action="ALLOW"), one(rule, request)) == (lets_in, keeps_out)
    negated = f"{{when: [{{key: 'request.headers[x]', notValues: ['{pattern}']}}]}}"
    assert (one(negated, request, action="ALLOW"), one(negated, request)) == (not keeps_out, not lets_in)


@pytest.mark.parametrize(
    ("pattern", "authority", "matches"),
    [
        ("a.com", "A.com.:8080", True),
        ("a.com", "a.com:", True),
        ("a.com", "a.com.evil", False),
        ("a.com:80", "a.com.:80", True),
        ("a.com:80", "a.com", False),
        ("a.com:80", "a.com:8080", False),
        ("*.a.com", "x.a.com:1", True),
        ("*:80", "any:80", True),
        ("a.*", "a.com:80", True),
        ("a.*:80", "a.com:80", False),  # a `*` that is not at an end is a `*`
        ("*", "", False),
    ],
)
def test_a_host_is_one_host_however_it_is_written(pattern: str, authority: str, matches: bool) -> None:
    assert host_matches(pattern, authority) is matches


@pytest.mark.parametrize("authority", ["a,bad.com", "bad.com:80,a", "user@bad.com", "a, BAD.com.:8"])
def test_a_host_that_is_kept_out_is_kept_out_beside_others(authority: str) -> None:
    for pattern in ("bad.com", "*.com", "bad*"):
        rule = f"{{to: [{{operation: {{hosts: ['{pattern}']}}}}]}}"
        assert one(rule, http(authority=authority))
    rule = "{to: [{operation: {hosts: [bad.com]}}]}"
    assert not one(rule, http(authority=authority), action="ALLOW")


def test_a_glob_of_namespaces_ends_at_the_slash() -> None:
    assert namespace_matches("a*", "spiffe://d/ns/abc/sa/x")
    assert not namespace_matches("a*sa", "spiffe://d/ns/abc/sa/x")
    assert not namespace_matches("*c", "spiffe://d/ns/ab/sa/c")


@pytest.mark.parametrize(
    ("pattern", "path", "lets_in", "keeps_out"),
    [
        ("/admin", "/admin;x=1", False, True),
        ("/admin", "/adminx;", False, False),
        ("/a/b", "/a;x/b;y;z", False, True),
        ("/a/b*", "/a;x/bc/d", False, True),
        ("/a/b*", "/a;x/c", False, False),
        ("*/b", "/x;y/b;z", False, True),
        ("*.js", "/a.js;v=1", False, True),
        ("*.js", "/a.js;v/b", False, False),
        ("/{*}/b", "/x;y/b;z", False, True),
        ("/a/{**}", "/a;x/y", False, True),
    ],
)
def test_what_keeps_out_looks_past_parameters_of_paths(pattern: str, path: str, lets_in: bool, keeps_out: bool) -> None:
    rule = f"{{to: [{{operation: {{paths: ['{pattern}']}}}}]}}"
    assert (one(rule, http(path), action="ALLOW"), one(rule, http(path))) == (lets_in, keeps_out)
    negated = f"{{to: [{{operation: {{notPaths: ['{pattern}']}}}}]}}"
    assert (one(negated, http(path), action="ALLOW"), one(negated, http(path))) == (not keeps_out, not lets_in)


FAR = "spiffe://far.example/ns/default/sa/web"


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        pytest.param("{from: [{source: {namespaces: [default]}}]}", False, id="a namespace is the mesh's"),
        pytest.param("{from: [{source: {serviceAccounts: [web]}}]}", False, id="an account is the mesh's"),
        pytest.param("{when: [{key: source.namespace, values: [default]}]}", False, id="as a condition"),
        pytest.param(
            "{from: [{source: {trustDomains: [far.example], namespaces: [default]}}]}", True, id="told in the source"
        ),
        pytest.param(
            "{when: [{key: source.trustDomain, values: ['*']}, {key: source.namespace, values: [default]}]}",
            True,
            id="told in a condition",
        ),
        pytest.param(
            "{from: [{source: {trustDomains: [far.example]}}], when: [{key: source.namespace, values: [default]}]}",
            True,
            id="a condition beside a source that tells",
        ),
        pytest.param(
            "{from: [{source: {trustDomains: [far.example]}}, {source: {notNamespaces: [x]}}],"
            " when: [{key: source.namespace, values: [default]}]}",
            False,
            id="a condition beside a source that does not",
        ),
        pytest.param(
            "{from: [{source: {principals: ['*']}}], when: [{key: source.namespace, values: [default]}]}",
            False,
            id="anybody is nobody's domain",
        ),
        pytest.param(
            "{from: [{source: {principals: [far.example/ns/default/sa/*]}}],"
            " when: [{key: source.serviceAccount, values: [web]}]}",
            True,
            id="a principal tells",
        ),
        pytest.param("{from: [{source: {notNamespaces: [other]}}]}", True, id="what is not named is anybody"),
    ],
)
def test_namespaces_grant_at_home_only(rule: str, wanted: bool) -> None:
    """What another trust domain calls its namespace must not pass for one of ours; what keeps out means all."""
    assert one(rule, http(peer=FAR), action="ALLOW") is wanted
    assert one(rule, tcp(peer=FAR), action="ALLOW") is wanted


@pytest.mark.parametrize("named", ["namespaces: [default]", "serviceAccounts: [web]"])
def test_namespaces_keep_out_whoever_bears_them(named: str) -> None:
    rule = f"{{from: [{{source: {{{named}}}}}]}}"
    assert one(rule, http(peer=FAR))
    assert one(rule, tcp(peer=FAR))
    alias = http(peer="spiffe://old.example/ns/default/sa/web")
    assert one(rule, alias, action="ALLOW", trust_domains=("new.example", "old.example"))
