"""Istio's certificate signing service over gRPC: `istio.v1.auth.IstioCertificateService/CreateCertificate`.

In:  a CSR and a lifetime in seconds; who calls, as the authenticators find it.
Out: the chain, the root last; or a status:

    UNAUTHENTICATED     no authenticator recognises the caller, or it asks to stand for somebody else
    INVALID_ARGUMENT    the message, the CSR (CSR_ERROR) or the lifetime (TTL_ERROR) is wrong
    RESOURCE_EXHAUSTED  more requests wait than may; try again later
    UNAVAILABLE         a part that has to say who calls does not answer; try again later
    INTERNAL            the authority cannot sign now (CERT_GEN_ERROR)

Signing in this process is done in line: a P-256 CSR costs about 0.3 ms of CPU, most of it in the C libraries, so a call
delays others by no more than any call does. An authority elsewhere is waited for. In a storm callers take turns
(`turns`), and what one connection may have in flight is bounded (`SERVER_OPTIONS`): the rest waits at the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from lateen.citadel.audit import AuditEntry, AuditLog, audit_time
from lateen.citadel.authenticate import Authenticator, Caller, authenticate
from lateen.citadel.authority import Clock, IssuedChain, utc_now
from lateen.citadel.impersonation import IMPERSONATED, Impersonation
from lateen.citadel.turns import Busy, Turns
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.wire.ca import METHOD, SERVICE, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.peer import peer_text
from lateen.wire.spiffe import SpiffeId

__all__ = [
    "DEFAULT_LIFETIME",
    "SERVER_OPTIONS",
    "CertificateService",
    "Counters",
    "Issuer",
    "Lifetimes",
    "choose_lifetime",
]

DEFAULT_LIFETIME = timedelta(hours=24)  # Istio's DEFAULT_WORKLOAD_CERT_TTL
MAX_LIFETIME = timedelta(days=90)  # Istio's MAX_WORKLOAD_CERT_TTL
# For the server that answers CSRs. When a mesh starts, or comes back after a night, all its agents ask at once; from
# 1000 waiting calls on, gRPC would turn some away by chance. A waiting call holds about 40 kB. What a connection asks
# for beyond its streams waits at its own end (HTTP/2, section 5.1.2), so nobody fills this server alone.
SERVER_OPTIONS = (
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.server.max_pending_requests", 30_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
)
MAX_REQUEST_BYTES = 64 * 1024  # a CSR of 16 kB and its metadata fit well


class Issuer(Protocol):
    """The part of `Authority`, or of an issuer elsewhere, that the service needs."""

    def issue(
        self, csr_pem: bytes, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> IssuedChain | Awaitable[IssuedChain]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long certificates live: when the caller does not say, and at most. `BadInput` for impossible ones."""

    default: timedelta = DEFAULT_LIFETIME
    maximum: timedelta = MAX_LIFETIME

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.default <= self.maximum:
            raise BadInput(
                f"certificate lifetimes: default {self.default}, maximum {self.maximum}; "
                "wanted at least a second, and the default no more than the maximum"
            )

    @classmethod
    def exactly(cls, lifetime: timedelta) -> Lifetimes:
        """Return lifetimes under which no certificate lives longer than `lifetime`, and most just so long."""
        return cls(default=lifetime, maximum=lifetime)


@dataclass(slots=True)
class Counters:
    """What the service has done since it started; the names are those of Istio's metrics `citadel_server_*`."""

    csr_count: int = 0
    authentication_failure_count: int = 0
    csr_parsing_err_count: int = 0
    csr_sign_err_count: int = 0
    success_cert_issuance_count: int = 0

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def choose_lifetime(requested_seconds: int, lifetimes: Lifetimes) -> timedelta:
    """Return the lifetime to issue for; 0 or less asks for the default. Raises `BadInput` above the maximum."""
    if requested_seconds <= 0:
        return lifetimes.default
    maximum = int(lifetimes.maximum.total_seconds())
    if requested_seconds > maximum:  # compared as numbers: an int64 of seconds does not fit into a timedelta
        raise BadInput(f"validity_duration of {requested_seconds} s, at most {maximum} s wanted")
    return timedelta(seconds=requested_seconds)


