"""How a request is spelled before it is compared: one spelling a path, one a host.

In:  the raw path or authority of a request.
Out: what is compared (and, of a path, forwarded), `None` for what is no path at all and answered with 400.
Rules: RFC 3986 section 6 and MeshConfig.pathNormalization.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Level", "Normalisation", "normalise_path"]

Level = Literal["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]

_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")  # RFC 3986 2.3: never need encoding
_HEX: Final = frozenset(string.hexdigits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What is done to a path before it is compared."""

    level: Level = "BASE"


def normalise_path(path: str, how: Normalisation) -> str | None:
    """Return the path as it is compared, its query cut off; `None` when the request is refused for it."""
    if "#" in path:
        return None
    plain, _, _ = path.partition("?")
    if not plain.startswith("/") and plain != "*":
        return None
    if how.level == "NONE" or plain == "*":
        return plain
    if how.level == "DECODE_AND_MERGE_SLASHES":
        plain = _without_escaped_slashes(plain)
    plain = _without_dots(_decoded(plain))
    if how.level in ("MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"):
        while "//" in plain:
            plain = plain.replace("//", "/")
    return plain


def _without_escaped_slashes(path: str) -> str:
    for escaped, plain in (("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")):
        path = path.replace(escaped, plain)
    return path


def _decoded(path: str) -> str:
    """Return the path with unreserved characters decoded, and a backslash as the slash that servers take it for."""
    found: list[str] = []
    at = 0
    while at < len(path):
        code = path[at + 1 : at + 3]
        if path[at] == "%" and len(code) == 2 and set(code) <= _HEX:
            char = chr(int(code, 16))
            found.append(char if char in _UNRESERVED else path[at : at + 3])
            at += 3
        else:
            found.append("/" if path[at] == "\\" else path[at])
            at += 1
    return "".join(found)


def _without_dots(path: str) -> str:
    """Return the path without `.` and `..` (RFC 3986 5.2.4); `..` at the root leads nowhere."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")  # what is left is a folder
    return "/" + "/".join(kept)
