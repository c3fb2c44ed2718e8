"""Answers agents that ask for JWT-SVIDs (`lateen.wire.jwt_request`): who calls decides who the token says.

In line, as the signing of certificates is: a token costs about 0.15 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NoReturn

import grpc
import msgspec
import structlog

from lateen.citadel.audit import AuditEntry, AuditLog, audit_time
from lateen.citadel.authenticate import Authenticator, Caller, authenticate
from lateen.citadel.authority import Clock, utc_now
from lateen.citadel.jwt_authority import JwtAuthority
from lateen.citadel.jwt_keys import MAX_LIFETIME
from lateen.errors import BadInput, Refused
from lateen.wire.jwt_request import METHOD, SERVICE, JwtAnswer, JwtRequest
from lateen.wire.peer import peer_text

__all__ = ["JwtService"]

MAX_REQUEST_BYTES: Final = 32 * 1024  # sixteen audiences of 512 bytes, escaped, fit

_decode = msgspec.json.Decoder(JwtRequest).decode


class JwtService:
    """Recognises the caller, has the token issued, leaves a trace of each decision."""

    def __init__(
        self,
        authority: JwtAuthority,
        authenticators: Sequence[Authenticator],
        *,
        audit: AuditLog | None = None,
        clock: Clock = utc_now,
        log: Any = None,
    ) -> None:
        self.issued_count = 0
        self.refused_count = 0
        self._authority = authority
        self._authenticators = tuple(authenticators)
        self._audit = audit
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what `server.add_generic_rpc_handlers` wants."""
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(self.issue)})

    async def issue(self, data: bytes, context: Any) -> bytes:
        """Answer one call. The status of a refusal is set by aborting the call, which raises."""
        try:
            caller = await authenticate(self._authenticators, context)
        except Refused as error:
            await self._refuse(context, None, grpc.StatusCode.UNAUTHENTICATED, str(error))
        try:
            request = _parse(data)
            issued = self._authority.issue(caller.identity, request.audience, _lifetime(request.lifetime_seconds))
        except BadInput as error:
            await self._refuse(context, caller, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Refused as error:
            await self._refuse(context, caller, grpc.StatusCode.PERMISSION_DENIED, str(error))
        self.issued_count += 1
        now = self._clock()
        entry = AuditEntry(
            time=audit_time(now),
            event="issued",
            kind="jwt",
            identity=str(caller.identity),
            source=caller.source,
            peer=peer_text(context),
            audience=" ".join(issued.audience),
            serial=issued.id,
            not_after=audit_time(issued.expires),
        )
        self._log.info("JWT-SVID issued", identity=entry.identity, source=entry.source, id=issued.id)
        self._append(entry)
        answer = JwtAnswer(
            spiffe_id=str(caller.identity),
            token=issued.token,
            issued=int(now.timestamp()),
            expires=int(issued.expires.timestamp()),
        )
        return msgspec.json.encode(answer)

    async def _refuse(self, context: Any, caller: Caller | None, code: grpc.StatusCode, reason: str) -> NoReturn:
        self.refused_count += 1
        entry = AuditEntry(
            time=audit_time(self._clock()),
            event="refused",
            kind="jwt",
            identity="" if caller is None else str(caller.identity),
            source="" if caller is None else caller.source,
            peer=peer_text(context),
            reason=reason,
        )
        self._log.warning("JWT-SVID refused", code=code.name, identity=entry.identity, reason=reason)
        self._append(entry)
        await context.abort(code, reason)
        raise AssertionError("abort has raised")

    def _append(self, entry: AuditEntry) -> None:
        if self._audit is not None:
            self._audit.append(entry)


def _parse(data: bytes) -> JwtRequest:
    if len(data) > MAX_REQUEST_BYTES:
        raise BadInput(f"request of {len(data)} bytes, at most {MAX_REQUEST_BYTES} wanted")
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise BadInput(f"no request for a JWT-SVID: {error}") from error


def _lifetime(seconds: int) -> timedelta | None:
    # Compared as numbers: an int64 of seconds does not fit into a timedelta.
    if not 0 <= seconds <= MAX_LIFETIME.total_seconds():
        raise BadInput(f"lifetime of {seconds} s, one second to {MAX_LIFETIME} wanted")
    return timedelta(seconds=seconds) if seconds else None
