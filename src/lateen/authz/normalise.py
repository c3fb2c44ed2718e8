"""How a request is spelled before it is compared: one spelling for each path.

In:  the raw target of a request.
Out: the path that is compared and forwarded, without its query; `None` for what is no path and is answered with 400.
Rules: RFC 3986 section 6 and MeshConfig.pathNormalization. What a proxy refuses before any policy is asked (control
characters, bytes beyond ASCII, fragments, a zero byte however it is spelled) is refused here, too.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from lateen.authz.values import Policy

__all__ = ["Level", "Normalisation", "default_normalisation", "is_readable", "normalise_path", "split_target"]

Level = Literal["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]

_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")  # RFC 3986 2.3: never need encoding
_ENCODED: Final = frozenset('"<>^`{|}')  # may not stand in a path: RFC 3986 3.3
_HEADER: Final = "request.headers["
_PSEUDO: Final = frozenset({"host", ":authority", ":method", ":path", ":scheme"})
_DOTS: Final = re.compile(r"/(\.{1,2});[^/]*")  # with parameters, which Envoy does not see behind encoded ones
_HEX: Final = frozenset(string.hexdigits)
_ABSOLUTE: Final = re.compile(r"https?://(?:[^/?#@]*@)?([^/?#@]+)((?:/|$).*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What is done to a request before it is compared."""

    level: Level = "BASE"  # of paths
    underscores: bool = True  # headers with `_` in their names are taken; without, their requests are refused


def default_normalisation(policies: Iterable[Policy]) -> Normalisation:
    """Return what is done where MeshConfig says nothing: as much as the policies that apply need.

    Where one looks at paths these are spelled strictly, and where one looks at headers no other spelling of a name is
    let through, unless a policy names such a header.
    """
    known = tuple(policies)
    headers = {
        condition.key[len(_HEADER) : -1].lower()
        for policy in known
        for rule in policy.spec.rules
        for condition in rule.when
        if condition.key.startswith(_HEADER)
    }
    paths = any(
        entry.operation is not None and (entry.operation.paths or entry.operation.not_paths)
        for policy in known
        for rule in policy.spec.rules
        for entry in rule.to or ()
    )
    asking = any(policy.spec.action == "CUSTOM" for policy in known)  # what an authorizer looks at is not known
    named = headers - _PSEUDO
    return Normalisation(
        level="DECODE_AND_MERGE_SLASHES" if paths or asking or ":path" in headers else "BASE",
        underscores=not named or any("_" in name for name in named),
    )


def split_target(target: str, authority: str) -> tuple[str, str] | None:
    """Return (authority, path with query) of a request line's target, `None` for a malformed one.

    A target in absolute form names its host itself, and the `Host` header does not count (RFC 9112 3.2.2).
    """
    if target.startswith("/"):
        return authority, target
    if found := _ABSOLUTE.fullmatch(target):
        return found[1], found[2] or "/"
    return None


def normalise_path(path: str, how: Normalisation) -> str | None:
    """Return a path, which may have a query behind it, as it is compared; `None` when the request is refused for it."""
    if not path.startswith("/") or any(not "!" <= char <= "~" or char == "#" for char in path):
        return None
    plain, _, _ = path.partition("?")
    if how.level == "NONE":
        return plain
    if "%00" in plain:
        return None
    if how.level == "DECODE_AND_MERGE_SLASHES":
        plain = _without_escaped_slashes(plain)
    plain = _without_dots(_respelled(_DOTS.sub(r"/\1", plain)))
    if how.level in ("MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"):
        while "//" in plain and plain.strip("/"):
            plain = plain.replace("//", "/")
        if not plain.strip("/") and plain != "/":
            plain = "//"  # all that Envoy makes of slashes alone; policies take it for `/`
    return plain


def _without_escaped_slashes(path: str) -> str:
    for escaped, plain in (("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")):
        path = path.replace(escaped, plain)
    return path


def _respelled(path: str) -> str:
    """Return the path with what needs no encoding decoded, what needs it encoded, and a backslash as a slash."""
    found: list[str] = []
    at = 0
    while at < len(path):
        char, code = path[at], path[at + 1 : at + 3]
        if char == "%" and len(code) == 2 and set(code) <= _HEX:
            decoded = chr(int(code, 16))
            found.append(decoded if decoded in _UNRESERVED else path[at : at + 3])
            at += 3
            continue
        found.append("/" if char == "\\" else f"%{ord(char):02X}" if char in _ENCODED else char)
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


def is_readable(path: str, how: Normalisation) -> bool:
    """Return whether a normalised path is read in one way by all servers, as far as that is asked for.

    Some cut parameters off before they resolve dots, so that `/a/..;/b` is `/b` to them, and `/;/b` as well.
    """
    return how.level != "DECODE_AND_MERGE_SLASHES" or not re.search(r"/\.{0,2};", path)
