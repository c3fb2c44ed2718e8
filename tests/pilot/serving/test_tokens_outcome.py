"""What a workload's real Envoy makes of tokens, given RequestAuthentications as users write them."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.gate import Gate, Reply
from tests.fakes.proxies import ConfigServer
from tests.fakes.tokens import jwks, sign

from lateen.pilot.model.jwks import JwksSource, parse_key_set

pytestmark = pytest.mark.envoy

ISSUER = "https://id.test"
REMOTE = JwksSource("uri", "https://id.test/jwks")


@pytest.fixture(scope="module")
def gate(folder: Path, server: ConfigServer) -> Iterator[Gate]:
    with Gate(folder, server) as gate:
        yield gate


def policy(*rules: dict[str, Any], name: str = "tokens", **more: Any) -> str:
    """Return a RequestAuthentication as YAML (JSON is YAML)."""
    namespace = more.pop("namespace", "default")
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**more, "jwtRules": list(rules)},
    }
    return "\n---\n" + json.dumps(document).replace("$", "$$")


def rule(**fields: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "jwks": jwks("ec", "rsa"), **fields}


def bearer(claims: dict[str, Any] | None = None, key: str = "ec", **more: Any) -> list[tuple[str, str]]:
    return [("authorization", "Bearer " + token(claims, key, **more))]


def token(claims: dict[str, Any] | None = None, key: str = "ec", **more: Any) -> str:
    return sign({"iss": ISSUER, "sub": "alice", **(claims or {})}, key, **more)


def seen(reply: Reply) -> dict[str, str]:
    assert reply.status == 200, (reply.status, reply.body)
    return {name.lower(): value for name, value in reply.json["headers"].items()}


# ---------------------------------------------------------------- which tokens are believed


def test_without_a_token_a_request_passes_and_with_a_bad_one_it_does_not(gate: Gate) -> None:
    gate.use(policy(rule()))
    assert gate.ask().status == 200
    assert gate.ask(headers=bearer()).status == 200
    assert gate.ask(headers=bearer(key="rsa")).status == 200
    for bad in (
        bearer(key="ec-2", kid="ec"),  # signed by somebody else
        bearer(key="ec-2"),  # of a key that is not known
        bearer({"iss": "https://other.test"}),
        bearer(lasts=-3600),
        bearer({"nbf": 4_000_000_000}),
        [("authorization", "Bearer nonsense")],
        [("authorization", f"Bearer {token()[:-6]}AAAAAA")],
    ):
        assert gate.ask(headers=bad).status == 401, bad
    assert gate.ask(headers=[("authorization", "Basic YTpi")]).status == 200  # no token there


def test_tokens_that_say_themselves_that_nobody_signed_them_are_refused(gate: Gate) -> None:
    gate.use(policy(rule()))
    head, payload, _ = token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"ec"}').rstrip(b"=").decode()
    assert gate.ask(headers=[("authorization", f"Bearer {none}.{payload}.")]).status == 401
    assert gate.ask(headers=[("authorization", f"Bearer {head}.{payload}.")]).status == 401


@pytest.mark.parametrize("key", ["rsa", "ec", "p384", "p521", "ed"])
def test_every_kind_of_key_that_is_used_is_one_that_envoy_uses(gate: Gate, key: str) -> None:
    gate.use(policy(rule(jwks=jwks(key))))
    assert gate.ask(headers=bearer(key=key)).status == 200
    assert gate.ask(headers=bearer(key=f"{key}-2", kid=key)).status == 401


def test_an_issuer_that_is_left_out_is_not_checked(gate: Gate) -> None:
    gate.use(policy({"jwksUri": REMOTE.url}))
    gate.take_keys({REMOTE: parse_key_set(jwks("ec").encode()).text})
    assert gate.ask(headers=bearer({"iss": "anybody"})).status == 200
    assert gate.ask(headers=bearer({"iss": "anybody"}, key="ec-2", kid="ec")).status == 401


def test_audiences(gate: Gate) -> None:
    gate.use(policy(rule(audiences=["shop", "bank"])))
    assert gate.ask(headers=bearer({"aud": "bank"})).status == 200
    assert gate.ask(headers=bearer({"aud": ["zoo", "shop"]})).status == 200
    assert gate.ask(headers=bearer({"aud": "zoo"})).status == 403
    assert gate.ask(headers=bearer()).status == 403
    gate.use(policy(rule()))
    assert gate.ask(headers=bearer({"aud": "zoo"})).status == 200


# ---------------------------------------------------------------- where tokens are found


def test_places_that_are_looked_at_unless_others_are_named(gate: Gate) -> None:
    gate.use(policy(rule()))
    assert gate.ask(f"/?access_token={token(key='ec-2')}").status == 401
    assert gate.ask(f"/?access_token={token()}").status == 200
    assert gate.ask(headers=[("x-token", token(key="ec-2"))]).status == 200  # nobody looks there


def test_from_headers(gate: Gate) -> None:
    gate.use(policy(rule(fromHeaders=[{"name": "x-token", "prefix": "Token "}, {"name": "X-Plain"}])))
    good, bad = token(), token(key="ec-2")
    assert gate.ask(headers=[("x-token", f"Token {bad}")]).status == 401
    assert gate.ask(headers=[("x-token", f"Token {good}")]).status == 200
    assert gate.ask(headers=[("x-plain", bad)]).status == 401
    assert gate.ask(headers=[("x-plain", good)]).status == 200
    assert gate.ask(headers=[("x-token", bad)]).status == 200  # without its prefix it is no token
    assert gate.ask(headers=[("authorization", f"Bearer {bad}")]).status == 200  # not looked at any more
    assert gate.ask(f"/?access_token={bad}").status == 200


def test_from_params(gate: Gate) -> None:
    gate.use(policy(rule(fromParams=["ticket"])))
    assert gate.ask(f"/?a=b&ticket={token(key='ec-2')}").status == 401
    assert gate.ask(f"/?a=b&ticket={token()}").status == 200
    assert gate.ask(headers=bearer(key="ec-2")).status == 200


def test_from_cookies(gate: Gate) -> None:
    gate.use(policy(rule(fromCookies=["session"])))
    assert gate.ask(headers=[("cookie", f"a=b; session={token(key='ec-2')}")]).status == 401
    assert gate.ask(headers=[("cookie", f"a=b; session={token()}")]).status == 200
    assert gate.ask(headers=bearer(key="ec-2")).status == 200


# ---------------------------------------------------------------- what becomes of them


def test_the_token_is_taken_off_unless_it_is_to_be_forwarded(gate: Gate) -> None:
    gate.use(policy(rule(fromHeaders=[{"name": "authorization", "prefix": "Bearer "}], fromParams=["t"])))
    assert "authorization" not in seen(gate.ask(headers=bearer()))
    assert gate.ask(f"/p?a=b&t={token()}").json["path"] == "/p?a=b"
    gate.use(policy(rule(forwardOriginalToken=True)))
    sent = bearer()
    assert seen(gate.ask(headers=sent))["authorization"] == sent[0][1]


def test_output_payload_to_header(gate: Gate) -> None:
    gate.use(policy(rule(outputPayloadToHeader="X-Payload")))
    found = seen(gate.ask(headers=bearer({"team": "ops"})))["x-payload"]
    payload = json.loads(base64.urlsafe_b64decode(found + "=" * (-len(found) % 4)))
    assert (payload["iss"], payload["sub"], payload["team"]) == (ISSUER, "alice", "ops")
    assert "=" not in found


CLAIMS = {"sub": "alice", "org": {"team": "ops"}, "age": 7, "admin": False, "groups": ["a", "b"]}
OUTPUTS = [
    {"header": "X-User", "claim": "sub"},
    {"header": "x-team", "claim": "org.team"},
    {"header": "x-age", "claim": "age"},
    {"header": "x-admin", "claim": "admin"},
    {"header": "x_none", "claim": "nothing"},
    {"header": "x-groups", "claim": "groups"},
]


def test_output_claim_to_headers(gate: Gate) -> None:
    gate.use(policy(rule(outputClaimToHeaders=OUTPUTS)))
    found = seen(gate.ask(headers=bearer(CLAIMS)))
    assert {name: found.get(name) for name in ("x-user", "x-team", "x-age", "x-admin", "x_none")} == {
        "x-user": "alice",
        "x-team": "ops",
        "x-age": "7",
        "x-admin": "false",
        "x_none": None,
    }
    assert json.loads(base64.b64decode(found["x-groups"])) == ["a", "b"]


PREFLIGHT = [("origin", "https://a.test"), ("access-control-request-method", "GET")]


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_client_cannot_say_itself_what_a_token_would(gate: Gate, method: str, with_token: bool) -> None:
    """Whether a token is there or not, and for preflights, which the check of tokens passes over."""
    gate.use(policy(rule(outputClaimToHeaders=OUTPUTS, outputPayloadToHeader="x-payload")))
    forged = [
        (name, "forged")
        for name in ("x-user", "X-USER", "x_user", "x-team", "x_team", "x_none", "x-none", "x-payload", "X_Payload")
    ]
    headers = [*forged, ("x-other", "stays"), *(PREFLIGHT if method == "OPTIONS" else [])]
    found = seen(gate.ask(method=method, headers=[*headers, *(bearer(CLAIMS) if with_token else [])]))
    assert found["x-other"] == "stays"
    assert "forged" not in found.values()
    if with_token and method != "OPTIONS":
        assert found["x-user"] == "alice"


def test_preflights_of_cors_are_not_asked_for_a_token(gate: Gate) -> None:
    gate.use(policy(rule()))
    assert gate.ask(method="OPTIONS", headers=[*PREFLIGHT, *bearer(key="ec-2")]).status == 200
    assert gate.ask(method="OPTIONS", headers=bearer(key="ec-2")).status == 401


ALLOW = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  rules:
  - from: [{source: {requestPrincipals: ["%s"]}}]
    when: %s
"""


