"""Ways to recognise a caller that is not the local user: a join token, a certificate of the mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509

from lateen.citadel.authenticate import CallContext, Caller
from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.join_tokens import JoinTokens
from lateen.errors import BadInput, Refused
from lateen.wire.ca import IDENTITY_METADATA
from lateen.wire.join import parse_bearer
from lateen.wire.svid import UNREADABLE, spiffe_id_of

__all__ = ["BearerJoinToken", "ClientCertificate", "bearer_of"]

AUTHORIZATION = "authorization"
_SCHEME = "Bearer "
_MAX_TOKEN = 16 * 1024  # a projected service account token has about 1 kB


class SecureContext(CallContext, Protocol):
    """The part of `grpc.aio.ServicerContext` that tells of TLS."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


@dataclass(frozen=True, slots=True)
class BearerJoinToken:
    """Takes join tokens in the metadata `authorization: Bearer ...`, and uses them up."""

    tokens: JoinTokens

    async def authenticate(self, context: CallContext) -> Caller | None:
        bearer = bearer_of(context)
        if bearer is None:
            return None
        try:
            shown = parse_bearer(bearer)
        except BadInput as error:
            raise Refused("no such join token") from error
        if shown is None:
            return None
        identity = self.tokens.take(shown, wanted_of(context))
        return Caller(identity, "join-token", token=shown.name, give_back=lambda: self.tokens.give_back(shown.name))


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Believes the certificate that the TLS handshake verified: renewal, of the same identity only."""

    trust_domain: str
    clock: Clock = utc_now
    revoked: Callable[[x509.Certificate], bool] = lambda _: False  # gRPC's own check of a handshake has no lists

    async def authenticate(self, context: Any) -> Caller | None:
        pems = tuple(context.auth_context().get("x509_pem_cert", ()))
        if not pems:
            return None
        if len(pems) != 1:
            raise Refused(f"{len(pems)} client certificates, one wanted")
        try:
            certificate = x509.load_pem_x509_certificate(pems[0])
        except UNREADABLE as error:
            raise Refused("client certificate cannot be read") from error
        # Read from the certificate, not from gRPC's strings, which end at a zero byte (0003).
        identity = spiffe_id_of(certificate)
        if identity is None:
            raise Refused("client certificate is no workload's: exactly one SPIFFE ID wanted")
        if identity.trust_domain != self.trust_domain:
            raise Refused(f"client certificate is not of trust domain {self.trust_domain!r}")
        # A connection may outlive the certificate it was made with.
        if not certificate.not_valid_before_utc <= self.clock() < certificate.not_valid_after_utc:
            raise Refused("client certificate is not valid now")
        if self.revoked(certificate):
            raise Refused("client certificate is revoked")
        wanted = wanted_of(context)
        if wanted is not None and wanted != f"{identity.namespace}/{identity.service_account}":
            raise Refused(f"client certificate of another identity than {wanted!r}")
        return Caller(identity, "client-certificate")


def bearer_of(context: CallContext) -> str | None:
    """Return the token in `authorization: Bearer TOKEN`; None without. Raises `Refused` for anything else."""
    values = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
    if not values:
        return None
    value = values[0]
    if len(values) != 1 or not isinstance(value, str) or not value.startswith(_SCHEME) or len(value) > _MAX_TOKEN:
        raise Refused(f"{AUTHORIZATION}: one bearer token wanted")
    return value.removeprefix(_SCHEME)


def wanted_of(context: CallContext) -> str | None:
    """Return what a caller says it is, `<namespace>/<service account>`. Raises `Refused` for several."""
    values = [value for key, value in context.invocation_metadata() or () if key == IDENTITY_METADATA]
    if len(values) > 1 or not all(isinstance(value, str) for value in values):
        raise Refused(f"{IDENTITY_METADATA}: one value wanted, got {len(values)}")
    return str(values[0]) if values else None
