"""What of a JWK set is used, and where rules say that sets are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.tokens import jwk, jwks, private_jwk

from lateen.api.security import JWTRule
from lateen.errors import BadInput
from lateen.pilot.model.jwks import MAX_KEYS, JwksSource, discovered_uri, parse_key_set, source_of

PRIVATE = "holds private or symmetric material and is not used: whoever reads it can sign"


def keys_of(document: str) -> list[dict[str, Any]]:
    found = parse_key_set(document.encode())
    keys: list[dict[str, Any]] = json.loads(found.text)["keys"] if found.text else []
    return keys


@pytest.mark.parametrize("kind", ["rsa", "ec", "p384", "p521", "ed"])
def test_public_keys_are_used(kind: str) -> None:
    assert keys_of(jwks(kind)) == [{name: jwk(kind)[name] for name in jwk(kind)}]
    assert parse_key_set(jwks(kind).encode()).faults == ()


def test_only_what_makes_up_a_key_is_kept() -> None:
    key = {**jwk("ec"), "x5c": ["AAAA"], "use": "sig", "alg": "ES256", "key_ops": ["verify"], "junk": {"a": [1]}}
    first = parse_key_set(json.dumps({"keys": [key], "more": 1}).encode())
    again = parse_key_set(json.dumps({"keys": [{**dict(reversed(key.items())), "junk": 2}]}).encode())
    assert first == again
    assert json.loads(first.text) == {"keys": [{**jwk("ec"), "alg": "ES256"}]}


def test_equal_keys_are_one() -> None:
    assert keys_of(jwks("ec", "ec", "rsa")) == [jwk("ec"), jwk("rsa")]


def test_padding_is_forgiven() -> None:
    padded = {**jwk("ec"), "x": jwk("ec")["x"] + "="}
    assert keys_of(json.dumps({"keys": [padded]})) == [jwk("ec")]


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed"])
def test_assurance_15_a_private_key_in_the_set_is_refused_and_told(kind: str) -> None:
    document = json.dumps({"keys": [private_jwk(kind), jwk("p384")]})
    found = parse_key_set(document.encode())
    assert json.loads(found.text) == {"keys": [jwk("p384")]}
    assert found.faults == (f"key 0 {PRIVATE}",)
    assert private_jwk(kind)["d"] not in found.text + found.faults[0]


def test_assurance_15_a_symmetric_key_is_refused_and_told() -> None:
    found = parse_key_set(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0"}, {"kty": "oct"}]}')
    assert (found.text, found.faults) == ("", (f"key 0 {PRIVATE}", f"key 1 {PRIVATE}"))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ({"kty": "RSA", "n": "AQAB", "e": "AQAB"}, "2048 to 8192 bits wanted"),
        ({"kty": "RSA", "n": "!!!", "e": "AQAB"}, "base64url"),
        ({"kty": "RSA"}, "bits wanted"),
        ({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}, "32 bytes wanted"),
        ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}, "no usable EC key"),
        ({"kty": "EC", "crv": "secp256k1", "x": "A" * 43, "y": "A" * 43}, "crv"),
        ({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, "Ed25519 wanted"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}, "is not used"),
        ("text", "is no JSON object"),
        (7, "is no JSON object"),
    ],
)
def test_a_key_that_is_none_is_left_out_and_told(key: Any, words: str) -> None:
    found = parse_key_set(json.dumps({"keys": [key, jwk("ec")]}).encode())
    assert json.loads(found.text) == {"keys": [jwk("ec")]}
    assert [words in fault for fault in found.faults] == [True]


@pytest.mark.parametrize(
    "extra",
    [{"use": "enc"}, {"alg": "RSA-OAEP"}, {"alg": "ES256K"}, {"key_ops": ["encrypt"]}, {"kty": "new"}, {"kty": 3}],
)
def test_keys_for_other_uses_are_passed_over_in_silence(extra: dict[str, Any]) -> None:
    found = parse_key_set(json.dumps({"keys": [{**jwk("ec"), **extra}]}).encode())
    assert (found.text, found.faults) == ("", ())


def test_a_key_id_that_is_no_text_is_told() -> None:
    found = parse_key_set(json.dumps({"keys": [{**jwk("ec"), "kid": 7}, {**jwk("rsa"), "kid": "x" * 300}]}).encode())
    assert (found.text, len(found.faults)) == ("", 2)


def test_a_set_has_an_end() -> None:
    many = [{**jwk("ec"), "kid": str(number)} for number in range(MAX_KEYS + 5)]
    found = parse_key_set(json.dumps({"keys": many}).encode())
    assert len(json.loads(found.text)["keys"]) == MAX_KEYS
    assert found.faults == (f"{MAX_KEYS + 5} keys, of which the first {MAX_KEYS} are used",)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"<!doctype html><title>Sign in</title>", "; this is HTML or XML"),
        (b"\xff\xfe\x00", "; this is no JSON (3 bytes)"),
        (b"", "; this is no JSON (0 bytes)"),
        (b"{}", "(RFC 7517, section 5)"),
        (b"[]", "(RFC 7517, section 5)"),
        (b'{"keys": {"a": 1}}', "(RFC 7517, section 5)"),
        (b'{"keys": [', "(RFC 7517, section 5)"),
        (b"[" * 100_000, "(RFC 7517, section 5)"),
        (b'{"keys":' * 100_000, "(RFC 7517, section 5)"),
        (b"eyJhbGciOi", "; this is no JSON (10 bytes)"),
    ],
)
def test_assurance_15_what_is_no_set_is_refused_and_not_repeated(document: bytes, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_key_set(document)
    assert str(caught.value).endswith(words)
    assert "Sign in" not in str(caught.value)


_TEXTS = st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "sig", "enc", "ES256", "=", "é", ""])
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=10,
)
_KEYS = st.dictionaries(st.sampled_from([*jwk("rsa"), *jwk("ec"), "d", "k", "alg", "use", "key_ops"]), _JSON)


@settings(max_examples=200, deadline=None)
@given(keys=st.lists(_KEYS | st.builds(lambda more: {**jwk("ec"), **more}, _KEYS) | _JSON, max_size=4))
def test_whatever_stands_in_a_set_is_used_or_left_out(keys: list[Any]) -> None:
    document = json.dumps({"keys": keys}).encode()
    found = parse_key_set(document)
    used = json.loads(found.text)["keys"] if found.text else []
    assert len(used) <= len(keys)
    assert all(not {"d", "k", "p", "q"} & key.keys() and key["kty"] in ("RSA", "EC", "OKP") for key in used)
    # What is written is read the same way again.
    assert parse_key_set(found.text.encode()).text == found.text if found.text else used == []


@settings(max_examples=200, deadline=None)
@given(document=st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_set_or_refused(document: bytes) -> None:
    try:
        found = parse_key_set(document)
    except BadInput:
        return
    assert isinstance(json.loads(document)["keys"], list)
    assert bool(found.text) == (found.text != "")


def test_an_empty_set_is_a_set() -> None:
    assert parse_key_set(b'{"keys": []}').text == ""


# ---------------------------------------------------------------- where they are


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (JWTRule(issuer="i", jwks="{}"), None),
        (JWTRule(issuer="https://i.test/", jwks_uri="https://k.test/j"), JwksSource("uri", "https://k.test/j")),
        (JWTRule(issuer="https://i.test/"), JwksSource("issuer", "https://i.test/")),
        (JWTRule(jwks_uri="https://k.test/j"), JwksSource("uri", "https://k.test/j")),
        (JWTRule(), None),
    ],
)
def test_where_a_rule_has_its_keys(rule: JWTRule, source: JwksSource | None) -> None:
    assert source_of(rule) == source


@pytest.mark.parametrize("issuer", ["https://i.test/tenant", "https://i.test/tenant/"])
def test_an_issuer_says_itself_where_its_keys_are(issuer: str) -> None:
    assert JwksSource("issuer", issuer).first_url == "https://i.test/tenant/.well-known/openid-configuration"


def test_a_discovery_document_names_the_set() -> None:
    found = discovered_uri(b'{"issuer": "x", "jwks_uri": "https://k.test/j"}', "https://i.test/")
    assert found == "https://k.test/j"
    assert discovered_uri(b'{"jwks_uri": "http://k.test/j"}', "http://i.test/") == "http://k.test/j"


@pytest.mark.parametrize(
    "document", [b"{}", b"<html>", b'{"jwks_uri": 7}', b'{"jwks_uri": ""}', b'{"jwks_uri": "http://k.test/j"}']
)
def test_a_discovery_document_that_names_none_or_leaves_tls_is_refused(document: bytes) -> None:
    with pytest.raises(BadInput):
        discovered_uri(document, "https://i.test/.well-known/openid-configuration")


def test_people_are_shown_neither_path_nor_query() -> None:
    assert JwksSource("uri", "https://user:pw@k.test:8443/secret?key=secret").shown == "https://k.test"
    assert JwksSource("issuer", "partner").shown == "what is no URL"
