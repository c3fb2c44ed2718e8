"""SPIFFE bundles: what one end writes the other reads, and half a bundle is none."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtBundle, TrustDomain

from lateen.errors import BadInput
from lateen.wire.jwk import format_jwk
from lateen.wire.spiffe_bundle import Bundle, format_bundle, format_jwt_bundle, parse_bundle, read_roots

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(name: str, *, ca: bool = True) -> str:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode()


ROOTS = tuple(sorted((certificate("one"), certificate("two"))))
BUNDLE = Bundle(roots=ROOTS, jwt_keys={"k1": KEY.public_key()}, sequence=7, refresh_seconds=60)


def test_a_bundle_is_read_as_it_was_written() -> None:
    assert parse_bundle(format_bundle(BUNDLE)) == BUNDLE


def test_the_form_is_that_of_the_specification() -> None:
    document = json.loads(format_bundle(BUNDLE))
    assert set(document) == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert [key["use"] for key in document["keys"]] == ["x509-svid", "x509-svid", "jwt-svid"]
    first, _, last = document["keys"]
    assert base64.b64decode(first["x5c"][0]) == x509.load_pem_x509_certificate(ROOTS[0].encode()).public_bytes(
        serialization.Encoding.DER
    )
    assert "kid" not in first
    assert last["kid"] == "k1"
    assert "x5c" not in last
    assert b"PRIVATE" not in format_bundle(BUNDLE)
    assert '"d"' not in format_bundle(BUNDLE).decode()


def test_another_library_reads_the_jwt_keys() -> None:
    read = JwtBundle.parse(TrustDomain("a.example"), format_jwt_bundle(BUNDLE.jwt_keys))
    assert read.get_jwt_authority("k1").public_numbers() == KEY.public_key().public_numbers()  # type: ignore[union-attr]


def test_keys_of_another_use_are_passed_over() -> None:
    document = json.loads(format_bundle(BUNDLE))
    document["keys"] += [{"use": "sig", "kty": "oct"}, {"kty": "EC"}, {"use": 5}]
    assert parse_bundle(json.dumps(document).encode()) == BUNDLE


def root_jwk(pem: str) -> dict[str, Any]:
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    return {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(der).decode()]}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"[]", "JSON object"),
        (b"{", "JSON object"),
        (b'{"keys":' + b"[" * 100_000, "JSON object"),
        (b'{"keys": {}}', "list wanted"),
        (b'{"keys": [1]}', r"keys\[0\]"),
        ({"keys": [{"use": "x509-svid"}]}, "x5c"),
        ({"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}, r"keys\[0\].*no certificate"),
        ({"keys": [{"use": "x509-svid", "x5c": ["!"]}]}, "no certificate"),
        ({"keys": [root_jwk(ROOTS[0]), root_jwk(certificate("leaf", ca=False))]}, r"keys\[1\].*no authority"),
        ({"keys": [{"use": "jwt-svid", **format_jwk(KEY.public_key())}]}, "kid"),
        ({"keys": [{"use": "jwt-svid", "kid": "a", **format_jwk(KEY.public_key())}] * 2}, r"keys\[1\].*kid"),
        ({"keys": [{"use": "jwt-svid", "kid": "a", "kty": "oct"}]}, "kty"),
        ({"keys": [root_jwk(ROOTS[0])] * 65}, "at most 64"),
        ({"keys": [], "spiffe_sequence": -1}, "spiffe_sequence"),
        ({"keys": [], "spiffe_refresh_hint": "soon"}, "spiffe_refresh_hint"),
        (b" " * (512 * 1024 + 1), "at most"),
    ],
)
def test_what_is_no_bundle(document: Any, why: str) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(BadInput, match=why):
        parse_bundle(data)


def test_roots_that_a_person_gave() -> None:
    assert read_roots("".join(reversed(ROOTS)) + ROOTS[0]) == ROOTS
    with pytest.raises(BadInput, match="no authority"):
        read_roots(certificate("leaf", ca=False))
    with pytest.raises(BadInput, match="no certificates"):
        read_roots("nothing")
