"""Public keys as JSON Web Keys: the ones that vouch for JWT-SVIDs, and those that stand in SPIFFE bundles.

Rules: RFC 7517 and RFC 7518, of which the SPIFFE specifications use EC keys (P-256, P-384, P-521) and RSA ones.
A key is read whole or refused: what comes out is a key that `cryptography` has checked to be one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.errors import BadInput

__all__ = ["MAX_KEY_ID", "VerifyingKey", "decode64", "encode64", "format_jwk", "parse_jwk", "thumbprint"]

VerifyingKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MAX_KEY_ID: Final = 256  # characters of a `kid`
MIN_RSA_BITS: Final = 2048  # RFC 7518, section 3.3
MAX_RSA_BITS: Final = 8192  # more costs whoever verifies too much

_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}


def encode64(data: bytes) -> str:
    """Return bytes as base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode64(text: str) -> bytes:
    """Return what `encode64` took. Raises `BadInput` for anything else, other spellings of the same bytes included."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        raise BadInput(f"no base64url: {error}") from error
    if encode64(data) != text:
        raise BadInput("no base64url as RFC 7515 spells it")
    return data


def format_jwk(key: VerifyingKey) -> dict[str, str]:
    """Return the members that make up a key: `kty` and its numbers, nothing else."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    point = key.public_numbers()
    size = (key.curve.key_size + 7) // 8  # leading zeroes stay: RFC 7518, section 6.2.1.2
    return {
        "kty": "EC",
        "crv": _NAMES[key.curve.name],
        "x": encode64(point.x.to_bytes(size, "big")),
        "y": encode64(point.y.to_bytes(size, "big")),
    }


def parse_jwk(jwk: Mapping[str, Any]) -> VerifyingKey:
    """Return the public key of a JWK. Raises `BadInput`: another type, a weak key, a point that is not on its curve."""
    kind = jwk.get("kty")
    if "d" in jwk:
        raise BadInput("a private key; a bundle holds public ones")
    try:
        if kind == "EC":
            curve = _CURVES.get(_text(jwk, "crv"))
            if curve is None:
                raise BadInput(f"crv: {' or '.join(_CURVES)} wanted, got {str(jwk.get('crv'))[:40]!r}")
            size = (curve.key_size + 7) // 8
            x, y = decode64(_text(jwk, "x")), decode64(_text(jwk, "y"))
            if len(x) != size or len(y) != size:
                raise BadInput(f"x and y: {size} bytes wanted, got {len(x)} and {len(y)}")
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()
        if kind == "RSA":
            modulus = int.from_bytes(decode64(_text(jwk, "n")), "big")
            exponent = int.from_bytes(decode64(_text(jwk, "e")), "big")
            if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
                raise BadInput(f"n: {MIN_RSA_BITS} to {MAX_RSA_BITS} bits wanted, got {modulus.bit_length()}")
            if not 3 <= exponent < 2**33:
                raise BadInput(f"e: 3 to 2^33 wanted, got {exponent.bit_length()} bits")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(f"no usable {kind} key: {error}") from error
    raise BadInput(f"kty: EC or RSA wanted, got {str(kind)[:40]!r}")


def thumbprint(key: VerifyingKey) -> str:
    """Return the SHA-256 thumbprint of RFC 7638, which Lateen's own keys have as their `kid`."""
    canonical = msgspec.json.encode(dict(sorted(format_jwk(key).items())))
    return encode64(hashlib.sha256(canonical).digest())


def _number(value: int) -> str:
    return encode64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(jwk: Mapping[str, Any], member: str) -> str:
    value = jwk.get(member)
    if not isinstance(value, str):
        raise BadInput(f"{member}: text wanted, got {type(value).__name__}")
    return value
