"""Join tokens: what an agent elsewhere shows once, to get its first certificate; and how they are made and listed.

The text is one line, `lateen1.<name>.<secret>.<pins>`. The name is no secret and stands in lists and the audit trail.
The pins are SHA-256 digests of the roots that the control plane's certificate may go back to: the agent takes no other
root, so it never trusts whatever answers first. A token's file holds that line and, below it, for whom it is and the
roots in PEM.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from lateen.errors import BadInput
from lateen.wire.svid import UNREADABLE

__all__ = [
    "JOIN_NAME",
    "JoinToken",
    "JoinTokenCreated",
    "JoinTokenInfo",
    "JoinTokenList",
    "JoinTokenName",
    "JoinTokenRequest",
    "is_join_token",
    "parse_bearer",
    "parse_join_token",
    "pins_of",
    "select_roots",
]

# What a client names in its TLS greeting when it has no certificate yet: the server then asks for none.
JOIN_NAME: Final = "join.lateen.local"
MAX_FILE_BYTES: Final = 64 * 1024

_PREFIX: Final = "lateen1"
_SECRET_BYTES: Final = 32
_DIGEST_BYTES: Final = 32
_MAX_PINS: Final = 8
_NAME = re.compile(r"[a-z0-9]{8}", re.ASCII)
_TEXT = re.compile(r"[A-Za-z0-9_.+-]{1,1024}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """One token. Whoever has its secret gets the certificate that it is for."""

    name: str
    secret: bytes = field(repr=False)
    pins: tuple[bytes, ...] = ()  # SHA-256 of the DER of each root

    @property
    def text(self) -> str:
        """The line that its user gets."""
        return f"{self.bearer}.{'+'.join(_encode(pin) for pin in self.pins)}"

    @property
    def bearer(self) -> str:
        """What is sent to the control plane: without the pins."""
        return f"{_PREFIX}.{self.name}.{_encode(self.secret)}"


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the messages of the local service about tokens."""


class JoinTokenRequest(_Message, frozen=True, kw_only=True):
    namespace: str
    service_account: str
    lifetime_seconds: float = 600.0
    uses: int = 1


class JoinTokenInfo(_Message, frozen=True, kw_only=True):
    """What is known of a token; nothing that could be used. Times are RFC 3339 in UTC."""

    name: str
    identity: str  # spiffe://...
    created: str
    expires: str
    uses: int
    used: int
    state: str  # "valid" | "used" | "expired"


class JoinTokenCreated(_Message, frozen=True, kw_only=True):
    info: JoinTokenInfo
    text: str  # the only time that it is told
    roots: str  # PEM
    listen: str  # "10.0.0.1:15012"; "" when the control plane listens to nobody elsewhere

    def __repr__(self) -> str:  # the text is a secret
        return f"JoinTokenCreated({self.info.name})"


class JoinTokenName(_Message, frozen=True, kw_only=True):
    name: str = ""  # "" for all, where that makes sense


class JoinTokenList(_Message, frozen=True, kw_only=True):
    tokens: tuple[JoinTokenInfo, ...]


def parse_join_token(text: str) -> JoinToken:
    """Return the token in a line. Raises `BadInput`, without a word of what it holds."""
    match _parts(text):
        case [name, secret, pins]:
            return JoinToken(name=name, secret=_secret(secret), pins=tuple(_pin(pin) for pin in _split(pins)))
    raise BadInput(f"no join token: {_PREFIX}.NAME.SECRET.PINS wanted, as 'lateen token create' prints it")


def is_join_token(text: str) -> bool:
    """Tell whether a bearer token is one of this kind, right or wrong."""
    return text.startswith(f"{_PREFIX}.")


def parse_bearer(text: str) -> JoinToken | None:
    """Return the token that a caller shows; None for another kind of token. Raises `BadInput` for a broken one."""
    if not is_join_token(text):
        return None
    match _parts(text):
        case [name, secret]:
            return JoinToken(name=name, secret=_secret(secret))
    raise BadInput("no join token")


def pins_of(roots: Iterable[x509.Certificate]) -> tuple[bytes, ...]:
    """Return the digest of each root."""
    return tuple(root.fingerprint(hashes.SHA256()) for root in roots)


def select_roots(token: JoinToken, pem: bytes) -> bytes:
    """Return those certificates in `pem` that the token pins. Raises `BadInput` when there is none."""
    try:
        certificates = x509.load_pem_x509_certificates(pem) if pem.strip() else []
    except UNREADABLE as error:
        raise BadInput(f"roots cannot be read: {error}") from error
    ders = (certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates)
    pinned = [
        certificate
        for certificate, der in zip(certificates, ders, strict=True)
        if hashlib.sha256(der).digest() in token.pins
    ]
    if not pinned:
        raise BadInput(
            f"none of {len(certificates)} roots is one that join token {token.name!r} names: the token comes from "
            "another mesh, or from before its root was replaced"
        )
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in pinned)


def _parts(text: str) -> list[str]:
    text = text.strip()
    if not _TEXT.fullmatch(text):
        return []
    prefix, *parts = text.split(".")
    return parts if prefix == _PREFIX and parts and _NAME.fullmatch(parts[0]) else []


def _secret(text: str) -> bytes:
    return _decode(text, _SECRET_BYTES)


def _pin(text: str) -> bytes:
    return _decode(text, _DIGEST_BYTES)


def _split(pins: str) -> list[str]:
    found = pins.split("+")
    if len(found) > _MAX_PINS:
        raise BadInput(f"no join token: {len(found)} roots, at most {_MAX_PINS} wanted")
    return found


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str, size: int) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    # One value has one spelling: what decodes to the same bytes otherwise is not taken.
    if len(data) != size or _encode(data) != text:
        raise BadInput("no join token: it is cut short or altered")
    return data
