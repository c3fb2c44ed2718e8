"""All open streams: a change of shared content goes in, responses to just the streams that hold it come out.

The hub runs on one event loop and never waits: responses go to each stream's own `send`, which must not wait either.
At most one response a type is in flight in a stream, so what a slow proxy has coming is bounded by the number of types.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from lateen.pilot.xds.content import Library
from lateen.pilot.xds.source import Delta, NodeInfo, Proxy, ProxySource
from lateen.pilot.xds.state import Verdict
from lateen.pilot.xds.stats import Stats
from lateen.pilot.xds.stream import Stream, StreamLimits, empty_response
from lateen.pilot.xds.type_urls import short_name

__all__ = ["Hub", "Outlet"]

_TURN_SECONDS: Final = 0.02  # of sending before requests are heard again; about 600 streams that get one resource

log = structlog.get_logger()


class Outlet(Protocol):
    """Where the hub puts what one stream is sent. No method waits."""

    def send(self, data: bytes) -> None: ...

    def fail(self, reason: str) -> None:
        """End the stream: the hub could not go on with it."""

    def refuse(self, reason: str) -> None:
        """End the stream: its proxy may have nothing any more."""


@dataclass(slots=True)
class _Open:
    stream: Stream
    outlet: Outlet


class Hub:
    """Implements `source.Listener`."""

    def __init__(
        self,
        source: ProxySource,
        *,
        limits: StreamLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        call_at: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """`call_at(when, callback)` has the hub called back at a time of `clock`.

        Without it the owner calls `tick` when a wait may have ended, and a change is sent to all streams in one go.
        """
        self.stats: Final = Stats()
        self._source = source
        self._limits = limits or StreamLimits()
        self._clock = clock
        self._call_at = call_at
        self._library = Library()
        self._open: dict[Stream, _Open] = {}
        self._by_proxy: dict[int, dict[Stream, None]] = {}
        self._waiting: dict[Stream, float] = {}
        self._due: dict[Stream, None] = {}  # to be sent what changed, in this order
        self._going_on = False  # a call that sends to the rest of them is on its way
        self._tick_at: float | None = None

    @property
    def streams(self) -> Iterable[Stream]:
        """Open streams, oldest first."""
        return self._open.keys()

    def open(self, *, proxy: Proxy, node: NodeInfo, sotw: bool, outlet: Outlet) -> Stream:
        stream = Stream(library=self._library, proxy=proxy, node=node, sotw=sotw, limits=self._limits)
        self._open[stream] = _Open(stream, outlet)
        self._by_proxy.setdefault(id(proxy), {})[stream] = None
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream and all that only it held."""
        if self._open.pop(stream, None) is None:
            return
        self._waiting.pop(stream, None)
        self._due.pop(stream, None)
        same = self._by_proxy[id(stream.proxy)]
        del same[stream]
        if not same:
            del self._by_proxy[id(stream.proxy)]
        stream.close()

    def receive(self, stream: Stream, request: Any) -> None:
        """Take one request and send what it leads to. Raises `BadInput` when it asks for too much."""
        if stream not in self._open:
            return  # refused, and what it still asks for comes too late
        type_url: str = request.type_url
        if not stream.serves(type_url):
            if not request.response_nonce:
                self._open[stream].outlet.send(empty_response(type_url, sotw=stream.sotw))
            return
        outcome = stream.receive(request)
        stats = self.stats.of(type_url)
        if outcome.verdict is Verdict.ACK:
            stats.acks += 1
        elif outcome.verdict is Verdict.NACK:
            stats.nacks += 1
            self._refused(stream, type_url, outcome.rejected, outcome.error)
        elif outcome.verdict is Verdict.STALE:
            stats.stale += 1
        if outcome.recovered:
            self._source.accepted(stream.proxy, type_url, outcome.recovered)
        self._flush(stream)

    def on_batch(self, deltas: Sequence[Delta]) -> None:
        for change in self._library.apply(deltas):
            type_url = change.cohort.type_url
            for stream in list(change.cohort.streams):
                recovered = stream.change(change)
                if recovered:
                    self._source.accepted(stream.proxy, type_url, recovered)
                self._due[stream] = None
        self._flush_due()

    def on_scope(self, proxy: Proxy) -> None:
        streams = list(self._by_proxy.get(id(proxy), ()))
        for stream in streams:
            for type_url, recovered in stream.rescope().items():
                self._source.accepted(proxy, type_url, recovered)
        self._due.update(dict.fromkeys(streams))
        self._flush_due()

    def on_refused(self, proxy: Proxy, reason: str) -> None:
        for stream in list(self._by_proxy.get(id(proxy), ())):
            self._open[stream].outlet.refuse(reason)
            self.close(stream)

    def tick(self) -> None:
        """Go on with streams whose wait has ended."""
        self._tick_at = None
        now = self._clock()
        self._due.update(dict.fromkeys(stream for stream, at in self._waiting.items() if at <= now))
        self._flush_due()
        if self._waiting:
            self._schedule(min(self._waiting.values()))

    def _flush_due(self) -> None:
        """Send to the streams that are due; after some time let others run, and go on then."""
        until = self._clock() + _TURN_SECONDS
        while self._due:
            if self._call_at is not None and (now := self._clock()) > until:
                if not self._going_on:
                    self._going_on = True
                    self._call_at(now, self._go_on)
                return
            stream = next(iter(self._due))
            del self._due[stream]
            try:
                self._flush(stream)
            except Exception:  # one stream's fault must not stop the others
                log.exception("xds stream failed", proxy=stream.proxy.name, node=stream.node.id)
                self._open[stream].outlet.fail("internal error")

    def _go_on(self) -> None:
        self._going_on = False
        self._flush_due()

    def _flush(self, stream: Stream) -> None:
        outlet = self._open[stream].outlet
        for response in stream.next_responses(self._clock()):
            stats = self.stats.of(response.type_url)
            stats.responses += 1
            stats.resources += response.resources
            stats.removed += response.removed
            stats.sent_bytes += len(response.data)
            outlet.send(response.data)
        if stream.wake_at is None:
            self._waiting.pop(stream, None)
        else:
            self._waiting[stream] = stream.wake_at
            self._schedule(stream.wake_at)

    def _schedule(self, when: float) -> None:
        if self._call_at is not None and (self._tick_at is None or when < self._tick_at):
            self._tick_at = when
            self._call_at(when, self.tick)

    def _refused(self, stream: Stream, type_url: str, names: tuple[str, ...], error: str) -> None:
        log.warning(
            "xds response rejected",
            proxy=stream.proxy.name,
            node=stream.node.id,
            type=short_name(type_url),
            resources=names or "being told apart",
            error=error,
        )
        if names:
            self._source.rejected(stream.proxy, type_url, names, error)
