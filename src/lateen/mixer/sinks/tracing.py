"""Which trace a request belongs to, by its headers: W3C's traceparent, or B3 in one header or in several. Pure.

In:  what the expression for it in `lateen.api.rule_reading` makes of them: the form and its text. What cannot be read
     is no trace, and the span begins one of its own: headers are whatever a client sent.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Place", "place_of"]

_W3C: Final = re.compile(r"w3c [0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_B3: Final = re.compile(r"b3 ([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-(0|1|d|true|false)(?:-[0-9a-f]{16})?)?\Z")
_NOT: Final = ("0", "false")


@dataclass(frozen=True, slots=True)
class Place:
    """Hexadecimal ids; `parent` is "" for a span that begins a trace."""

    trace: str
    parent: str
    span: str


def place_of(headers: object) -> Place | None:
    """Return the place of a request's span; None: somebody decided that this trace is not recorded."""
    text = headers.lower() if isinstance(headers, str) else ""
    span = os.urandom(8).hex()
    found = _W3C.match(text)
    if found is not None and set(found[1]) != {"0"} and set(found[2]) != {"0"}:
        return Place(found[1], found[2], span) if int(found[3], 16) & 1 else None
    found = _B3.match(text)
    if text.removeprefix("b3 ") in _NOT or (found is not None and found[3] in _NOT):
        return None
    if found is not None:
        return Place(found[1].zfill(32), found[2], span)
    return Place(os.urandom(16).hex(), "", span)
