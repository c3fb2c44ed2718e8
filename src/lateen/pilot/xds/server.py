"""The gRPC side of xDS: `AggregatedDiscoveryService` v3, delta and state of the world.

In:  calls of grpc.aio, requests as bytes. Out: responses as bytes, already serialised by `stream`.
Each call has two tasks: one reads requests and hands them to the hub, one writes what the hub put into its outbox.
Everything received is untrusted: what is wrong ends its own stream, with a status that says why, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import DecodeError

from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.node import Trust, parse_identity, parse_node
from lateen.pilot.xds.report import proxy_info
from lateen.pilot.xds.source import Identity, NodeInfo, ProxySource
from lateen.pilot.xds.stats import Stats
from lateen.pilot.xds.stream import Stream, StreamLimits
from lateen.wire.local import ProxyInfo

__all__ = [
    "DELTA_METHOD",
    "GRPC_OPTIONS",
    "SERVICE",
    "SOTW_METHOD",
    "AdsServer",
    "ServerLimits",
    "connection_age",
]

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA_METHOD: Final = "DeltaAggregatedResources"
SOTW_METHOD: Final = "StreamAggregatedResources"

# For `grpc.aio.server(options=...)`. Half-open connections are found by pings and by the deadline of the handshake;
# 4 MiB hold a request that names 20,000 resources with their versions.
GRPC_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 1_000),  # of one connection
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)

LEAST_AGE: Final = timedelta(minutes=10)  # shorter would cost more than certificates of so short a life can lose
AGE_GRACE: Final = timedelta(minutes=1)  # for what is under way, once a client has been told


def connection_age(lifetime: timedelta) -> tuple[tuple[str, int], ...]:
    """Return the options of a server whose clients prove themselves by certificates of this lifetime.

    A certificate is looked at when a connection begins, and a stream may go on for ever: so connections end after half
    a lifetime, which a certificate that was just renewed outlives. Clients come back with what they hold, and are sent
    nothing again.
    """
    return tuple(
        (f"grpc.max_connection_age_{name}", int(age / timedelta(milliseconds=1)))
        for name, age in (("ms", max(lifetime / 2, LEAST_AGE)), ("grace_ms", AGE_GRACE))
    )


_STATUS: Final = {  # of what a stream is ended for
    BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    Refused: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_MAX_OUTBOX: Final = 64  # responses not yet taken by the transport: one a type, and empty ones for unknown types
_CLOSING: Final = "control plane is shutting down"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one client may take."""

    streams: int = 10_000  # open at once, over all ports
    names: int = 20_000  # in one request, and in one stream's subscription to one type
    name_bytes: int = 1_024
    first_request_seconds: float = 15.0  # to say who it is
    abort_seconds: float = 1.0  # to take what is being written, before its stream is ended
    response_bytes: int = 8 << 20  # a larger change goes as several responses (delta)


@dataclass(slots=True, eq=False)
class _Session:
    """One call: what it is to be sent, and how it ended. Implements `hub.Outlet`."""

    ended: asyncio.Future[tuple[grpc.StatusCode, str]]
    connected: datetime
    outbox: deque[bytes] = field(default_factory=deque)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    stream: Stream | None = None
    stopped: bool = False

    def stop(self) -> None:
        """Have nothing more written."""
        self.stopped = True
        self.outbox.clear()
        self.filled.set()

    def send(self, data: bytes) -> None:
        if len(self.outbox) >= _MAX_OUTBOX:
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {_MAX_OUTBOX} responses not read")
            return
        self.outbox.append(data)
        self.filled.set()

    def fail(self, reason: str) -> None:
        self.end(grpc.StatusCode.INTERNAL, reason)

    def refuse(self, reason: str) -> None:
        self.outbox.clear()
        self.end(grpc.StatusCode.PERMISSION_DENIED, reason)

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result((code, reason))


