"""The local control service (`local.py` says what it says): JSON over gRPC, both ends.

Errors travel as a status and come back as the error they were. One table holds for both directions:

    BadInput     INVALID_ARGUMENT     also for messages that are no JSON of the method's struct
    Refused      PERMISSION_DENIED
    Unavailable  UNAVAILABLE
    Unsupported  FAILED_PRECONDITION
    LateenError  INTERNAL

gRPC itself reports with the same codes that nobody answers; so what the service reports carries `lateen-error` in its
trailing metadata, which tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, cast, overload

import grpc
import grpc.aio
import msgspec

from lateen.errors import BadInput, LateenError, Refused, Unavailable, Unsupported
from lateen.settings import Settings
from lateen.wire.access import AccessReport
from lateen.wire.join import JoinTokenCreated, JoinTokenList, JoinTokenName, JoinTokenRequest
from lateen.wire.local import (
    SERVICE,
    Goodbye,
    GroupInfo,
    GroupQuery,
    MetricsReport,
    ProxyReport,
    Query,
    Registered,
    Registration,
    StatusReport,
)

__all__ = [
    "CALL_SECONDS",
    "MAX_MESSAGE_BYTES",
    "Control",
    "ControlClient",
    "JoinControl",
    "Methods",
    "call_control",
    "call_service",
    "control_handlers",
    "join_handlers",
    "service_handlers",
]

CALL_SECONDS: Final = 5.0
MAX_MESSAGE_BYTES: Final = 256 * 1024  # of a request; a registration has about 1 kB
MAX_REPORT_BYTES: Final = 64 * 1024 * 1024  # of an answer: a report over ten thousand workloads fits
ERROR_METADATA: Final = "lateen-error"

# Characters of a status. gRPC may drop a call whose headers exceed 8 kB, and sends what is not plain as %XX a byte.
_MAX_DETAILS_ASCII, _MAX_DETAILS = 2000, 500

_STATUS: Final[Mapping[type[LateenError], grpc.StatusCode]] = {
    BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    Refused: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Unsupported: grpc.StatusCode.FAILED_PRECONDITION,
    LateenError: grpc.StatusCode.INTERNAL,
}
_ERRORS: Final = {kind.__name__: kind for kind in _STATUS}

# method -> the attribute that answers it, its request, its response
Methods = Mapping[str, tuple[str, type[msgspec.Struct], type[msgspec.Struct]]]
_METHODS: Final[Methods] = {
    "Register": ("register", Registration, Registered),
    "Deregister": ("deregister", Goodbye, Registered),
    "Status": ("status", Query, StatusReport),
    "ProxyStatus": ("proxy_status", Query, ProxyReport),
    "Group": ("group", GroupQuery, GroupInfo),
    "Metrics": ("metrics", Query, MetricsReport),
    "CreateJoinToken": ("create_join_token", JoinTokenRequest, JoinTokenCreated),
    "ListJoinTokens": ("list_join_tokens", JoinTokenName, JoinTokenList),
    "RevokeJoinToken": ("revoke_join_token", JoinTokenName, JoinTokenList),
    "Access": ("access", Query, AccessReport),
}


class Control(Protocol):
    """What answers. Any `LateenError` raised reaches the caller as such, with its message."""

    async def register(self, message: Registration, /) -> Registered: ...
    async def deregister(self, message: Goodbye, /) -> Registered: ...
    async def status(self, message: Query, /) -> StatusReport: ...
    async def proxy_status(self, message: Query, /) -> ProxyReport: ...
    async def group(self, message: GroupQuery, /) -> GroupInfo: ...
    async def metrics(self, message: Query, /) -> MetricsReport: ...
    async def access(self, message: Query, /) -> AccessReport: ...
    async def create_join_token(self, message: JoinTokenRequest, /) -> JoinTokenCreated: ...
    async def list_join_tokens(self, message: JoinTokenName, /) -> JoinTokenList: ...
    async def revoke_join_token(self, message: JoinTokenName, /) -> JoinTokenList: ...


class JoinControl(Protocol):
    """The part of it that an agent elsewhere may call."""

    async def register(self, message: Registration, /) -> Registered: ...
    async def deregister(self, message: Goodbye, /) -> Registered: ...
    async def group(self, message: GroupQuery, /) -> GroupInfo: ...


JOIN_METHODS: Final = frozenset({"Register", "Deregister", "Group"})


def control_handlers(impl: Control) -> grpc.GenericRpcHandler:
    """Return what `server.add_generic_rpc_handlers` wants, answering from `impl`."""
    return service_handlers(SERVICE, _METHODS, impl)


def join_handlers(for_caller: Callable[[Any], JoinControl]) -> grpc.GenericRpcHandler:
    """Return the same for agents elsewhere; `for_caller` says by a call's context who answers, or raises `Refused`."""
    return _handlers(SERVICE, {method: _METHODS[method] for method in JOIN_METHODS}, for_caller)


