"""One trace as text: its spans as a tree, when each began and how long it took, and a list of traces.

In:  spans, of which names are what proxies and applications say. Out: lines of a given width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from lateen.observe.spans import Span, status_of
from lateen.observe.traces import Placed, Summary, arrange, summary

__all__ = ["list_data", "list_text", "trace_data", "trace_text"]

MIN_BAR: Final = 10
MAX_NAME: Final = 48
MAX_SERVICE: Final = 40
MAX_LEVELS: Final = 12  # of the tree that are drawn; what is deeper is drawn no deeper
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def trace_text(spans: Sequence[Span], *, width: int = 120) -> str:
    """Return a trace as a waterfall: a line a span."""
    told = summary(spans)
    head = (
        f"trace {told.trace_id}  {_moment(told.start_us)}  {_duration(told.duration_us)}  "
        f"{_count(told.spans, 'span')}, {_count(len(told.services), 'service')}"
        + (f", {_count(told.errors, 'error')}" if told.errors else "")
    )
    rows = [_row(placed, told) for placed in arrange(spans)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    room = max(MIN_BAR, width - sum(widths) - 2 * len(widths))
    lines = [head, ""]
    for placed, row in zip(arrange(spans), rows, strict=True):
        texts = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        texts += [row[column].rjust(widths[column]) for column in (2, 3)]
        texts.append(row[4].ljust(widths[4]))
        lines.append("  ".join([*texts, _bar(placed.span, told, room)]).rstrip())
    return "\n".join(lines) + "\n"


def list_text(summaries: Iterable[Summary]) -> str:
    """Return traces as a table: a line a trace."""
    head = ("TRACE", "BEGAN", "TOOK", "SPANS", "STATUS", "SERVICES", "FIRST")
    rows = [head] + [
        (
            one.trace_id,
            _moment(one.start_us),
            _duration(one.duration_us),
            str(one.spans),
            (one.status or "-") + (f" ({_count(one.errors, 'error')})" if one.errors else ""),
            str(len(one.services)),
            _cut(" ".join(part for part in (one.service, _short(one.name)) if part), 60),
        )
        for one in summaries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = {2, 3, 5}
    return "".join(
        "  ".join(
            text.rjust(widths[column]) if column in right else text.ljust(widths[column])
            for column, text in enumerate(row)
        ).rstrip()
        + "\n"
        for row in rows
    )


def list_data(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """Return traces as programs read them."""
    return [
        {
            "traceId": one.trace_id,
            "start": _moment(one.start_us),
            "durationMicroseconds": one.duration_us,
            "spans": one.spans,
            "services": list(one.services),
            "service": one.service,
            "name": one.name,
            "status": one.status,
            "errors": one.errors,
        }
        for one in summaries
    ]


def trace_data(spans: Sequence[Span]) -> dict[str, Any]:
    """Return a trace as programs read it, spans in the order of the waterfall."""
    told = summary(spans)
    return {
        "traceId": told.trace_id,
        "start": _moment(told.start_us),
        "durationMicroseconds": told.duration_us,
        "services": list(told.services),
        "errors": told.errors,
        "spans": [
            {
                "spanId": span.span_id,
                "parentId": span.parent_id,
                "depth": len(placed.last),
                "service": span.service,
                "name": span.name,
                "kind": span.kind,
                "status": status_of(span),
                "error": span.error,
                "startMicroseconds": span.start_us - told.start_us,
                "durationMicroseconds": span.duration_us,
                "attributes": dict(span.attributes),
            }
            for placed in arrange(spans)
            for span in (placed.span,)
        ],
    }


def _row(placed: Placed, told: Summary) -> tuple[str, ...]:
    span = placed.span
    tree = "".join("   " if last else "│  " for last in placed.last[-MAX_LEVELS:-1])
    if placed.last:
        tree += "└─ " if placed.last[-1] else "├─ "
    name = f"{span.kind} {_short(span.name)}" if span.kind else _short(span.name)
    return (
        tree + _cut(span.service or "?", MAX_SERVICE),
        _cut(name, MAX_NAME),
        f"+{_duration(span.start_us - told.start_us)}",
        _duration(span.duration_us),
        (status_of(span) or "-") + (" !" if span.error else ""),
    )


def _bar(span: Span, told: Summary, room: int) -> str:
    whole = max(told.duration_us, 1)
    begins = min(room - 1, (span.start_us - told.start_us) * room // whole)
    eighths = max(1, min(span.duration_us * room * 8 // whole, (room - begins) * 8))
    full, rest = divmod(eighths, 8)
    return " " * begins + "█" * full + (_EIGHTHS[rest] if rest else "")


def _moment(microseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _duration(microseconds: int) -> str:
    if microseconds >= 1_000_000:
        return f"{microseconds / 1e6:.2f} s"
    return f"{microseconds / 1e3:.1f} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(name: str) -> str:
    # Envoy calls spans by whole hostnames, and what these have in common says nothing.
    return name.replace(".svc.cluster.local", "")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
