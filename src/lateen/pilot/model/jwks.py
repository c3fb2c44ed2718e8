"""Keys of issuers: where a rule says that they are, and what of a JWK set is used.

Pure: text in, text out. Rules: RFC 7517, RFC 7518, RFC 8037. A set is used key by key. What is written out again has
only the members that make up a public key, so equal keys are equal text, whatever else the issuer puts beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lateen.errors import BadInput
from lateen.wire.jwk import MAX_KEY_ID, decode64, parse_jwk

__all__ = ["MAX_KEYS", "PRIVATE_KEY", "JwksSource", "KeySet", "discovered_uri", "parse_key_set", "source_of"]

MAX_KEYS: Final = 100  # of one set: each is in the configuration of every proxy that it is for
PRIVATE_KEY: Final = "holds private or symmetric material"
DISCOVERY: Final = "/.well-known/openid-configuration"  # OpenID Connect Discovery 1.0, section 4
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518, 6.2.2, 6.3.2, 6.4.1; RFC 8037, 2
_PUBLIC: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVE_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_DOCUMENT: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True, order=True)
class JwksSource:
    """Where keys are fetched. Rules that name the same place share them."""

    kind: Literal["uri", "issuer"]  # the set itself, or an issuer that tells where it is
    url: str

    @property
    def first_url(self) -> str:
        """What is fetched first."""
        return self.url if self.kind == "uri" else self.url.rstrip("/") + DISCOVERY

    @property
    def shown(self) -> str:
        """For people and logs: without path and query, which may hold what is not to be told."""
        try:
            parts = urlsplit(self.url)
            host = parts.hostname or ""
        except ValueError:
            return "what is no URL"
        return f"{parts.scheme}://{host}" if host else "what is no URL"


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of a JWK set, and what was wrong with the others."""

    text: str  # JSON, "" when no key is usable
    faults: tuple[str, ...] = ()  # one a key that is left out; never any key material


def source_of(rule: Any) -> JwksSource | None:
    """Return where the keys of an api `JWTRule` are fetched; None when they stand in it, or nowhere."""
    if rule.jwks:
        return None
    if rule.jwks_uri:
        return JwksSource("uri", rule.jwks_uri)
    return JwksSource("issuer", rule.issuer) if rule.issuer else None


def discovered_uri(document: bytes, first_url: str) -> str:
    """Return the `jwks_uri` of a discovery document that came from `first_url`. Raises `BadInput`."""
    found = _decode(document)
    uri = found.get("jwks_uri") if isinstance(found, dict) else None
    if not isinstance(uri, str) or not uri:
        raise BadInput(f"the discovery document names no jwks_uri{_looks_like(document)}")
    if first_url.startswith("https:") and not uri.lower().startswith("https:"):
        raise BadInput("the discovery document came by https and names a jwks_uri that is not")
    return uri


@lru_cache(maxsize=256)
def parse_key_set(document: bytes) -> KeySet:
    """Return what of a JWK set is used. Raises `BadInput` for what is no JWK set: JSON with a list `keys`."""
    found = _decode(document)
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise BadInput(f"no JWK set: JSON with a list `keys` is wanted (RFC 7517, section 5){_looks_like(document)}")
    usable: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    for number, key in enumerate(keys):
        try:
            public = _public_half(key)
        except BadInput as error:
            faults.append(f"key {number} {error}")
            continue
        if public is not None:
            usable.setdefault(msgspec.json.encode(public).decode(), public)
    if len(usable) > MAX_KEYS:
        faults.append(f"{len(usable)} keys, of which the first {MAX_KEYS} are used")
    return KeySet(_write(list(usable.values())[:MAX_KEYS]), tuple(faults))


def _decode(document: bytes) -> Any:
    try:
        return _DOCUMENT.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _looks_like(document: bytes) -> str:
    """Say in a few words what came instead, without repeating any of it."""
    start = document.lstrip()[:1]
    if start == b"<":
        return "; this is HTML or XML"
    return "" if start in (b"{", b"[") else f"; this is no JSON ({len(document)} bytes)"


def _public_half(key: Any) -> dict[str, str] | None:
    """Return the members of a key that checks signatures; None for one that is for something else.

    Raises `BadInput` with the end of the sentence "key 3 ...".
    """
    if not isinstance(key, dict):
        raise BadInput("is no JSON object")
    if key.keys() & _PRIVATE or key.get("kty") == "oct":
        raise BadInput(f"{PRIVATE_KEY} and is not used: whoever reads it can sign")
    if key.get("use", "sig") != "sig" or "verify" not in _operations(key):
        return None
    kind = key.get("kty")
    members = _PUBLIC.get(kind) if isinstance(kind, str) else None
    if members is None:
        return None  # another kind of key, for others: RFC 7517, section 5, has it passed over
    if not all(isinstance(key.get(name, ""), str) for name in members):
        raise BadInput(f"is not used: one of {', '.join(members)} is no text")
    trimmed = {name: key.get(name, "").rstrip("=") for name in members}
    algorithm = key.get("alg")
    if algorithm is not None and (not isinstance(algorithm, str) or algorithm not in _algorithms(str(kind), trimmed)):
        return None
    try:
        _check(str(kind), trimmed)
    except (BadInput, ValueError) as error:
        raise BadInput(f"is not used: {error}") from None
    key_id = key.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID):
        raise BadInput(f"is not used: its kid is no text of at most {MAX_KEY_ID} characters")
    named = {name: value for name, value in (("kid", key_id), ("alg", algorithm)) if value}
    return {"kty": str(kind), **named, **trimmed}


def _operations(key: Mapping[str, Any]) -> Any:
    found = key.get("key_ops")
    return found if isinstance(found, list) else ("verify",)


def _algorithms(kind: str, members: Mapping[str, str]) -> frozenset[str]:
    if kind == "RSA":
        return _RSA_ALGORITHMS
    return frozenset(filter(None, [_CURVE_ALGORITHMS.get(members["crv"])]))


def _check(kind: str, members: Mapping[str, str]) -> None:
    if kind != "OKP":
        parse_jwk({"kty": kind, **members})
        return
    if members["crv"] != "Ed25519":
        raise BadInput("crv: Ed25519 wanted")
    Ed25519PublicKey.from_public_bytes(decode64(members["x"]))


def _write(keys: list[dict[str, str]]) -> str:
    return msgspec.json.encode({"keys": keys}, order="sorted").decode() if keys else ""
