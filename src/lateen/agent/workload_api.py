"""The SPIFFE Workload API for the application beside this agent: its own SVIDs, bundles, and the judging of tokens.

In:  calls on a Unix socket that `SPIFFE_ENDPOINT_SOCKET` names to the application.
Out: X.509-SVIDs with their keys and bundles, streaming; JWT-SVIDs; or a status:

    INVALID_ARGUMENT   no `workload.spiffe.io: true` on the call, no audience, a token that is not to be believed
    PERMISSION_DENIED  Citadel gives this workload no identity, or another one was asked for
    UNAVAILABLE        nobody who could sign answers now
    RESOURCE_EXHAUSTED too many calls are open

Rules: the SPIFFE Workload API and Workload Endpoint specifications. Who may call is decided before: at the door.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import msgspec

from lateen.agent.log import Log
from lateen.agent.on_demand import OnDemand
from lateen.agent.workload_messages import (
    HEADER,
    SERVICE,
    certificates_der,
    decode_jwt_svid_request,
    decode_validate_request,
    encode_bundles,
    encode_jwt_svid,
    encode_validated,
    encode_x509_svid,
    key_der,
)
from lateen.errors import BadInput, LateenError, Refused
from lateen.wire.jwk import VerifyingKey, parse_jwk
from lateen.wire.jwt_request import JwtAnswer
from lateen.wire.jwt_svid import check_audience, validate_jwt_svid
from lateen.wire.trust import TrustUpdate

__all__ = ["WorkloadApi"]

MAX_STREAMS: Final = 64  # of one workload
MAX_TOKENS: Final = 128  # that are kept for the next who asks

IssueJwt = Callable[[tuple[str, ...]], Awaitable[JwtAnswer]]


class WorkloadApi:
    """Answers the application. `handler` goes to a gRPC server; `trust` is set as the control plane tells it."""

    def __init__(
        self,
        svids: Callable[[Callable[[], None]], OnDemand],
        issue_jwt: IssueJwt,
        *,
        spiffe_id: str,
        trust_domain: str,
        log: Log,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`svids` makes what keeps the application's SVID; it is given what to call when there is another one."""
        self.calls = 0
        self._svid = svids(self._wake)
        self._issue_jwt = issue_jwt
        self._spiffe_id = spiffe_id
        self._trust_domain = trust_domain
        self._log = log
        self._now = now
        self._trust: TrustUpdate | None = None
        self._keys: dict[str, dict[str, VerifyingKey]] = {}
        self._tokens: dict[tuple[str, ...], JwtAnswer] = {}
        self._wakers: set[asyncio.Event] = set()
        self._closing = False

    def set_trust(self, update: TrustUpdate) -> None:
        """Give this bundle from now on, and judge tokens by it. A JWK set that cannot be read counts as none."""
        keys = {}
        for domain, document in update.jwt_keys:
            try:
                keys[domain] = _read_keys(document)
            except (BadInput, msgspec.DecodeError) as error:
                self._log.error("token keys not read", trust_domain=domain, reason=str(error))
        self._trust, self._keys = update, keys
        self._svid.expect(update.signing_path)
        self._wake()

    async def stop(self) -> None:
        """End every stream, and the renewal of the SVID."""
        self._closing = True
        self._wake()
        await self._svid.stop()

    def handler(self) -> Any:
        """Return what `server.add_generic_rpc_handlers` wants."""
        handlers = {
            "FetchX509SVID": grpc.unary_stream_rpc_method_handler(self._fetch_x509_svid),
            "FetchX509Bundles": grpc.unary_stream_rpc_method_handler(self._fetch_x509_bundles),
            "FetchJWTSVID": grpc.unary_unary_rpc_method_handler(self._fetch_jwt_svid),
            "FetchJWTBundles": grpc.unary_stream_rpc_method_handler(self._fetch_jwt_bundles),
            "ValidateJWTSVID": grpc.unary_unary_rpc_method_handler(self._validate_jwt_svid),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # ------------------------------------------------------------ streams

    async def _fetch_x509_svid(self, _: bytes, context: Any) -> None:
        await self._stream(context, self._x509_svid)

    async def _fetch_x509_bundles(self, _: bytes, context: Any) -> None:
        await self._stream(context, self._x509_bundles)

    async def _fetch_jwt_bundles(self, _: bytes, context: Any) -> None:
        await self._stream(context, self._jwt_bundles)

    async def _stream(self, context: Any, current: Callable[[], Awaitable[bytes | None]]) -> None:
        """Send what is now, and again when that is something else, until the client leaves."""
        await self._admit(context)
        if len(self._wakers) >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open already")
        sent: bytes | None = None
        with self._listening() as changed:
            while not self._closing:
                changed.clear()
                try:
                    message = await current()
                except BadInput as error:  # Citadel's word on the SVID; nothing is wrong with the caller's question
                    await self._fail(context, Refused(f"no identity issued: {error}"))
                except LateenError as error:
                    await self._fail(context, error)
                if message is not None and message != sent:
                    await context.write(message)
                    sent = message
                await changed.wait()

    async def _x509_svid(self) -> bytes | None:
        svid = await self._svid.get()
        roots = self._roots()
        own = roots.pop(self._trust_domain, None)
        return encode_x509_svid(
            spiffe_id=str(svid.spiffe_id),
            chain=certificates_der(svid.chain),
            key=key_der(svid.key),
            bundle=certificates_der(svid.roots) if own is None else own,
            federated=roots,
        )

    async def _x509_bundles(self) -> bytes | None:
        roots = self._roots()
        if not roots:  # the control plane has not told it yet; with the SVID come its roots
            svid = await self._svid.get()
            roots = self._roots() or {self._trust_domain: certificates_der(svid.roots)}
        return encode_bundles(2, roots)

    async def _jwt_bundles(self) -> bytes | None:
        if self._trust is None:
            return None
        return encode_bundles(1, {domain: document.encode() for domain, document in self._trust.jwt_keys})

    def _roots(self) -> dict[str, bytes]:
        """Return the roots of each trust domain, DER; nothing before they are known."""
        if self._trust is None:
            return {}
        bundle = self._trust.bundle
        return {domain: certificates_der(bundle.pem(domain)) for domain in bundle.roots}

    # ------------------------------------------------------------ tokens

    async def _fetch_jwt_svid(self, data: bytes, context: Any) -> bytes:
        await self._admit(context)
        try:
            request = decode_jwt_svid_request(data)
            audience = check_audience(request.audience)
            if request.spiffe_id not in ("", self._spiffe_id):
                raise Refused("no identity issued: this workload has another SPIFFE ID")
            answer = await self._token(audience)
        except LateenError as error:
            await self._fail(context, error)
        return encode_jwt_svid(answer.spiffe_id, answer.token)

    async def _token(self, audience: tuple[str, ...]) -> JwtAnswer:
        """Return a token that lives for at least half of its life more."""
        known = self._tokens.get(audience)
        now = self._now()
        if known is None or now >= (known.issued + known.expires) / 2:
            known = await self._issue_jwt(audience)
            self._tokens.pop(audience, None)
            if len(self._tokens) >= MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]  # the oldest
            self._tokens[audience] = known
        return known

    async def _validate_jwt_svid(self, data: bytes, context: Any) -> bytes:
        await self._admit(context)
        try:
            audience, token = decode_validate_request(data)
            svid = validate_jwt_svid(token, audience, self._keys, self._now())
            return encode_validated(svid.spiffe_id, svid.claims)
        except LateenError as error:  # whatever is wrong, the caller's argument is
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError("abort has raised") from error

    # ------------------------------------------------------------ all calls

    async def _admit(self, context: Any) -> None:
        self.calls += 1
        name, value = HEADER
        if (name, value) not in tuple((key, found) for key, found in context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"security header missing: {name}: {value}")

    async def _fail(self, context: Any, error: LateenError) -> NoReturn:
        code = grpc.StatusCode.UNAVAILABLE
        if isinstance(error, Refused):
            code = grpc.StatusCode.PERMISSION_DENIED
        elif isinstance(error, BadInput):
            code = grpc.StatusCode.INVALID_ARGUMENT
        self._log.warning("workload api call failed", code=code.name, reason=str(error))
        await context.abort(code, str(error))
        raise AssertionError("abort has raised")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            yield waker
        finally:
            self._wakers.discard(waker)

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()


def _read_keys(document: str) -> dict[str, VerifyingKey]:
    keys: list[Mapping[str, Any]] = msgspec.json.decode(document, type=dict[str, Any]).get("keys", [])
    return {str(jwk.get("kid")): parse_jwk(jwk) for jwk in keys}
