"""Who is at the other end of a gRPC stream: the SPIFFE ID in the certificate that its TLS handshake verified.

And where it is, for the record: connections that came through a door are named by what the door knows of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import unquote

from cryptography import x509

from lateen.wire.svid import UNREADABLE, spiffe_id_of

__all__ = ["PEER_PREFIX", "AuthContext", "peer_certificate", "peer_spiffe_id", "peer_text"]

PEER_PREFIX: Final = "lateen-door/"  # <random>/<what the door knows>: the name of a relay's end
_MAX_TEXT: Final = 100


class AuthContext(Protocol):
    """The part of `grpc.ServicerContext` and `grpc.aio.ServicerContext` that is needed here."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def peer_spiffe_id(context: AuthContext) -> str | None:
    """Return the peer's SPIFFE ID, or None: plain text, no certificate, not exactly one URI SAN, no workload's ID.

    The server's credentials have verified the certificate; nothing is verified again. The certificate itself is read,
    not gRPC's ready-made strings: gRPC ends a SAN at its first zero byte, so "spiffe://td/ns/a/sa/b\\0..." would be
    taken for another's identity.
    """
    certificate = peer_certificate(context)
    identity = spiffe_id_of(certificate) if certificate is not None else None
    return None if identity is None else str(identity)


def peer_certificate(context: AuthContext) -> x509.Certificate | None:
    """Return the certificate that the peer's TLS handshake verified; None without one that can be read."""
    pems = tuple(context.auth_context().get("x509_pem_cert", ()))
    if len(pems) != 1:
        return None
    try:
        return x509.load_pem_x509_certificate(pems[0])
    except UNREADABLE:
        return None


def peer_text(context: Any) -> str:
    """Return where a call comes from, for people: "uid=1000,pid=4711", "10.0.0.2:50312", "" when nothing is known."""
    peer = getattr(context, "peer", None)
    text = unquote(str(peer())) if peer is not None else ""
    _, found, rest = text.partition(PEER_PREFIX)
    if found:
        text = rest.split("/", 1)[-1]
    kind, colon, address = text.partition(":")
    if colon and kind in ("ipv4", "ipv6", "unix", "unix-abstract"):
        text = address
    return "".join(char for char in text if char.isprintable() and char.isascii())[:_MAX_TEXT]
