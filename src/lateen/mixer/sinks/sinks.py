"""All sinks: one queue for each URL and form, which rules share.

In:  rules. Out: their `ReportAdapter`s. `run` sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from lateen.fetch import Caller
from lateen.mixer.rules import CompiledRule
from lateen.mixer.sinks.forms import (
    JSON,
    PROTOBUF,
    event,
    join_json,
    otel_log,
    otel_span,
    pack_logs,
    pack_spans,
    zipkin_span,
)
from lateen.mixer.sinks.queue import Entry, SinkQueue

__all__ = ["SINKS", "Sinks"]

SINKS: Final = {
    "otelLog": (pack_logs, PROTOBUF),
    "otelSpan": (pack_spans, PROTOBUF),
    "zipkin": (join_json, JSON),
    "event": (join_json, JSON),
}
FLUSH_SECONDS: Final = 0.5
LAST_SECONDS: Final = 2.0  # for what waits at the end
Make = Callable[[Mapping[str, Any]], Entry | None]


@dataclass(frozen=True, slots=True)
class _Sink:
    """A report adapter of one rule."""

    queue: SinkQueue
    make: Make

    def put(self, values: Mapping[str, Any]) -> bool:
        entry = self.make(values)
        return True if entry is None else self.queue.put(entry)


class Sinks:
    """Queues by form and URL; `keep` forgets those that no rule has any more."""

    def __init__(self, caller: Caller, clock: Callable[[], float]) -> None:
        self._caller = caller
        self._clock = clock
        self._queues: dict[tuple[str, str], SinkQueue] = {}
        self._leaving: list[SinkQueue] = []
        self._used: dict[tuple[str, str], tuple[str, str]] = {}  # (rule, part) -> the queue's key

    def begin(self) -> None:
        """Rules are put in force anew."""
        self._used = {}

    def sink(self, rule: CompiledRule, part: str) -> _Sink:
        """Return the sink of one part of a rule's report."""
        report = rule.spec.report
        assert report is not None
        make: Make
        match part:
            case "otelLog":
                assert report.otel_log is not None
                url, make = report.otel_log.url, partial(otel_log, rule.name, report.otel_log.severity)
            case "otelSpan":
                assert report.otel_span is not None
                url, make = report.otel_span.url, partial(otel_span, rule.name)
            case "zipkin":
                assert report.zipkin is not None
                url, make = report.zipkin.url, partial(zipkin_span, rule.name)
            case _:
                assert report.event is not None
                url, make = report.event.url, partial(event, rule.name)
        key = (part, url)
        self._used[rule.name, part] = key
        queue = self._queues.get(key)
        if queue is None:
            pack, content_type = SINKS[part]
            queue = SinkQueue(self._caller, url, pack=pack, content_type=content_type, clock=self._clock)
            self._queues[key] = queue
        return _Sink(queue, make)

    def keep(self) -> None:
        """That was all: what other queues hold is sent, and they go."""
        used = set(self._used.values())
        self._leaving += [queue for key, queue in self._queues.items() if key not in used and len(queue)]
        self._queues = {key: queue for key, queue in self._queues.items() if key in used}

    def faults(self, rule: CompiledRule) -> Iterator[tuple[str, str]]:
        """Yield the parts of a rule that are not taken, and why."""
        for part in SINKS:
            key = self._used.get((rule.name, part))
            if key is not None and self._queues[key].fault:
                yield part, self._queues[key].fault

    def counts(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield form, URL without its query, what was sent, what was dropped."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for (part, _), queue in sorted(self._queues.items()):
            sent, dropped = sums.get((part, queue.shown), (0, 0))
            sums[part, queue.shown] = (sent + queue.sent, dropped + queue.dropped)
        yield from ((*key, *counts) for key, counts in sums.items())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._flush(), LAST_SECONDS)
        except TimeoutError:
            return

    async def _flush(self) -> None:
        queues = [*self._queues.values(), *self._leaving]
        # Each by itself: one that does not answer holds up no other.
        await asyncio.gather(*(queue.flush() for queue in queues if len(queue)))
        self._leaving = [queue for queue in self._leaving if len(queue)]
