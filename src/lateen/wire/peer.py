"""Who is at the other end of a gRPC stream: the SPIFFE ID in the certificate that its TLS handshake verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from cryptography import x509

from lateen.wire.svid import UNREADABLE, spiffe_id_of

__all__ = ["AuthContext", "peer_spiffe_id"]


class AuthContext(Protocol):
    """The part of `grpc.ServicerContext` and `grpc.aio.ServicerContext` that is needed here."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def peer_spiffe_id(context: AuthContext) -> str | None:
    """Return the peer's SPIFFE ID, or None: plain text, no certificate, not exactly one URI SAN, no workload's ID.

    The server's credentials have verified the certificate; nothing is verified again. The certificate itself is read,
    not gRPC's ready-made strings: gRPC ends a SAN at its first zero byte, so "spiffe://td/ns/a/sa/b\\0..." would be
    taken for another's identity.
    """
    pems = tuple(context.auth_context().get("x509_pem_cert", ()))
    if len(pems) != 1:
        return None
    try:
        identity = spiffe_id_of(x509.load_pem_x509_certificate(pems[0]))
    except UNREADABLE:
        return None
    return None if identity is None else str(identity)