def test_what_a_token_says_is_what_policies_decide_by(gate: Gate) -> None:
    gate.use(policy(rule()) + ALLOW % (f"{ISSUER}/alice", "[]"))
    assert gate.ask(headers=bearer()).status == 200
    assert gate.ask(headers=bearer({"sub": "mallory"})).status == 403
    assert gate.ask().status == 403


def test_space_delimited_claims(gate: Gate) -> None:
    reads = '[{key: "request.auth.claims[%s]", values: [read]}]'
    said = {"scope": "write read", "roles": "write read"}
    gate.use(policy(rule()) + ALLOW % ("*", reads % "scope"))
    assert gate.ask(headers=bearer(said)).status == 200
    assert gate.ask(headers=bearer({"scope": "write"})).status == 403
    gate.use(policy(rule()) + ALLOW % ("*", reads % "roles"))
    assert gate.ask(headers=bearer(said)).status == 403
    gate.use(policy(rule(spaceDelimitedClaims=["roles", "scope"])) + ALLOW % ("*", reads % "roles"))
    assert gate.ask(headers=bearer(said)).status == 200


# ---------------------------------------------------------------- several rules, several policies


def other(**fields: Any) -> dict[str, Any]:
    return {"issuer": "https://b.test", "jwks": jwks("ec-b"), **fields}


