"""AuthorizationPolicy, PeerAuthentication, RequestAuthentication: what is read, what is refused, and where."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.fakes.judging import faults, judge, read_spec, refusal

from lateen.api.security import ClaimToHeader, Condition, JWTHeader, MutualTLS

AUTHORIZATION = """
selector: {matchLabels: {app: ledger}}
action: ALLOW
rules:
- from:
  - source:
      principals: ["cluster.local/ns/web/sa/portal"]
      notNamespaces: ["sandbox-*"]
  - source:
      serviceAccounts: ["batch", "ops/auditor"]
      ipBlocks: ["10.20.0.0/16"]
  - source:
      requestPrincipals: ["https://login.example.org/*"]
      remoteIpBlocks: ["203.0.113.0/24"]
      trustDomains: ["*.partner"]
  to:
  - operation:
      hosts: ["ledger.finance.svc.cluster.local:*"]
      methods: ["GET", "HEAD"]
      paths: ["/v1/books/{*}/entries/{**}", "/healthz"]
      notPaths: ["/v1/books/secret*"]
      ports: ["8080"]
  when:
  - key: request.auth.claims[groups]
    values: ["accountants"]
  - key: request.headers[x-debug]
    notValues: ["*"]
"""


def test_an_authorization_policy_is_read_whole() -> None:
    assert judge("AuthorizationPolicy", AUTHORIZATION) == []
    policy = read_spec("AuthorizationPolicy", AUTHORIZATION)
    (rule,) = policy.rules
    assert policy.selector.match_labels == {"app": "ledger"}
    assert policy.provider is None
    assert [entry.source.service_accounts for entry in rule.from_] == [(), ("batch", "ops/auditor"), ()]
    assert rule.to[0].operation.paths == ("/v1/books/{*}/entries/{**}", "/healthz")
    assert rule.when[1] == Condition(key="request.headers[x-debug]", not_values=("*",))


def test_no_rules_and_an_empty_rule_differ() -> None:
    assert read_spec("AuthorizationPolicy", "{}").rules == ()
    assert len(read_spec("AuthorizationPolicy", "rules: [{}]").rules) == 1
    assert judge("AuthorizationPolicy", "{}") == []


def rule(text: str, action: str = "ALLOW") -> str:
    return f"action: {action}\nrules: [{text}]"


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("action: CUSTOM\nprovider: {name: opa}", "spec.rules", "CUSTOM needs rules", id="AP-01"),
        pytest.param("action: CUSTOM\nrules: [{}]", "spec.provider.name", "provider's name", id="AP-02"),
        pytest.param(
            "action: CUSTOM\nprovider: {name: opa}\nrules: [{from: [{source: {notPrincipals: [a]}}]}]",
            "spec.rules[0].from[0].source.notPrincipals",
            "CUSTOM",
            id="AP-03",
        ),
        pytest.param(
            "action: CUSTOM\nprovider: {name: opa}\nrules: [{when: [{key: request.auth.principal, values: [a]}]}]",
            "spec.rules[0].when[0].key",
            "CUSTOM",
            id="AP-04",
        ),
        pytest.param("provider: {name: opa}\nrules: [{}]", "spec.provider", "only action CUSTOM", id="AP-05"),
        pytest.param("action: DENY", "spec.rules", "DENY needs rules", id="AP-06"),
        pytest.param(rule("{from: []}"), "spec.rules[0].from", "empty list", id="AP-08-from"),
        pytest.param(rule("{to: []}"), "spec.rules[0].to", "empty list", id="AP-08-to"),
        pytest.param(rule("{from: [{}]}"), "spec.rules[0].from[0].source", "required", id="AP-09"),
        pytest.param(rule("{from: [{source: {}}]}"), "spec.rules[0].from[0].source", "at least one", id="AP-10"),
        pytest.param(
            rule("{from: [{source: {serviceAccounts: [a], notNamespaces: [b]}}]}"),
            "spec.rules[0].from[0].source.notNamespaces",
            "combined",
            id="AP-11",
        ),
        pytest.param(
            rule("{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}"),
            "spec.rules[0].from[0].source.ipBlocks[0]",
            "10.0.0.0/33",
            id="AP-12-cidr",
        ),
        pytest.param(
            rule("{from: [{source: {notRemoteIpBlocks: [10.0.0.0/8, host]}}]}"),
            "spec.rules[0].from[0].source.notRemoteIpBlocks[1]",
            "host",
            id="AP-12-ip",
        ),
        pytest.param(
            rule("{from: [{source: {principals: [a, '']}}]}"),
            "spec.rules[0].from[0].source.principals[1]",
            "empty",
            id="AP-13",
        ),
        pytest.param(
            rule("{from: [{source: {serviceAccounts: [" + ",".join(f"a{i}" for i in range(17)) + "]}}]}"),
            "spec.rules[0].from[0].source.serviceAccounts",
            "at most 16",
            id="AP-14-many",
        ),
        pytest.param(
            rule("{from: [{source: {serviceAccounts: [" + "a" * 321 + "]}}]}"),
            "spec.rules[0].from[0].source.serviceAccounts[0]",
            "320",
            id="AP-14-long",
        ),
        pytest.param(
            rule("{from: [{source: {serviceAccounts: ['a/*']}}]}"),
            "spec.rules[0].from[0].source.serviceAccounts[0]",
            "exactly",
            id="AP-15-star",
        ),
        pytest.param(
            rule("{from: [{source: {notServiceAccounts: ['a/b/c']}}]}"),
            "spec.rules[0].from[0].source.notServiceAccounts[0]",
            "a/b/c",
            id="AP-15-parts",
        ),
        pytest.param(
            rule("{from: [{source: {trustDomains: ['a*b']}}]}"),
            "spec.rules[0].from[0].source.trustDomains[0]",
            "a*b",
            id="AP-16-middle",
        ),
        pytest.param(
            rule("{from: [{source: {trustDomains: ['a/b']}}]}"),
            "spec.rules[0].from[0].source.trustDomains[0]",
            "no /",
            id="AP-16-slash",
        ),
        pytest.param(rule("{to: [{}]}"), "spec.rules[0].to[0].operation", "required", id="AP-17"),
        pytest.param(rule("{to: [{operation: {}}]}"), "spec.rules[0].to[0].operation", "at least one", id="AP-18"),
        pytest.param(
            rule("{to: [{operation: {ports: ['65536']}}]}"),
            "spec.rules[0].to[0].operation.ports[0]",
            "65536",
            id="AP-19",
        ),
        pytest.param(
            rule("{to: [{operation: {methods: ['']}}]}"),
            "spec.rules[0].to[0].operation.methods[0]",
            "empty",
            id="AP-20",
        ),
        pytest.param(
            rule("{to: [{operation: {paths: ['/a/{**}/{*}']}}]}"),
            "spec.rules[0].to[0].operation.paths[0]",
            "follow",
            id="AP-21",
        ),
        pytest.param(
            rule("{to: [{operation: {paths: ['/a/{x}']}}]}"),
            "spec.rules[0].to[0].operation.paths[0]",
            "{x}",
            id="AP-22",
        ),
        pytest.param(
            rule("{to: [{operation: {notPaths: ['/a*/{*}']}}]}"),
            "spec.rules[0].to[0].operation.notPaths[0]",
            "a*",
            id="AP-23",
        ),
        pytest.param(rule("{when: [{key: '', values: [a]}]}"), "spec.rules[0].when[0].key", "empty", id="AP-24"),
        pytest.param(rule("{when: [{key: source.ip}]}"), "spec.rules[0].when[0]", "values or notValues", id="AP-25"),
        pytest.param(
            rule("{when: [{key: connection.sni, notValues: ['']}]}"),
            "spec.rules[0].when[0].notValues[0]",
            "empty",
            id="AP-26",
        ),
        pytest.param(
            rule("{when: [{key: source.ipp, values: [a]}]}"), "spec.rules[0].when[0].key", "source.ip", id="AP-27-hint"
        ),
        pytest.param(
            rule("{when: [{key: 'destination.labels[a]', values: [a]}]}"),
            "spec.rules[0].when[0].key",
            "not an attribute",
            id="AP-27-withdrawn",
        ),
        pytest.param(
            rule("{when: [{key: 'request.headers', values: [a]}]}"),
            "spec.rules[0].when[0].key",
            "request.headers[",
            id="AP-28-bare",
        ),
        pytest.param(
            rule("{when: [{key: 'request.auth.claims[]', values: [a]}]}"),
            "spec.rules[0].when[0].key",
            "request.auth.claims[",
            id="AP-28-empty",
        ),
        pytest.param(
            rule("{when: [{key: destination.port, values: ['http']}]}"),
            "spec.rules[0].when[0].values[0]",
            "http",
            id="AP-29-port",
        ),
        pytest.param(
            rule("{when: [{key: remote.ip, values: ['x']}]}"), "spec.rules[0].when[0].values[0]", "x", id="AP-29-ip"
        ),
        pytest.param(
            rule("{when: [{key: source.trustDomain, values: ['a*b']}]}"),
            "spec.rules[0].when[0].values[0]",
            "a*b",
            id="AP-29-trust-domain",
        ),
        pytest.param(
            "selector: {matchLabels: {a: b}}\ntargetRefs: [{kind: Service, name: x, group: core}]",
            "spec.targetRefs",
            "",
            id="AP-30-both",
        ),
        pytest.param("rules: [" + ",".join(["{}"] * 513) + "]", "spec.rules", "512", id="AP-31"),
    ],
)
def test_an_authorization_policy_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("AuthorizationPolicy", spec, "error")
    assert [f for f, _ in found] == [field]
    assert words in found[0][1]


@pytest.mark.parametrize(
    "when",
    [
        "{key: 'request.headers[x-a]', values: [a]}",
        "{key: 'request.auth.claims[a][b][c]', values: [a]}",
        "{key: 'experimental.envoy.filters.network.mysql_proxy[db.t]', values: ['[select]']}",
        "{key: source.trustDomain, values: ['a/b']}",
        "{key: destination.port, values: ['0', '65535']}",
    ],
)
def test_conditions_that_hold(when: str) -> None:
    assert judge("AuthorizationPolicy", rule(f"{{when: [{when}]}}")) == []


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        pytest.param("{from: [{source: {requestPrincipals: ['*']}}]}", True, id="from-only-http"),
        pytest.param("{from: [{source: {trustDomains: [a]}}]}", True, id="trust-domains-do-not-count"),
        pytest.param("{from: [{source: {notNamespaces: [a]}}]}", False, id="from-tcp"),
        pytest.param("{to: [{operation: {paths: [/a]}}]}", True, id="to-without-ports"),
        pytest.param("{to: [{operation: {paths: [/a], ports: ['80']}}]}", False, id="to-with-ports"),
        pytest.param("{}", False, id="meant"),
    ],
)
def test_a_denial_that_reaches_all_tcp_is_warned_of(text: str, warned: bool) -> None:
    assert faults("AuthorizationPolicy", rule(text, "DENY"), "error") == []
    assert [f for f, _ in faults("AuthorizationPolicy", rule(text, "DENY"), "warning")] == ["spec.rules[0]"] * warned


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        pytest.param("rules: [{}]", "true", "", id="fine"),
        pytest.param("rules: [{}]", "yes", "true or false", id="META-2"),
        pytest.param("action: AUDIT\nrules: [{}]", "true", "ALLOW and DENY", id="META-3"),
    ],
)
def test_dry_run(spec: str, value: str, words: str) -> None:
    found = judge("AuthorizationPolicy", spec, annotations={"istio.io/dry-run": value})
    assert [words in str(problem) for problem in found] == [True] * bool(words)


PEER = """
selector: {matchLabels: {app: gatewayd}}
mtls: {mode: STRICT}
portLevelMtls:
  9090: {mode: PERMISSIVE}
  "9443": {mode: DISABLE}