class AdsServer:
    """Serves what a `ProxySource` gives to whoever it accepts. Build it, add it to servers, `close` it before them."""

    def __init__(
        self,
        source: ProxySource,
        *,
        limits: ServerLimits | None = None,
        patience_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`patience_seconds` bounds how long make-before-break holds anything back from one proxy."""
        self._limits = limits or ServerLimits()
        self._source = source
        self._clock = clock
        self._now = now
        self._sessions: dict[_Session, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.hub: Final = Hub(
            source,
            limits=StreamLimits(
                patience_seconds=patience_seconds, response_bytes=self._limits.response_bytes, names=self._limits.names
            ),
            clock=clock,
            call_at=self._call_at,
        )
        source.subscribe(self.hub)

    @property
    def stats(self) -> Stats:
        return self.hub.stats

    def add_to_server(self, server: Any, *, trust: Trust, admit: Callable[[Any], None] = lambda _: None) -> None:
        """Serve on all ports of a `grpc.aio` server; `trust` says what proves an identity there.

        `admit` is asked about each stream's context before anything else, and raises `Refused`.
        """

        async def serve(context: Any, *, sotw: bool) -> None:
            try:
                admit(context)
            except Refused as fault:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(fault))
            await self._serve(context, trust, sotw=sotw)

        async def delta(_requests: Any, context: Any) -> None:
            await serve(context, sotw=False)

        async def sotw(_requests: Any, context: Any) -> None:
            await serve(context, sotw=True)

        # Without serialisers requests and responses are bytes.
        methods = {
            DELTA_METHOD: grpc.stream_stream_rpc_method_handler(delta),
            SOTW_METHOD: grpc.stream_stream_rpc_method_handler(sotw),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def status(self) -> tuple[ProxyInfo, ...]:
        """Return how far each connected proxy is, oldest stream first."""
        return tuple(
            proxy_info(session.stream, connected=session.connected.isoformat(timespec="seconds"))
            for session in self._sessions
            if session.stream is not None
        )

    async def close(self, *, grace_seconds: float = 5.0) -> None:
        """End all streams, so that the servers can be stopped; new ones are refused from now on.

        Returns when all have ended, at the latest after `grace_seconds`.
        """
        self._closing = True
        for session in self._sessions:
            session.end(grpc.StatusCode.UNAVAILABLE, _CLOSING)
        try:
            await asyncio.wait_for(self._idle.wait(), grace_seconds)
        except TimeoutError:
            log.warning("xds streams left at shutdown", streams=len(self._sessions))

    async def _serve(self, context: Any, trust: Trust, *, sotw: bool) -> None:
        if self._closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _CLOSING)
        if len(self._sessions) >= self._limits.streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{len(self._sessions)} streams are open already")
        session = _Session(asyncio.get_running_loop().create_future(), self._now())
        self._sessions[session] = None
        self._idle.clear()
        try:
            await self._run(context, trust, session, sotw=sotw)
        finally:
            del self._sessions[session]
            if not self._sessions:
                self._idle.set()
        if session.ended.done():
            await context.abort(*session.ended.result())

    async def _run(self, context: Any, trust: Trust, session: _Session, *, sotw: bool) -> None:
        """Serve one stream until either side ends it. Cancelled (the client has gone): cleans up all the same."""
        reader = asyncio.create_task(self._read(context, trust, session, sotw=sotw), name="xds read")
        writer = asyncio.create_task(_write(context, session), name="xds write")
        try:
            ends: list[asyncio.Future[Any]] = [reader, writer, session.ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            raise
        finally:
            if session.stream is not None:
                stream, session.stream = session.stream, None
                self.hub.close(stream)
                stream.proxy.close()
                log.info("xds stream closed", proxy=stream.proxy.name, node=stream.node.id)
            session.stop()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await self._finish_writing(context, writer)

    async def _finish_writing(self, context: Any, writer: asyncio.Task[None]) -> None:
        """Wait for the write that is under way: grpc.aio can send a status only after it, and leaks the call if not.

        A client that reads nothing keeps it waiting. Its call then ends when it goes, or with the server.
        """
        try:
            _, stuck = await asyncio.wait([writer], timeout=self._limits.abort_seconds)
            if stuck:
                log.warning("xds client takes no status", peer=context.peer())
                await asyncio.wait([writer])
        except asyncio.CancelledError:
            # Ends here: the call is over, and grpc.aio would print a traceback for a handler cancelled by its stop.
            writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    async def _read(self, context: Any, trust: Trust, session: _Session, *, sotw: bool) -> None:
        """Take requests until the client has no more; what is wrong with them ends the session."""
        message_type = DiscoveryRequest if sotw else DeltaDiscoveryRequest
        try:
            data = await asyncio.wait_for(context.read(), self._limits.first_request_seconds)
            while data is not grpc.aio.EOF:
                request = self._parse(message_type, data)
                if session.stream is None:
                    await self._open(context, trust, session, request, sotw=sotw)
                    if session.stream is None:
                        return
                self.hub.receive(session.stream, request)
                data = await context.read()
        except TimeoutError:
            seconds = self._limits.first_request_seconds
            session.end(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request within {seconds:g} seconds")
        except LateenError as fault:
            code = next((code for kind, code in _STATUS.items() if isinstance(fault, kind)), grpc.StatusCode.INTERNAL)
            log.warning("xds stream refused", peer=context.peer(), code=code.name, reason=str(fault))
            session.end(code, str(fault))
        except Exception:  # one stream's fault must not stop the others
            log.exception("xds stream failed", peer=context.peer())
            session.fail("internal error")

    def _parse(self, message_type: Any, data: bytes) -> Any:
        try:
            request = message_type.FromString(data)
        except DecodeError as fault:
            raise BadInput(f"request is not a {message_type.DESCRIPTOR.full_name}") from fault
        if len(request.type_url) > self._limits.name_bytes:
            raise BadInput(f"type URL of {len(request.type_url)} characters, at most {self._limits.name_bytes} wanted")
        if message_type is DiscoveryRequest:
            lists = [request.resource_names]
        else:
            lists = [
                request.resource_names_subscribe,
                request.resource_names_unsubscribe,
                request.initial_resource_versions,
            ]
        for names in lists:
            if len(names) > self._limits.names:
                raise BadInput(f"request with {len(names)} names, at most {self._limits.names} wanted")
            for name in names:
                if len(name) > self._limits.name_bytes:
                    raise BadInput(f"name of {len(name)} characters, at most {self._limits.name_bytes} wanted")
        return request

    async def _open(self, context: Any, trust: Trust, session: _Session, request: Any, *, sotw: bool) -> None:
        try:
            identity: Identity = parse_identity(context, trust)
        except Refused as fault:
            log.warning("xds stream refused", peer=context.peer(), code="UNAUTHENTICATED", reason=str(fault))
            session.end(grpc.StatusCode.UNAUTHENTICATED, str(fault))
            return
        node: NodeInfo = parse_node(request.node)
        proxy = self._source.connect(node, identity)
        try:
            await self._source.settled()
            self._source.check(proxy)
        except BaseException:
            proxy.close()
            raise
        session.stream = self.hub.open(proxy=proxy, node=node, sotw=sotw, outlet=session)
        log.info("xds stream opened", proxy=proxy.name, node=node.id, version=node.user_agent_version, sotw=sotw)

    def _call_at(self, when: float, callback: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(max(0.0, when - self._clock()), callback)


async def _write(context: Any, session: _Session) -> None:
    """Write what comes into the outbox, until the session is stopped or the client has gone."""
    while not session.stopped:
        while session.outbox:
            await context.write(session.outbox.popleft())
        session.filled.clear()
        if not session.stopped:
            await session.filled.wait()
