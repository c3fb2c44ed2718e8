"""JWT-SVIDs: what is signed here others read, what others sign is read here, and nothing else is believed."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.errors import BadInput, LateenError, Refused
from lateen.wire.jwk import decode64, encode64, format_jwk, parse_jwk, thumbprint
from lateen.wire.jwt_svid import check_audience, sign_jwt, validate_jwt_svid

NOW = 1_790_000_000
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {"a.example": {"one": EC.public_key(), "rsa": RSA.public_key()}, "b.example": {"one": OTHER.public_key()}}
SUBJECT = "spiffe://a.example/ns/shop/sa/web"
CLAIMS: dict[str, Any] = {"sub": SUBJECT, "aud": ["db", "cache"], "exp": NOW + 300, "iat": NOW}


def test_what_is_signed_here_is_read_by_others() -> None:
    token = sign_jwt(EC, "one", CLAIMS)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "one", "typ": "JWT"}
    read = jwt.decode(token, EC.public_key(), algorithms=["ES256"], audience="db", options={"verify_exp": False})
    assert read == CLAIMS


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"])
def test_each_algorithm_of_the_specification_is_read(algorithm: str) -> None:
    curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}.get(algorithm)
    key = RSA if curve is None else ec.generate_private_key(curve)
    token = jwt.encode(CLAIMS, key, algorithm=algorithm, headers={"kid": "k"})
    svid = validate_jwt_svid(token, "cache", {"a.example": {"k": key.public_key()}}, NOW)
    assert (svid.spiffe_id, svid.audience, svid.expires) == (SUBJECT, ("db", "cache"), NOW + 300)


def changed(claims: dict[str, Any] | None = None, **headers: Any) -> str:
    """Return a token, rightly signed, of which something is otherwise."""
    merged = {name: value for name, value in {**CLAIMS, **(claims or {})}.items() if value is not None}
    return jwt.encode(merged, EC, algorithm="ES256", headers={"kid": "one", **headers})


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    parts = (encode64(json.dumps(part).encode()) for part in (header, CLAIMS))
    return ".".join([*parts, signature])


PUBLIC_DER = encode64(EC.public_key().public_numbers().x.to_bytes(32, "big"))


@pytest.mark.parametrize(
    ("token", "why"),
    [
        pytest.param(unsigned({"alg": "none", "kid": "one"}), "alg", id="alg-none"),
        pytest.param(unsigned({"alg": "HS256", "kid": "one"}, PUBLIC_DER), "alg", id="public-key-as-secret"),
        pytest.param(unsigned({"alg": "ES256", "kid": "one"}), "not signed", id="no-signature"),
        pytest.param(unsigned({"alg": "ES256", "kid": "one"}, encode64(bytes(64))), "not signed", id="zero-signature"),
        pytest.param(unsigned({"alg": "RS256", "kid": "one"}, encode64(bytes(64))), "not signed", id="other-algorithm"),
        pytest.param(sign_jwt(OTHER, "one", CLAIMS), "not signed", id="key-of-another-trust-domain"),
        pytest.param(sign_jwt(EC, "two", CLAIMS), "not signed", id="unknown-kid"),
        pytest.param(sign_jwt(EC, "", CLAIMS), "kid", id="empty-kid"),
        pytest.param(changed({"sub": "spiffe://c.example/ns/a/sa/b"}), "no bundle", id="unknown-trust-domain"),
        pytest.param(changed({"sub": "https://a.example/x"}), "SPIFFE ID", id="no-spiffe-id"),
        pytest.param(changed({"sub": None}), "sub", id="no-subject"),
        pytest.param(changed({"sub": "spiffe://a.example/../x"}), "SPIFFE ID", id="dots-in-path"),
        pytest.param(changed({"exp": None}), "exp", id="no-expiry"),
        pytest.param(changed({"exp": NOW}), "expired", id="expired"),
        pytest.param(changed({"exp": True}), "exp", id="expiry-no-number"),
        pytest.param(changed({"nbf": NOW + 61}), "nbf", id="not-yet"),
        pytest.param(changed({"iat": NOW + 61}), "iat", id="issued-in-future"),
        pytest.param(changed({"aud": ["dbx"]}), "another audience", id="other-audience"),
        pytest.param(changed({"aud": "DB"}), "another audience", id="audience-other-case"),
        pytest.param(changed({"aud": None}), "aud", id="no-audience"),
        pytest.param(changed(typ="at+jwt"), "typ", id="other-type"),
        pytest.param(changed(crit=["x"], x=1), "crit", id="critical-extension"),
        pytest.param("a.b", "three parts", id="two-parts"),
        pytest.param("a.b.c.d.e", "three parts", id="encrypted"),
        pytest.param(sign_jwt(EC, "one", CLAIMS) + "=", "base64url", id="padding"),
        pytest.param("é.b.c", "three parts", id="not-ascii"),
        pytest.param("x" * 16385, "at most", id="too-long"),
    ],
)
def test_what_is_not_to_be_believed(token: str, why: str) -> None:
    with pytest.raises((BadInput, Refused), match=why) as caught:
        validate_jwt_svid(token, "db", KEYS, NOW)
    assert token not in str(caught.value)


def test_no_bit_of_a_token_can_be_changed() -> None:
    token = sign_jwt(EC, "one", CLAIMS)
    assert validate_jwt_svid(token, "db", KEYS, NOW).spiffe_id == SUBJECT
    for part, piece in enumerate(token.split(".")):
        data = decode64(piece)
        for position in range(0, len(data), 7):
            broken = bytearray(data)
            broken[position] ^= 1
            pieces = token.split(".")
            pieces[part] = encode64(bytes(broken))
            with pytest.raises(LateenError):
                validate_jwt_svid(".".join(pieces), "db", KEYS, NOW)


@pytest.mark.parametrize(
    ("audience", "wanted"), [(["a", "b", "a"], ("a", "b")), ([], None), ([""], None), (["x" * 513], None)]
)
def test_what_a_token_may_be_made_out_to(audience: list[str], wanted: tuple[str, ...] | None) -> None:
    if wanted is None:
        with pytest.raises(BadInput, match="audience"):
            check_audience(audience)
    else:
        assert check_audience(audience) == wanted


def test_too_many_audiences() -> None:
    with pytest.raises(BadInput, match="1 to 16"):
        check_audience([str(number) for number in range(17)])


@pytest.mark.parametrize(
    "key", [EC.public_key(), RSA.public_key(), ec.generate_private_key(ec.SECP521R1()).public_key()]
)
def test_a_key_is_read_as_it_was_written(key: Any) -> None:
    assert parse_jwk({**format_jwk(key), "use": "jwt-svid"}) == key


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    # The key of RFC 7638, section 3.1, and its thumbprint there.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    key = parse_jwk({"kty": "RSA", "n": modulus, "e": "AQAB"})
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


POINT = format_jwk(EC.public_key())


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        ({**POINT, "d": "AA"}, "private"),
        ({**POINT, "y": POINT["x"]}, "no usable EC key"),
        ({**POINT, "x": POINT["x"][:-2]}, "bytes wanted|base64url"),
        ({**POINT, "crv": "secp256k1"}, "crv"),
        ({**POINT, "crv": 7}, "crv"),
        ({"kty": "oct", "k": "AA"}, "kty"),
        ({"kty": ["EC"]}, "kty"),
        (format_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()), "bits"),
        ({"kty": "RSA", "n": format_jwk(RSA.public_key())["n"], "e": encode64(b"\x01")}, "e:"),
    ],
)
def test_keys_that_are_none(jwk: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        parse_jwk(jwk)


def test_bytes_have_one_spelling() -> None:
    assert decode64(encode64(b"\xff\xfe")) == b"\xff\xfe"
    for other in ("__4=", "//4", "__5", base64.b64encode(b"\xff\xfe").decode()):
        with pytest.raises(BadInput, match="base64url"):
            decode64(other)