"""


A_LOT = "a" * 1025


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (f"from: [{{source: {{principals: ['*{A_LOT}']}}}}]", "from[0].source.principals[0]"),
        (f"to: [{{operation: {{notPaths: ['/{'é' * 512}']}}}}]", "to[0].operation.notPaths[0]"),
        (f"when: [{{key: 'request.auth.claims[a]', notValues: [b, {A_LOT}]}}]", "when[0].notValues[1]"),
        ("when: [{key: 'request.headers[no name]', values: [a]}]", "when[0].key"),
    ],
    ids=["source", "bytes, not letters", "condition", "no header"],
)
def test_what_cannot_be_compared_is_warned_of(text: str, field: str) -> None:
    ((place, message),) = faults("AuthorizationPolicy", rule(f"{{{text}}}"), "warning")
    assert place == f"spec.rules[0].{field}"
    assert "counts as a match where that keeps out" in message
    assert len(message) < 300


def test_a_peer_authentication_is_read_whole() -> None:
    assert judge("PeerAuthentication", PEER) == []
    policy = read_spec("PeerAuthentication", PEER)
    assert policy.mtls == MutualTLS(mode="STRICT")
    assert policy.port_level_mtls == {9090: MutualTLS(mode="PERMISSIVE"), 9443: MutualTLS(mode="DISABLE")}
    assert read_spec("PeerAuthentication", "{}").mtls is None


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param("portLevelMtls: {80: {mode: STRICT}}", "spec.portLevelMtls", "selector", id="PA-01"),
        pytest.param(
            "selector: {matchLabels: {a: b}}\nportLevelMtls: {}", "spec.portLevelMtls", "must not be empty", id="PA-02"
        ),
        pytest.param(
            "selector: {matchLabels: {a: b}}\nportLevelMtls: {0: {mode: STRICT}}",
            "spec.portLevelMtls[0]",
            "65535",
            id="PA-03",
        ),
        pytest.param("selector: {matchLabels: {'': b}}", "spec.selector.matchLabels[]", "", id="PA-04"),
    ],
)
def test_a_peer_authentication_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("PeerAuthentication", spec, "error")
    assert [f for f, _ in found] == [field]
    assert words in found[0][1]


JWT = """
selector: {matchLabels: {app: api}}
jwtRules:
- issuer: https://staff.example.org
  audiences: ["shop-api"]
  forwardOriginalToken: true
  outputClaimToHeaders:
  - {header: x-user, claim: sub}
  - {header: x-team, claim: org.team}
  timeout: 2s