def test_a_token_of_any_issuer_is_good_and_one_of_none_is_not(gate: Gate) -> None:
    b = bearer({"iss": "https://b.test"}, "ec-b")
    for text in (
        policy(rule(), other()),
        policy(rule(), name="a") + policy(other(), name="b", selector={"matchLabels": {"app": "app"}}),
        policy(rule(), name="a", namespace="istio-system") + policy(other(), name="b"),
    ):
        gate.use(text)
        assert gate.ask().status == 200
        assert gate.ask(headers=bearer()).status == 200
        assert gate.ask(headers=b).status == 200
        assert gate.ask(headers=bearer({"iss": "https://b.test"})).status == 401  # the other one's key
        assert gate.ask(headers=bearer({"iss": "https://c.test"})).status == 401


def test_two_rules_of_one_issuer_stand_beside_each_other(gate: Gate) -> None:
    gate.use(policy(rule(audiences=["a"], jwks=jwks("ec")), rule(audiences=["b"], jwks=jwks("rsa"))))
    assert gate.ask(headers=bearer({"aud": "a"}, "ec")).status == 200
    assert gate.ask(headers=bearer({"aud": "b"}, "rsa")).status == 200
    assert gate.ask(headers=bearer({"aud": "b"}, "ec")).status in (401, 403)


def test_tokens_in_two_places(gate: Gate) -> None:
    gate.use(policy(rule(), other(fromHeaders=[{"name": "x-token"}])))
    b = [("x-token", sign({"iss": "https://b.test"}, "ec-b"))]
    assert gate.ask(headers=[*bearer(), *b]).status == 200
    assert gate.ask(headers=b).status == 200
    assert gate.ask(headers=[("x-token", token())]).status == 401


