"""One text of a policy as a matcher of one text of a request.

`v` exact, `v*` prefix, `*v` suffix, `*` anything but nothing; a `*` anywhere else stands for itself. What cannot be
said without a regular expression is quoted to the last character and bounded: whatever a tenant writes means itself,
and the program that RE2 makes of it stays far below what Envoy takes.
"""

from __future__ import annotations

import re
from typing import Final

from envoy.type.matcher.v3.string_pb2 import StringMatcher

from lateen.pilot.translate.parts import regex

__all__ = ["TEXT_LIMIT", "expression", "quoted", "text_matcher"]

TEXT_LIMIT: Final = 1024  # bytes of UTF-8 in a regular expression: a few instructions of RE2 each, of 32768 allowed
_SPECIAL: Final = re.compile(rb"[^A-Za-z0-9_\x80-\xff]")

SOMETHING: Final = StringMatcher(safe_regex=regex("(?s).+"))


def text_matcher(pattern: str) -> StringMatcher:
    """Return the matcher for a text with `*` at an end."""
    if pattern == "*":
        return SOMETHING
    if pattern.startswith("*"):
        return StringMatcher(suffix=pattern[1:])
    if pattern.endswith("*"):
        return StringMatcher(prefix=pattern[:-1])
    return StringMatcher(exact=pattern)


def quoted(text: str) -> str | None:
    """Return a regular expression for exactly `text`; None for one that is too long to be one."""
    data = text.encode()
    if len(data) > TEXT_LIMIT:
        return None
    return _SPECIAL.sub(lambda found: b"\\x%02x" % found[0][0] if found[0][0] < 32 else b"\\" + found[0], data).decode()


def expression(*parts: str | None, ignore_case: bool = False) -> StringMatcher | None:
    """Return the matcher for a whole text that is these regular expressions in a row; None when one of them is.

    `.` is any character, a line's end too.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return StringMatcher(safe_regex=regex(f"(?{'is' if ignore_case else 's'}){''.join(known)}"))