def service_handlers(service: str, methods: Methods, impl: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of another service that speaks the same way: JSON, errors as above."""
    return _handlers(service, methods, lambda _: impl)


def _handlers(service: str, methods: Methods, answering: Callable[[Any], Any]) -> grpc.GenericRpcHandler:
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(_handler(answering, *row[:2])) for method, row in methods.items()
    }
    return grpc.method_handlers_generic_handler(service, handlers)


class ControlClient:
    """Calls the service over a `grpc.aio` channel that its owner opens and closes.

    Every method raises what the service raised; `Unavailable` when nobody answers, or not in time; `Unsupported` when
    the other side is of a version that speaks otherwise.
    """

    def __init__(self, channel: Any, *, timeout: float = CALL_SECONDS, where: str = "its socket") -> None:
        self._channel = channel
        self._timeout = timeout
        self._where = where  # named in messages

    async def register(self, message: Registration) -> Registered:
        return cast(Registered, await self._call("Register", message))

    async def deregister(self, message: Goodbye) -> Registered:
        return cast(Registered, await self._call("Deregister", message))

    async def status(self, message: Query) -> StatusReport:
        return cast(StatusReport, await self._call("Status", message))

    async def proxy_status(self, message: Query) -> ProxyReport:
        return cast(ProxyReport, await self._call("ProxyStatus", message))

    async def group(self, message: GroupQuery) -> GroupInfo:
        return cast(GroupInfo, await self._call("Group", message))

    async def metrics(self, message: Query) -> MetricsReport:
        return cast(MetricsReport, await self._call("Metrics", message))

    async def _call(self, method: str, message: msgspec.Struct) -> msgspec.Struct:
        try:
            data = await self._channel.unary_unary(f"/{SERVICE}/{method}")(
                msgspec.json.encode(message), timeout=self._timeout
            )
        except grpc.aio.AioRpcError as error:
            raise _error_of(error, self._where, self._timeout) from error
        return _decode_answer(_METHODS, method, data)


@overload
def call_control(
    settings: Settings, method: Literal["Register"], message: Registration, timeout: float = ...
) -> Registered: ...
@overload
def call_control(
    settings: Settings, method: Literal["Deregister"], message: Goodbye, timeout: float = ...
) -> Registered: ...
@overload
def call_control(
    settings: Settings, method: Literal["Status"], message: Query, timeout: float = ...
) -> StatusReport: ...
@overload
def call_control(
    settings: Settings, method: Literal["ProxyStatus"], message: Query, timeout: float = ...
) -> ProxyReport: ...
@overload
def call_control(
    settings: Settings, method: Literal["Metrics"], message: Query, timeout: float = ...
) -> MetricsReport: ...
@overload
def call_control(
    settings: Settings, method: Literal["CreateJoinToken"], message: JoinTokenRequest, timeout: float = ...
) -> JoinTokenCreated: ...
@overload
def call_control(
    settings: Settings,
    method: Literal["ListJoinTokens", "RevokeJoinToken"],
    message: JoinTokenName,
    timeout: float = ...,
) -> JoinTokenList: ...
@overload
def call_control(
    settings: Settings, method: Literal["Access"], message: Query, timeout: float = ...
) -> AccessReport: ...
def call_control(
    settings: Settings, method: str, message: msgspec.Struct, timeout: float = CALL_SECONDS
) -> msgspec.Struct:
    """Make one call from a program without an event loop, as the CLI is. Raises as `ControlClient` does."""
    return cast(msgspec.Struct, call_service(settings, SERVICE, _METHODS, method, message, timeout))


def call_service(
    settings: Settings,
    service: str,
    methods: Methods,
    method: str,
    message: msgspec.Struct,
    timeout: float = CALL_SECONDS,
) -> Any:
    """Make one call to a service that speaks the same way; return the struct of its table."""
    path = str(settings.ca_socket)
    options = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", MAX_REPORT_BYTES))
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        try:
            data = channel.unary_unary(f"/{service}/{method}")(msgspec.json.encode(message), timeout=timeout)
        except grpc.RpcError as error:
            raise _error_of(error, path, timeout) from error
    return _decode_answer(methods, method, data)


def _handler(answering: Callable[[Any], Any], attribute: str, request: type[msgspec.Struct]) -> Any:
    # Messages stay bytes up to here: gRPC's own decoding would answer a broken one with an internal error.
    decoder = msgspec.json.Decoder(request)

    async def handle(data: bytes, context: Any) -> bytes:
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise BadInput(f"message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} wanted")
            answer = getattr(answering(context), attribute)
            return msgspec.json.encode(await answer(_decode(decoder, data)))
        except LateenError as error:
            kind = next(kind for kind in type(error).__mro__ if kind in _STATUS)
            details = _cut(str(error))
            await context.abort(_STATUS[kind], details, trailing_metadata=((ERROR_METADATA, kind.__name__),))
            raise AssertionError("abort has raised") from error

    return handle


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"no {decoder.type.__name__} in JSON: {error}") from error


def _decode_answer(methods: Methods, method: str, data: bytes) -> msgspec.Struct:
    try:
        return msgspec.json.decode(data, type=methods[method][2])
    except msgspec.DecodeError as error:
        raise Unsupported(
            f"control plane is of another version: its answer to {method} is not known: {error}"
        ) from error


def _error_of(error: Any, where: str, timeout: float) -> LateenError:
    """Return what to raise for a call that failed at the service, or on the way to it."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA:
            return _ERRORS.get(str(value), LateenError)(error.details())
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"no control plane answers at {where}: start one with 'lateen up DIR'")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(f"control plane at {where} did not answer within {timeout:g} s")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unsupported(f"control plane at {where} is of another version: {error.details()}")
        case code:
            return Unavailable(f"call to control plane at {where} failed: {code.name}: {error.details()}")


def _cut(text: str) -> str:
    most = _MAX_DETAILS_ASCII if text.isascii() else _MAX_DETAILS
    return text if len(text) <= most else text[:most] + "..."
