"""The traces that were seen last, in bounded memory, and the order of the spans of one.

In:  spans as they come: late, twice, without parents. Out: whole traces. The oldest goes when there is no more room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lateen.observe.spans import Span, status_of

__all__ = ["Placed", "Summary", "TraceStore", "arrange", "summary"]

MAX_SPANS: Final = 20_000  # some 60 MB at the very most, of spans as large as they may be
MAX_SPANS_OF_TRACE: Final = 2_000
REQUEST_ID: Final = "guid:x-request-id"  # as Envoy tags its spans


@dataclass(frozen=True, slots=True)
class Placed:
    """A span in its trace; `last` for each level above and its own: whether a sibling follows there."""

    span: Span
    last: tuple[bool, ...]  # () for a root


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One trace in a list."""

    trace_id: str
    start_us: int
    duration_us: int
    spans: int
    services: tuple[str, ...]  # sorted
    service: str  # of the first span
    name: str
    status: str
    errors: int


class TraceStore:
    """Keeps the traces that began last."""

    def __init__(self, *, max_spans: int = MAX_SPANS, max_spans_of_trace: int = MAX_SPANS_OF_TRACE) -> None:
        self.received = 0
        self.dropped = 0  # of traces that have too many, and of the oldest traces
        self._max = max_spans
        self._max_of_trace = max_spans_of_trace
        self._held = 0
        self._traces: OrderedDict[str, dict[tuple[str, str], Span]] = OrderedDict()  # oldest first

    def add(self, spans: Iterable[Span]) -> None:
        """Take spans; one that comes again (same id, same kind) replaces itself."""
        for span in spans:
            self.received += 1
            trace = self._traces.setdefault(span.trace_id, {})
            key = (span.span_id, span.kind)
            if key not in trace:
                if len(trace) >= self._max_of_trace:
                    self.dropped += 1
                    continue
                self._held += 1
            trace[key] = span
            while self._held > self._max:
                _, oldest = self._traces.popitem(last=False)
                self._held -= len(oldest)
                self.dropped += len(oldest)

    def __len__(self) -> int:
        return len(self._traces)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        """Return the spans of a trace, () for one that is not there."""
        return tuple(self._traces.get(trace_id, {}).values())

    def named(self, beginning: str) -> list[str]:
        """Return the ids that begin like this, the newest first."""
        return [trace_id for trace_id in reversed(self._traces) if trace_id.startswith(beginning)]

    def of_request(self, request_id: str) -> list[str]:
        """Return the ids of traces with a span of this `x-request-id`, which access logs tell, the newest first."""
        return [
            trace_id
            for trace_id, trace in reversed(self._traces.items())
            if any(span.attributes.get(REQUEST_ID) == request_id for span in trace.values())
        ]

    def recent(self, limit: int, service: str = "") -> list[Summary]:
        """Return the newest traces first; with `service`, those in which it has a part."""
        found: list[Summary] = []
        for trace in reversed(self._traces.values()):
            if len(found) == limit:
                break
            one = summary(tuple(trace.values()))
            if not service or any(service in (name, name.partition(".")[0]) for name in one.services):
                found.append(one)
        return found


def summary(spans: Sequence[Span]) -> Summary:
    """Return what is told of a trace in a list; `spans` is not empty."""
    first = arrange(spans)[0].span
    start = min(span.start_us for span in spans)
    return Summary(
        trace_id=first.trace_id,
        start_us=start,
        duration_us=max(span.start_us + span.duration_us for span in spans) - start,
        spans=len(spans),
        services=tuple(sorted({span.service for span in spans if span.service})),
        service=first.service,
        name=first.name,
        status=status_of(first),
        errors=sum(span.error for span in spans),
    )


def arrange(spans: Sequence[Span]) -> list[Placed]:
    """Return the spans as a tree, depth first, siblings by their start; roots are those whose parent is not there.

    A server's span that has its client's id (Zipkin shares them) is below that. A ring of parents is cut.
    """
    clients = {span.span_id: span for span in spans if span.kind != "server"}
    ids: dict[str, Span] = {span.span_id: span for span in spans}  # children hang on the server's side where both are
    ids.update({span.span_id: span for span in spans if span.kind == "server"})
    below: dict[int, list[Span]] = {}
    roots: list[Span] = []
    for span in spans:
        client = clients.get(span.span_id) if span.kind == "server" else None
        parent = client if client is not None else ids.get(span.parent_id) if span.parent_id else None
        if parent is None or parent is span:
            roots.append(span)
        else:
            below.setdefault(id(parent), []).append(span)
    placed: list[Placed] = []
    seen: set[int] = set()

    def place(first: Span) -> None:
        # Without recursion: a chain of spans may be as long as a trace may be.
        stack: list[tuple[Span, tuple[bool, ...]]] = [(first, ())]
        while stack:
            span, levels = stack.pop()
            if id(span) in seen:
                continue
            seen.add(id(span))
            placed.append(Placed(span, levels))
            children = _by_start(below.get(id(span), []))
            final = len(children) - 1
            stack += [(child, (*levels, index == final)) for index, child in enumerate(children)][::-1]

    for root in _by_start(roots):
        place(root)
    # What hangs on itself, by way of others: each such ring from its first span on.
    for span in _by_start(list(spans)):
        place(span)
    return placed


def _by_start(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span.start_us, -span.duration_us, span.span_id))
