"""Who calls whom, drawn: as text, for Graphviz, for programs, or as a picture that needs nothing else.

In:  the edges of a mesh. Out: one text. Columns of the picture are how far a workload is from those that nobody calls.
Names are workloads' and come from metrics, which clients can shape: each form quotes them by its own rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from lateen.observe.edges import Edge

__all__ = ["columns_of", "edge_data", "to_dot", "to_svg", "to_text"]

GOOD: Final = 0.999  # success ratio from which on an edge is green
POOR: Final = 0.95  # and yellow
BOX_WIDTH: Final = 170  # of the picture, in pixels
BOX_HEIGHT: Final = 34
GAP_X: Final = 110
GAP_Y: Final = 26
MARGIN: Final = 24
_COLOURS: Final = {"good": "#2e7d32", "poor": "#b26a00", "bad": "#c62828"}


@dataclass(frozen=True, slots=True)
class _Place:
    x: float
    y: float


def to_text(edges: Sequence[Edge]) -> str:
    """Return a tree for each workload that nobody calls; what was shown already is not shown again."""
    if not edges:
        return "no traffic was seen\n"
    below: dict[str, list[Edge]] = {}
    for edge in edges:
        below.setdefault(edge.source, []).append(edge)
    columns = columns_of(edges)
    lines: list[str] = []
    shown: set[str] = set()
    for root in columns:
        if root not in shown and (columns[root] == 0 or below.get(root)):
            lines.append(root)
            _branch(root, "", below, shown, lines)
    return "\n".join(lines) + "\n"


def _branch(name: str, indent: str, below: Mapping[str, list[Edge]], shown: set[str], lines: list[str]) -> None:
    shown.add(name)
    edges = below.get(name, [])
    for position, edge in enumerate(edges):
        last = position == len(edges) - 1
        again = edge.destination in shown and bool(below.get(edge.destination))
        lines.append(f"{indent}{'└─ ' if last else '├─ '}{edge.destination}  {_words(edge)}{' ...' if again else ''}")
        if not again:
            _branch(edge.destination, indent + ("   " if last else "│  "), below, shown, lines)


def to_dot(edges: Sequence[Edge]) -> str:
    """Return the graph in Graphviz' language."""
    lines = ["digraph mesh {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    lines += [f"  {_quoted(name)};" for name in columns_of(edges)]
    lines += [
        f"  {_quoted(edge.source)} -> {_quoted(edge.destination)} "
        f"[label={_quoted(_words(edge))}, color={_quoted(_colour(edge))}"
        f"{', style=dashed' if edge.mutual_tls is False else ''}];"
        for edge in edges
    ]
    return "\n".join([*lines, "}"]) + "\n"


def edge_data(edges: Iterable[Edge]) -> list[dict[str, Any]]:
    """Return the edges as programs read them."""
    return [
        {
            "source": edge.source,
            "destination": edge.destination,
            "protocol": edge.protocol,
            "requests": edge.requests,
            "requestsPerSecond": round(edge.requests_per_second, 3),
            "successRatio": round(edge.success_ratio, 6),
            "refused": edge.refused,
            "p50Milliseconds": edge.p50_ms,
            "p90Milliseconds": edge.p90_ms,
            "p99Milliseconds": edge.p99_ms,
            "bytesPerSecond": round(edge.bytes_per_second, 3),
            "mutualTls": edge.mutual_tls,
        }
        for edge in edges
    ]


def to_svg(edges: Sequence[Edge]) -> str:
    """Return the picture as SVG: boxes in columns, an arrow an edge, red where requests fail, dashed for plain text."""
    columns = columns_of(edges)
    places = _places(columns)
    width = max((place.x for place in places.values()), default=0) + BOX_WIDTH + MARGIN
    height = max((place.y for place in places.values()), default=0) + BOX_HEIGHT + 2 * GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
            for name, colour in _COLOURS.items()
        ),
        "</defs>",
        *(_arrow(edge, places) for edge in edges),
        *(_box(name, place) for name, place in places.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def columns_of(edges: Iterable[Edge]) -> dict[str, int]:
    """Return each workload's column, by column and name: the longest way to it from one that nobody calls.

    Of a ring, the edge that closes it (seen from the first by name) does not count.
    """
    below: dict[str, set[str]] = {}
    called: set[str] = set()
    for edge in edges:
        below.setdefault(edge.source, set()).add(edge.destination)
        below.setdefault(edge.destination, set())
        called.add(edge.destination)
    order: list[str] = []  # each after all that it calls, but for edges that close a ring
    state: dict[str, str] = {}
    closing: set[tuple[str, str]] = set()
    for first in [*sorted(below.keys() - called), *sorted(called)]:
        stack = [(first, iter(sorted(below[first])))] if first not in state else []
        while stack:
            name, callees = stack[-1]
            state[name] = "open"
            following = next(callees, None)
            if following is None:
                state[name] = "done"
                order.append(name)
                stack.pop()
            elif state.get(following) == "open":
                closing.add((name, following))
            elif following not in state:
                stack.append((following, iter(sorted(below[following]))))
    columns = dict.fromkeys(below, 0)
    for name in reversed(order):
        for callee in below[name]:
            if (name, callee) not in closing:
                columns[callee] = max(columns[callee], columns[name] + 1)
    return dict(sorted(columns.items(), key=lambda item: (item[1], item[0])))


def _places(columns: Mapping[str, int]) -> dict[str, _Place]:
    rows: dict[int, int] = {}
    members = Counter(columns.values())
    most = max(members.values(), default=0)
    places: dict[str, _Place] = {}
    for name, column in columns.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        # Columns are centred on the fullest one.
        empty = (most - members[column]) / 2
        places[name] = _Place(MARGIN + column * (BOX_WIDTH + GAP_X), 2 * GAP_Y + (row + empty) * (BOX_HEIGHT + GAP_Y))
    return places


def _box(name: str, place: _Place) -> str:
    shown = name if len(name) <= 24 else f"{name[:23]}…"
    return (
        f'<g><title>{escape(name)}</title><rect x="{place.x:.0f}" y="{place.y:.0f}" width="{BOX_WIDTH}" '
        f'height="{BOX_HEIGHT}" rx="6" fill="#f5f7fa" stroke="#455a64"/>'
        f'<text x="{place.x + BOX_WIDTH / 2:.0f}" y="{place.y + BOX_HEIGHT / 2 + 4:.0f}" text-anchor="middle" '
        f'fill="#263238">{escape(shown)}</text></g>'
    )


def _arrow(edge: Edge, places: Mapping[str, _Place]) -> str:
    start, end = places[edge.source], places[edge.destination]
    y1, y2 = start.y + BOX_HEIGHT / 2, end.y + BOX_HEIGHT / 2
    if end.x > start.x:
        x1, x2 = start.x + BOX_WIDTH, end.x
        bend = (x2 - x1) / 2
        # What leaves columns out goes over their boxes, not through them.
        over = BOX_HEIGHT + GAP_Y if x2 - x1 > GAP_X else 0
        path = f"M{x1:.0f} {y1:.0f} C{x1 + bend:.0f} {y1 - over:.0f} {x2 - bend:.0f} {y2 - over:.0f} {x2:.0f} {y2:.0f}"
        x, y = (x1 + x2) / 2, (y1 + 2 * y2) / 3 - 4 - over * 0.75
        if over:
            y = (y1 + y2) / 2 - over * 0.75 - 4
    else:
        # Back, or to itself: around, below all boxes.
        x1, x2 = start.x + BOX_WIDTH / 2 - 12, end.x + BOX_WIDTH / 2 + 12
        low = max(place.y for place in places.values()) + BOX_HEIGHT + 2 * GAP_Y
        path = (
            f"M{x1:.0f} {start.y + BOX_HEIGHT:.0f} C{x1:.0f} {low:.0f} {x2:.0f} {low:.0f} "
            f"{x2:.0f} {end.y + BOX_HEIGHT:.0f}"
        )
        x, y = (x1 + x2) / 2, low - GAP_Y
    grade = _grade(edge)
    dashed = ' stroke-dasharray="5 4"' if edge.mutual_tls is False else ""
    return (
        f"<g><title>{escape(f'{edge.source} to {edge.destination}: {_words(edge)}')}</title>"
        f'<path d="{path}" fill="none" stroke={quoteattr(_COLOURS[grade])} stroke-width="1.6"{dashed} '
        f'marker-end="url(#{grade})"/>'
        f"{_label(_short(edge), x, y)}</g>"
    )


def _label(text: str, x: float, y: float) -> str:
    # Twice, the first one broad and white: so it can be read where lines cross it.
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="middle" font-size="10"'
    words = escape(text)
    return f'<text {place} stroke="#ffffff" stroke-width="3">{words}</text><text {place} fill="#455a64">{words}</text>'


def _words(edge: Edge) -> str:
    security = {True: "mTLS", False: "plain text", None: ""}[edge.mutual_tls]
    if edge.protocol == "tcp":
        parts = [f"{edge.requests:.0f} connections"]
    else:
        refused = f"{edge.refused:.0f} refused" if edge.refused else ""
        p99 = f"p99 {edge.p99_ms:.0f} ms" if edge.p99_ms is not None else ""
        parts = [f"{edge.requests:.0f} {edge.protocol} requests", f"{edge.success_ratio:.1%} ok", refused, p99]
    return ", ".join(part for part in (*parts, security) if part)


def _short(edge: Edge) -> str:
    if edge.protocol == "tcp":
        return f"{edge.requests:.0f} tcp"
    return f"{edge.requests:.0f}, {edge.success_ratio:.0%}"


def _grade(edge: Edge) -> str:
    return "good" if edge.success_ratio >= GOOD else "poor" if edge.success_ratio >= POOR else "bad"


def _colour(edge: Edge) -> str:
    return _COLOURS[_grade(edge)]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