- issuer: partner-issuer
  jwksUri: https://keys.partner.example.net/jwks.json
  fromHeaders:
  - {name: x-partner-token, prefix: "Token "}
  fromParams: ["ptok"]
  fromCookies: ["psession"]
  outputPayloadToHeader: x-partner-payload
  spaceDelimitedClaims: ["roles"]
"""


def test_a_request_authentication_is_read_whole() -> None:
    assert judge("RequestAuthentication", JWT) == []
    staff, partner = read_spec("RequestAuthentication", JWT).jwt_rules
    assert staff.timeout == timedelta(seconds=2)
    assert staff.forward_original_token
    assert staff.output_claim_to_headers[1] == ClaimToHeader(header="x-team", claim="org.team")
    assert partner.from_headers == (JWTHeader(name="x-partner-token", prefix="Token "),)
    assert partner.space_delimited_claims == ("roles",)
    assert partner.jwks is None


def test_the_older_spelling_of_jwks_uri() -> None:
    (rule,) = read_spec("RequestAuthentication", "jwtRules: [{jwks_uri: 'https://a/b'}]").jwt_rules
    assert rule.jwks_uri == "https://a/b"


def jwt(text: str) -> str:
    return f"jwtRules: [{{issuer: a, {text}}}]"


KEYS = '{"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}]}'


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param(jwt("audiences: ['']"), "audiences[0]", "empty", id="RA-01"),
        pytest.param("jwtRules: [{audiences: [a]}]", "", "issuer or a jwksUri", id="RA-02"),
        pytest.param("jwtRules: [{issuer: '', jwksUri: 'https://a'}]", "issuer", "empty", id="RA-03"),
        pytest.param(jwt("jwksUri: 'ftp://a/b'"), "jwksUri", "http", id="RA-04-scheme"),
        pytest.param(jwt("jwksUri: 'https://a:99999/b'"), "jwksUri", "http", id="RA-04-port"),
        pytest.param(jwt("jwksUri: ''"), "jwksUri", "http", id="RA-04-empty"),
        pytest.param(jwt("jwksUri: 'https://" + "a" * 2048 + "'"), "jwksUri", "2048", id="RA-04-long"),
        pytest.param(jwt("jwks: '{}'"), "jwks", "keys", id="RA-05"),
        pytest.param(jwt(f"jwks: '{'[' * 100_000}'"), "jwks", "keys", id="RA-05 deep"),
        pytest.param(jwt("fromHeaders: [{name: a b}]"), "fromHeaders[0].name", "a header's name", id="RA-16"),
        pytest.param(jwt('fromHeaders: [{name: a, prefix: "b\\n"}]'), "fromHeaders[0].prefix", "line", id="RA-17"),
        pytest.param(jwt("outputPayloadToHeader: a b"), "outputPayloadToHeader", "a header's name", id="RA-18"),
        pytest.param(jwt("outputPayloadToHeader: Host"), "outputPayloadToHeader", "no claim belongs", id="RA-19"),
        pytest.param(
            jwt("outputClaimToHeaders: [{header: Content-Length, claim: c}]"),
            "outputClaimToHeaders[0].header",
            "cannot be content-length",
            id="RA-19 claim",
        ),
        pytest.param(jwt(f"jwksUri: 'https://a', jwks: '{KEYS}'"), "jwks", "combined", id="RA-06"),
        pytest.param(jwt("fromHeaders: [{name: ''}]"), "fromHeaders[0].name", "empty", id="RA-08"),
        pytest.param(jwt("fromParams: ['']"), "fromParams[0]", "empty", id="RA-09"),
        pytest.param(jwt("fromCookies: [a, '']"), "fromCookies[1]", "empty", id="RA-10"),
        pytest.param(
            jwt("outputClaimToHeaders: [{header: a, claim: ''}]"), "outputClaimToHeaders[0].claim", "empty", id="RA-11"
        ),
        pytest.param(
            jwt("outputClaimToHeaders: [{header: 'a b', claim: c}]"),
            "outputClaimToHeaders[0].header",
            "a b",
            id="RA-12",
        ),
        pytest.param(jwt("timeout: 0.5ms"), "timeout", "ms", id="RA-13"),
        pytest.param(jwt("spaceDelimitedClaims: ['']"), "spaceDelimitedClaims[0]", "empty", id="RA-14-empty"),
        pytest.param(
            jwt("spaceDelimitedClaims: [" + ",".join("a" * 65) + "]"), "spaceDelimitedClaims", "64", id="RA-14-many"
        ),
    ],
)
def test_a_request_authentication_that_cannot_hold(spec: str, field: str, words: str) -> None:
    found = faults("RequestAuthentication", spec, "error")
    assert [f for f, _ in found] == [f"spec.jwtRules[0].{field}".rstrip(".")]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ("outputPayloadToHeader: Authorization", ["outputPayloadToHeader"]),
        ("outputPayloadToHeader: authorization, fromParams: [t]", []),
        ("fromHeaders: [{name: x-token}, {name: X-Istio-Token}]", ["fromHeaders[1].name"]),
        (
            "outputClaimToHeaders: [{header: x-b, claim: c}, {header: X-A, claim: c}], fromHeaders: [{name: x-a}]",
            ["outputClaimToHeaders[1].header"],
        ),
    ],
)
def test_headers_that_tokens_or_claims_cannot_be_in_are_told(fields: str, warned: list[str]) -> None:
    found = [field for field, _ in faults("RequestAuthentication", jwt(fields), "warning")]
    assert found == [f"spec.jwtRules[0].{field}" for field in warned]


def test_private_keys_are_warned_of_and_not_repeated() -> None:
    secret = '{"keys": [{"kty": "EC"}, {"kty": "oct", "k": "c2VjcmV0"}]}'
    ((field, message),) = faults("RequestAuthentication", jwt(f"jwks: '{secret}'"), "warning")
    assert field == "spec.jwtRules[0].jwks"
    assert "key 1" in message
    assert "c2VjcmV0" not in message


@pytest.mark.parametrize(
    ("kind", "spec", "hint"),
    [
        ("AuthorizationPolicy", "rules: [{from: [{source: {principal: [a]}}]}]", "principals"),
        ("PeerAuthentication", "mtls: {mod: STRICT}", "mode"),
        ("RequestAuthentication", "jwtRules: [{isuer: a}]", "issuer"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(kind: str, spec: str, hint: str) -> None:
    assert hint in refusal(kind, spec)


@pytest.mark.parametrize(
    ("kind", "spec", "hint"),
    [
        ("AuthorizationPolicy", "action: ALOW", "ALLOW"),
        ("PeerAuthentication", "mtls: {mode: strict}", "STRICT"),
        ("AuthorizationPolicy", "rules: [null]", "rules[0]"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused(kind: str, spec: str, hint: str) -> None:
    assert hint in refusal(kind, spec)
