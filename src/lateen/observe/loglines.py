"""Log lines of many proxies as one log: when each was written, which are wanted, in what order.

In:  what log files hold, as bytes. Out: lines in the order of their times, those of one proxy in its own.
Rules: Istio's default format begins with `[START_TIME]`, its JSON has `start_time`; Envoy's own log begins with a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

__all__ = ["Line", "merge_lines", "moment_of", "printable", "whole_lines"]

_MOMENT: Final = re.compile(
    r'^(?:\[?|\{.*?"start_time"\s*:\s*"|.*?\[)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)?'
)
LOOKED_AT: Final = 4096  # characters of a line in which its time is


@dataclass(frozen=True, slots=True)
class Line:
    workload: str
    moment: float  # seconds since 1970; of the line before where it says none itself, 0.0 where there is none
    text: str


def moment_of(text: str) -> float | None:
    """Return when a line says that its request began, as seconds since 1970; None for one that says nothing."""
    found = _MOMENT.match(text[:LOOKED_AT])
    if found is None:
        return None
    zone = (found[3] or "Z").replace("Z", "+00:00")
    try:
        moment = datetime.fromisoformat(f"{found[1]}{zone}")
    except ValueError:
        return None
    return moment.astimezone(UTC).timestamp() + float(found[2] or 0)


def whole_lines(workload: str, data: bytes, *, moment: float = 0.0) -> tuple[list[Line], bytes]:
    """Return the lines that have ended, and the beginning of one that has not. `moment` is that of the line before."""
    *ended, rest = data.split(b"\n")
    lines = []
    for raw in ended:
        text = raw.decode(errors="replace").rstrip("\r")
        said = moment_of(text)
        moment = moment if said is None else said
        lines.append(Line(workload, moment, text))
    return lines, rest


def merge_lines(of: Mapping[str, Iterable[Line]], *, since: float = 0.0, last: int | None = None) -> list[Line]:
    """Return the lines of all, by time, from `since` on; of those the `last` ones. Lines of one workload stay in order.

    A line is written when its request has ended, and says when that began; so a line does not come before one that
    was written before it by the same proxy.
    """
    keyed: list[tuple[float, str, int, Line]] = []
    for workload, lines in of.items():
        latest = 0.0
        for index, line in enumerate(lines):
            latest = max(latest, line.moment)
            if line.moment >= since:
                keyed.append((latest, workload, index, line))
    keyed.sort(key=lambda item: item[:3])
    found = [item[3] for item in keyed]
    return found if last is None else found[len(found) - min(last, len(found)) :]


def printable(text: str) -> str:
    """Return a line that commands no terminal: clients write parts of it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)