class CertificateService:
    """Answers CreateCertificate: recognises the caller, has the certificate issued, leaves a trace of each decision."""

    def __init__(
        self,
        issuer: Issuer,
        authenticators: Sequence[Authenticator],
        *,
        lifetimes: Lifetimes | None = None,
        audit: AuditLog | None = None,
        turns: Turns | None = None,
        impersonation: Impersonation | None = None,
        clock: Clock = utc_now,
        log: Any = None,
    ) -> None:
        """`authenticators` are those of `handler()`, unless that is given others."""
        self.turns = turns or Turns()
        self.counters = Counters()
        self._issuer = issuer
        self._authenticators = tuple(authenticators)
        self._lifetimes = lifetimes or Lifetimes()
        self._audit = audit
        self._impersonation = impersonation
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log

    def handler(self, authenticators: Sequence[Authenticator] | None = None) -> grpc.GenericRpcHandler:
        """Return what `server.add_generic_rpc_handlers` wants; `authenticators` are that server's own."""
        chosen = self._authenticators if authenticators is None else tuple(authenticators)

        async def answer(data: bytes, context: Any) -> bytes:
            return await self.create_certificate(data, context, chosen)

        # Messages stay bytes up to here: gRPC's own decoding would answer a broken one with an internal error.
        method = grpc.unary_unary_rpc_method_handler(answer)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def create_certificate(
        self, data: bytes, context: Any, authenticators: Sequence[Authenticator] | None = None
    ) -> bytes:
        """Answer one call. The status of a refusal is set by aborting the call, which raises."""
        self.counters.csr_count += 1
        try:
            caller = await authenticate(self._authenticators if authenticators is None else authenticators, context)
        except Unavailable as error:
            self.counters.authentication_failure_count += 1
            await self._refuse(context, None, grpc.StatusCode.UNAVAILABLE, str(error))
        except Refused as error:
            self.counters.authentication_failure_count += 1
            await self._refuse(context, None, grpc.StatusCode.UNAUTHENTICATED, str(error))
        try:
            issued, caller = await self._issue(data, context, caller)
        except BaseException:
            caller.give_back()  # whatever it was that ended it, nothing was issued
            raise
        self._record_issued(caller, issued, context)
        response = IstioCertificateResponse(cert_chain=[pem.decode("ascii") for pem in issued.pems])
        return response.SerializeToString()

    async def _issue(self, data: bytes, context: Any, caller: Caller) -> tuple[IssuedChain, Caller]:
        """Return the certificate and for whom it is: the caller, or whom it may stand for."""
        try:
            request = _parse_request(data)
        except BadInput as error:
            self.counters.csr_parsing_err_count += 1
            await self._refuse(context, caller, grpc.StatusCode.INVALID_ARGUMENT, _error("CSR_ERROR", error))
        # To ignore the wish would hand out another certificate than the one that was asked for.
        if IMPERSONATED in request.metadata:
            try:
                caller = self._stand_for(caller, request.metadata[IMPERSONATED])
            except Refused as error:
                self.counters.authentication_failure_count += 1
                await self._refuse(
                    context, caller, grpc.StatusCode.UNAUTHENTICATED, f"metadata.{IMPERSONATED}: {error}"
                )
        try:
            lifetime = choose_lifetime(request.validity_duration, self._lifetimes)
        except BadInput as error:
            self.counters.csr_sign_err_count += 1
            await self._refuse(context, caller, grpc.StatusCode.INVALID_ARGUMENT, _error("TTL_ERROR", error))
        try:
            async with self.turns.turn(str(caller.identity)):
                result = self._issuer.issue(request.csr.encode(), caller.identity, lifetime)
                # One in this process takes no time but its own; one elsewhere is waited for.
                issued = await result if isinstance(result, Awaitable) else result
        except BadInput as error:
            self.counters.csr_parsing_err_count += 1
            await self._refuse(context, caller, grpc.StatusCode.INVALID_ARGUMENT, _error("CSR_ERROR", error))
        except Busy as error:
            self.counters.csr_sign_err_count += 1
            await self._refuse(context, caller, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except LateenError as error:
            self.counters.csr_sign_err_count += 1
            await self._refuse(context, caller, grpc.StatusCode.INTERNAL, _error("CERT_GEN_ERROR", error))
        return issued, caller

    def _stand_for(self, caller: Caller, wanted: object) -> Caller:
        if self._impersonation is None or not isinstance(wanted, str):
            raise Refused("this caller may not ask for other identities than its own")
        return self._impersonation.stand_for(caller, wanted)

    def _record_issued(self, caller: Caller, issued: IssuedChain, context: Any) -> None:
        self.counters.success_cert_issuance_count += 1
        entry = AuditEntry(
            time=audit_time(self._clock()),
            event="issued",
            identity=str(caller.identity),
            source=caller.source,
            peer=peer_text(context),
            token=caller.token,
            serial=issued.serial,
            not_after=audit_time(issued.not_after),
        )
        self._log.info(
            "certificate issued",
            identity=entry.identity,
            source=entry.source,
            serial=entry.serial,
            not_after=entry.not_after,
        )
        self._append(entry)

    async def _refuse(self, context: Any, caller: Caller | None, code: grpc.StatusCode, reason: str) -> NoReturn:
        entry = AuditEntry(
            time=audit_time(self._clock()),
            event="refused",
            identity="" if caller is None else str(caller.identity),
            source="" if caller is None else caller.source,
            peer=peer_text(context),
            token="" if caller is None else caller.token,
            reason=reason,
        )
        self._log.warning(
            "certificate refused", code=code.name, identity=entry.identity, source=entry.source, reason=reason
        )
        self._append(entry)
        await context.abort(code, reason)
        raise AssertionError("abort has raised")

    def _append(self, entry: AuditEntry) -> None:
        if self._audit is not None:
            self._audit.append(entry)


def _parse_request(data: bytes) -> IstioCertificateRequest:
    if len(data) > MAX_REQUEST_BYTES:
        raise BadInput(f"request of {len(data)} bytes, at most {MAX_REQUEST_BYTES} wanted")
    try:
        return IstioCertificateRequest.FromString(data)
    except DecodeError as error:
        raise BadInput(f"no {IstioCertificateRequest.DESCRIPTOR.full_name}: {error}") from error


def _error(kind: str, error: LateenError) -> str:
    return f"CSR signing error ({kind}): {error}"  # the words before the colon are Istio's; its clients log them
