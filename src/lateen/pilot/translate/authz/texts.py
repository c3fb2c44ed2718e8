"""One text of a policy as a matcher of one text of a request.

`v` exact, `v*` prefix, `*v` suffix, `*` anything but nothing; a `*` anywhere else stands for itself. What cannot be
said without a regular expression is quoted to the last character: whatever a tenant writes means itself. Texts are no
longer than `POLICY_TEXT_BYTES`, so the program that RE2 makes of one stays far below what Envoy takes.
"""

from __future__ import annotations

import re
from typing import Final

from envoy.type.matcher.v3.string_pb2 import StringMatcher

from lateen.pilot.translate.parts import regex

__all__ = ["expression", "quoted", "text_matcher"]

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


def quoted(text: str) -> str:
    """Return a regular expression for exactly `text`."""
    return _SPECIAL.sub(_escaped, text.encode()).decode()


def _escaped(found: re.Match[bytes]) -> bytes:
    code = found[0][0]
    return b"\\x%02x" % code if code < 32 else b"\\" + found[0]


def expression(*parts: str, ignore_case: bool = False) -> StringMatcher:
    """Return the matcher for a whole text that is these regular expressions in a row.

    `.` is any character, a line's end too.
    """
    return StringMatcher(safe_regex=regex(f"(?{'is' if ignore_case else 's'}){''.join(parts)}"))
