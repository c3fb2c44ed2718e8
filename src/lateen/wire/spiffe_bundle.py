"""SPIFFE bundles: what one trust domain's identities are verified by, and its JSON form.

Rules: the SPIFFE Trust Domain and Bundle specification: a JWK set whose keys say what they are for by `use`
(`x509-svid` with one certificate in `x5c`, `jwt-svid` with a `kid`), with `spiffe_sequence` and `spiffe_refresh_hint`.
Keys of another use, or of none, are passed over, as the specification wants; one that says it is a root or a
JWT authority and cannot be read makes the whole document wrong: half of a bundle would cut off half of a mesh.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lateen.errors import BadInput
from lateen.wire.jwk import MAX_KEY_ID, VerifyingKey, format_jwk, parse_jwk
from lateen.wire.svid import UNREADABLE

__all__ = ["MAX_BUNDLE_BYTES", "Bundle", "format_bundle", "format_jwt_bundle", "parse_bundle", "read_roots"]

MAX_BUNDLE_BYTES: Final = 512 * 1024
MAX_KEYS: Final = 64  # of each use: a rotation has two


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One trust domain's bundle. Roots are PEM, one certificate each, sorted; keys by their id."""

    roots: tuple[str, ...]
    jwt_keys: Mapping[str, VerifyingKey]
    sequence: int | None = None
    refresh_seconds: int | None = None  # how often its owner wants to be asked; None: it does not say


def format_bundle(bundle: Bundle) -> bytes:
    """Return the document that a bundle endpoint serves. Same bundle, same bytes. Raises `BadInput`: a root's key."""
    keys: list[dict[str, Any]] = []
    for pem in bundle.roots:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        der = certificate.public_bytes(serialization.Encoding.DER)
        key = certificate.public_key()
        if not isinstance(key, VerifyingKey):
            raise BadInput(f"root {certificate.serial_number:x} has a key of another kind than EC or RSA")
        keys.append({"use": "x509-svid", **format_jwk(key), "x5c": [base64.b64encode(der).decode("ascii")]})
    keys.extend(_jwt_keys(bundle.jwt_keys))
    document: dict[str, Any] = {"keys": keys}
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_seconds is not None:
        document["spiffe_refresh_hint"] = bundle.refresh_seconds
    return msgspec.json.encode(document)


def format_jwt_bundle(keys: Mapping[str, VerifyingKey]) -> bytes:
    """Return the JWK set of a trust domain's JWT keys, as the Workload API gives it."""
    return msgspec.json.encode({"keys": _jwt_keys(keys)})


def parse_bundle(data: bytes) -> Bundle:
    """Return the bundle in a document from another trust domain. Raises `BadInput`, which names the key at fault."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise BadInput(f"bundle of {len(data)} bytes, at most {MAX_BUNDLE_BYTES} wanted")
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput("bundle is no JSON object") from error
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise BadInput(f"bundle's keys: list wanted, got {type(keys).__name__}")
    roots: list[str] = []
    jwt_keys: dict[str, VerifyingKey] = {}
    for position, jwk in enumerate(keys):
        try:
            if not isinstance(jwk, dict):
                raise BadInput(f"object wanted, got {type(jwk).__name__}")
            if jwk.get("use") == "x509-svid":
                roots.append(_certificate(jwk))
            elif jwk.get("use") == "jwt-svid":
                key_id = jwk.get("kid")
                if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_KEY_ID or key_id in jwt_keys:
                    raise BadInput(f"kid: text of 1 to {MAX_KEY_ID} characters wanted that no other key has")
                jwt_keys[key_id] = parse_jwk(jwk)
        except BadInput as error:
            raise BadInput(f"bundle's keys[{position}]: {error}") from error
    if len(roots) > MAX_KEYS or len(jwt_keys) > MAX_KEYS:
        raise BadInput(f"bundle of {len(roots)} roots and {len(jwt_keys)} JWT keys, at most {MAX_KEYS} of each wanted")
    return Bundle(
        roots=tuple(sorted(set(roots))),
        jwt_keys=dict(sorted(jwt_keys.items())),
        sequence=_number(document, "spiffe_sequence"),
        refresh_seconds=_number(document, "spiffe_refresh_hint"),
    )


def read_roots(pem: str) -> tuple[str, ...]:
    """Return the roots in PEM that a person gave: one certificate each, sorted, each once. Raises `BadInput`."""
    if len(pem) > MAX_BUNDLE_BYTES:
        raise BadInput(f"PEM of {len(pem)} bytes, at most {MAX_BUNDLE_BYTES} wanted")
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        found = sorted({_root(certificate) for certificate in certificates})
    except UNREADABLE as error:
        raise BadInput(f"no certificates in PEM that can be read: {error}") from error
    if len(found) > MAX_KEYS:
        raise BadInput(f"{len(found)} certificates, at most {MAX_KEYS} wanted")
    return tuple(found)


def _jwt_keys(keys: Mapping[str, VerifyingKey]) -> list[dict[str, Any]]:
    return [{"use": "jwt-svid", "kid": key_id, **format_jwk(key)} for key_id, key in sorted(keys.items())]


def _certificate(jwk: Mapping[str, Any]) -> str:
    """Return the one certificate of an `x509-svid` key."""
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise BadInput("x5c: a list of one certificate in base64 wanted")
    try:
        return _root(x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True)))
    except (binascii.Error, *UNREADABLE) as error:
        raise BadInput(f"x5c: no certificate: {error}") from error


def _root(certificate: x509.Certificate) -> str:
    """Return an authority's certificate in PEM; any other could not vouch for anybody. Raises `BadInput`."""
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    if not authority:
        raise BadInput(f"certificate {certificate.serial_number:x} is of no authority: it may not sign others")
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _number(document: Mapping[str, Any], member: str) -> int | None:
    value = document.get(member)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise BadInput(f"bundle's {member}: whole number of 0 or more wanted")
    return value
