"""Issuers of tokens for tests: keys made when they are asked for, JWK sets of them, and tokens signed by them.

PyJWT signs, so that what Envoy and Lateen believe is somebody else's idea of a token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["jwk", "jwks", "private_jwk", "sign"]

# By how a test calls it: `rsa` and `rsa-2` are two RSA keys, `ec` one of P-256, and so on.
_MAKERS: Mapping[str, tuple[Any, Any, str]] = {
    "rsa": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm, "RS256"),
    "ec": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm, "ES256"),
    "p384": (lambda: ec.generate_private_key(ec.SECP384R1()), ECAlgorithm, "ES384"),
    "p521": (lambda: ec.generate_private_key(ec.SECP521R1()), ECAlgorithm, "ES512"),
    "ed": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm, "EdDSA"),
}


@cache
def _key(name: str) -> Any:
    return _MAKERS[name.partition("-")[0]][0]()


def private_jwk(name: str) -> dict[str, Any]:
    """Return the whole key, which nobody should publish."""
    _, algorithm, _ = _MAKERS[name.partition("-")[0]]
    return {**json.loads(algorithm.to_jwk(_key(name))), "kid": name}


def jwk(name: str) -> dict[str, Any]:
    """Return the public half of a key."""
    _, algorithm, _ = _MAKERS[name.partition("-")[0]]
    found: dict[str, Any] = json.loads(algorithm.to_jwk(_key(name).public_key()))
    found.pop("key_ops", None)
    return {**found, "kid": name}


def jwks(*names: str) -> str:
    """Return the JWK set of the public halves."""
    return json.dumps({"keys": [jwk(name) for name in names]})


def sign(claims: Mapping[str, Any], key: str = "ec", *, lasts: float = 3600, kid: str | None = None) -> str:
    """Return a token. `exp` is `lasts` seconds from now unless the claims say it; `kid` is the key's name."""
    whole = {"exp": int(time.time() + lasts), **claims}
    return jwt.encode(
        {name: value for name, value in whole.items() if value is not None},
        _key(key),
        algorithm=_MAKERS[key.partition("-")[0]][2],
        headers={"kid": key if kid is None else kid},
    )