def test_policies_for_others_are_not_for_this_one(gate: Gate) -> None:
    bad = bearer(key="ec-2")
    gate.use(policy(rule(), selector={"matchLabels": {"app": "other"}}))
    assert gate.ask(headers=bad).status == 200
    gate.use(policy(rule(), namespace="elsewhere"))
    assert gate.ask(headers=bad).status == 200
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}
    gate.use(policy(rule(), targetRefs=[target]))
    assert gate.ask(headers=bad).status == 200
    gate.use(policy(rule(), namespace="istio-system", selector={"matchLabels": {"app": "app"}}))
    assert gate.ask(headers=bad).status == 401


def test_over_mutual_tls_too(gate: Gate) -> None:
    gate.use(policy(rule(outputClaimToHeaders=OUTPUTS)))
    assert gate.ask(account="web", headers=bearer(key="ec-2")).status == 401
    found = seen(gate.ask(account="web", headers=[*bearer(), ("x-team", "forged"), ("x_user", "forged")]))
    assert found["x-user"] == "alice"
    assert "forged" not in found.values()


def test_what_is_no_http_is_not_looked_at(gate: Gate) -> None:
    gate.use(policy(rule()))
    assert gate.says() == b"app:hello"


# ---------------------------------------------------------------- keys


def known(*names: str) -> str:
    return parse_key_set(jwks(*names).encode()).text


def test_without_keys_every_token_is_refused_and_what_has_none_passes(gate: Gate) -> None:
    gate.use(policy(rule(jwks=None, jwksUri=REMOTE.url)))
    assert gate.ask().status == 200
    assert gate.ask(headers=bearer()).status == 401
    assert gate.ask(headers=bearer(key="rsa")).status == 401
    gate.take_keys({REMOTE: known("ec")})
    assert gate.ask(headers=bearer()).status == 200
    gate.take_keys({REMOTE: ""})
    assert gate.ask(headers=bearer()).status == 401


def test_no_key_stands_in_for_those_that_are_not_had(gate: Gate) -> None:
    gate.use(policy(rule(jwks=None, jwksUri=REMOTE.url)))
    dump = gate.envoy.admin("/config_dump")
    assert "jwt_authn" in dump
    assert "local_jwks" not in dump
    assert '"kty"' not in dump.replace("\\", "")


@pytest.mark.parametrize("text", ['{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'])
def test_one_rule_without_a_usable_key_takes_nothing_from_the_others(gate: Gate, text: str) -> None:
    gate.use(policy(other(jwks=text), rule()))
    assert gate.ask(headers=bearer()).status == 200
    assert gate.ask(headers=bearer({"iss": "https://b.test"}, "ec-b")).status == 401
    assert gate.ask().status == 200


def test_rotation_fails_no_request_of_a_connection_that_goes_on(gate: Gate) -> None:
    """Tokens of the old and of the new key, before, while and after both are published, on one connection."""
    gate.use(policy(rule(jwks=None, jwksUri=REMOTE.url)))
    gate.take_keys({REMOTE: known("ec")})
    old, new = bearer(key="ec"), bearer(key="ec-2")
    before = gate.envoy.admin("/stats?filter=listener_manager.listener_(modified|in_place_updated)")
    with gate.connect() as sock:

        def ask(headers: list[tuple[str, str]]) -> int:
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            sock.sendall(f"GET / HTTP/1.1\r\nhost: app\r\n{head}\r\n".encode())
            with closing(http.client.HTTPResponse(sock)) as response:
                response.begin()
                response.read()
                assert response.getheader("connection") is None  # nobody asks the client to go
                return response.status

        assert [ask(old) for _ in range(20)] == [200] * 20
        assert ask(new) == 401
        gate.take_keys({REMOTE: known("ec", "ec-2")})
        assert [ask(headers) for _ in range(20) for headers in (old, new)] == [200] * 40
        gate.take_keys({REMOTE: known("ec-2")})
        assert [ask(new) for _ in range(20)] == [200] * 20
        assert ask(old) == 401
    # No listener changed, so no connection was drained.
    assert gate.envoy.admin("/stats?filter=listener_manager.listener_(modified|in_place_updated)") == before
