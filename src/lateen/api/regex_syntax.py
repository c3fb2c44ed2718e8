"""Is a text a regular expression that RE2 takes? Told by its syntax alone, in one pass; nothing is compiled or matched.

Python's `re` knows another language and may take for ever on what users send, so it never sees their patterns. Rules:
RE2's syntax page, its Perl mode (what Envoy uses). What only RE2 can tell, whether the compiled program fits its
memory, is left to Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["REGEX_LENGTH", "regex_fault"]

REGEX_LENGTH: Final = 1024  # Istio's limit, in characters
REPEAT_LIMIT: Final = 1000  # RE2's, also of what nested repeats multiply to
DEPTH_LIMIT: Final = 1000  # RE2's, of groups in groups

_REPEAT: Final = re.compile(r"\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}")
_NAMED: Final = re.compile(r"\?P?<(\w+)>")
_FLAGS: Final = re.compile(r"\?(?:[imsU]+(?:-[imsU]+)?|-[imsU]+)?([:)])")
_POSIX_CLASS: Final = re.compile(
    r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_HEX: Final = re.compile(r"[0-9A-Fa-f]{2}|\{[0-9A-Fa-f]+\}")
_UNICODE_CLASS: Final = re.compile(r"[A-Z]|\{\^?[A-Za-z_]+\}")
_MAX_CODE: Final = 0xFF  # Envoy runs RE2 on bytes; a letter beyond is written as it is
_SINGLE: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_CLASSES: Final = frozenset("dDsSwW")  # also inside brackets
_OUTSIDE: Final = frozenset("bBAzC")  # positions, and \C
_GROUPS_NOT_IN_RE2: Final = {
    "?=": "look-ahead",
    "?!": "look-ahead",
    "?<=": "look-behind",
    "?<!": "look-behind",
    "?>": "atomic groups",
    "?#": "comments",
    "?(": "conditionals",
    "?P=": "back references",
}


class _Fault(Exception):
    """Why a text is no RE2 expression."""


@dataclass(slots=True)
class _Group:
    """What was read of a group that is still open."""

    repeats: int = 1  # the most that repeats inside multiply to
    last: int | None = None  # likewise of the last element; None: there is nothing that could be repeated
    repeated: bool = False  # the last element has its repeat already


def regex_fault(text: str) -> str | None:
    """Return what keeps `text` from being an RE2 expression of at most 1024 characters, None when nothing does."""
    if not text:
        return "must be a regular expression, got empty text"
    if len(text) > REGEX_LENGTH:
        return f"must be a regular expression of at most {REGEX_LENGTH} characters, got {len(text)}"
    try:
        _scan(text)
    except _Fault as fault:
        return f'must be a regular expression (RE2): {fault}, got "{text if len(text) <= 80 else text[:77] + "..."}"'
    return None


def _scan(text: str) -> None:
    groups = [_Group()]
    names: set[str] = set()
    at = 0
    while at < len(text):
        char = text[at]
        group = groups[-1]
        if char == "(":
            at, opens = _open_group(text, at + 1, names)
            if opens:
                groups.append(_Group())
            if len(groups) > DEPTH_LIMIT:
                raise _Fault(f"has more than {DEPTH_LIMIT} groups in each other")
            continue
        if char == ")":
            if len(groups) == 1:
                raise _Fault(f'has a ")" without "(" at {at}')
            groups.pop()
            _add(groups[-1], group.repeats)
            at += 1
        elif char == "|":
            group.last, group.repeated = None, False
            at += 1
        elif char in "*+?" or (char == "{" and _REPEAT.match(text, at)):
            at = _repeat(text, at, group)
        elif char == "[":
            at = _bracket(text, at + 1)
            _add(group, 1)
        elif text.startswith(r"\Q", at):
            end = text.find(r"\E", at + 2)
            end = len(text) if end < 0 else end
            if end > at + 2:
                _add(group, 1)
            at = min(end + 2, len(text))
        elif char == "\\":
            at, _ = _escape(text, at + 1, outside=True)
            _add(group, 1)
        else:
            _add(group, 1)
            at += 1
    if len(groups) > 1:
        raise _Fault('has a "(" without ")"')


def _add(group: _Group, repeats: int) -> None:
    group.last, group.repeated = repeats, False
    group.repeats = max(group.repeats, repeats)


def _open_group(text: str, at: int, names: set[str]) -> tuple[int, bool]:
    """Return where a group's inside begins, and whether there is one: `(?i)` has none."""
    if not text.startswith("?", at):
        return at, True
    if named := _NAMED.match(text, at):
        if named[1] in names:
            raise _Fault(f'has two groups named "{named[1]}"')
        if not named[1].isascii():
            raise _Fault(f'has a group whose name is not ASCII, "{named[1]}"')
        names.add(named[1])
        return named.end(), True
    if flags := _FLAGS.match(text, at):
        return flags.end(), flags[1] == ":"
    for prefix, name in sorted(_GROUPS_NOT_IN_RE2.items(), key=lambda item: -len(item[0])):
        if text.startswith(prefix, at):
            raise _Fault(f"has {name} at {at - 1}, which RE2 has not")
    raise _Fault(f"has an unknown group at {at - 1}")


def _repeat(text: str, at: int, group: _Group) -> int:
    if group.last is None:
        raise _Fault(f'has nothing to repeat before "{text[at]}" at {at}')
    if group.repeated:
        raise _Fault(f"repeats a repeat at {at}")
    times = 1
    end = at + 1
    counted = _REPEAT.match(text, at)
    if counted is not None:
        low, high = counted[1][:6], (counted[3] or "")[:6]
        times = int(high or low)
        if int(low) > REPEAT_LIMIT or times > REPEAT_LIMIT or (high and int(high) < int(low)):
            raise _Fault(f"has a repeat at {at} that is not from 0 to {REPEAT_LIMIT} in rising order")
        end = counted.end()
    total = group.last * max(times, 1)
    if total > REPEAT_LIMIT:
        raise _Fault(f"has repeats in each other that make more than {REPEAT_LIMIT}")
    group.repeats = max(group.repeats, total)
    group.last, group.repeated = total, True
    return end + text.startswith("?", end)  # `?` after a repeat: as few as possible


def _bracket(text: str, at: int) -> int:
    """Read a class after its `[`; return where it ends."""
    start = at
    at += text.startswith("^", at)
    first = True
    while at < len(text):
        if text[at] == "]" and not first:
            return at + 1
        if text.startswith("[:", at) and text.find(":]", at) > 0:
            named = _POSIX_CLASS.match(text, at)
            if named is None:
                raise _Fault(f"has an unknown class at {at}")
            at, low = named.end(), None
        else:
            at, low = _member(text, at)
            if low is not None and text.startswith("-", at) and at + 1 < len(text) and text[at + 1] != "]":
                at, high = _member(text, at + 1)
                if high is None or high < low:
                    raise _Fault(f"has a range that does not rise at {at - 1}")
        first = False
    raise _Fault(f'has a "[" without "]" at {start - 1}')


def _member(text: str, at: int) -> tuple[int, int | None]:
    """Return where one member of a class ends, and which character it is; None for a class in the class."""
    if text[at] == "\\":
        return _escape(text, at + 1, outside=False)
    return at + 1, ord(text[at])


def _escape(text: str, at: int, *, outside: bool) -> tuple[int, int | None]:
    """Read what follows a backslash; return where it ends and the one character it stands for, if it is one."""
    if at >= len(text):
        raise _Fault("ends in a backslash")
    char = text[at]
    after = at + 1
    if char in _CLASSES or (outside and char in _OUTSIDE):
        return after, None
    if char in "pP":
        named = _UNICODE_CLASS.match(text, after)
        if named is None:
            raise _Fault(f"has an unknown class at {at - 1}")
        return named.end(), None
    if char in _SINGLE:
        return after, _SINGLE[char]
    if char == "x":
        code = _HEX.match(text, after)
        if code is None or int(code[0].strip("{}"), 16) > _MAX_CODE:
            raise _Fault(f"has a bad character code at {at - 1}")
        return code.end(), int(code[0].strip("{}"), 16)
    if char in "01234567" and (char == "0" or text[after : after + 1] in tuple("01234567")):
        end = after
        while end < min(len(text), at + 3) and text[end] in "01234567":
            end += 1
        if int(text[at:end], 8) > _MAX_CODE:
            raise _Fault(f"has a bad character code at {at - 1}")
        return end, int(text[at:end], 8)
    if char in "123456789":
        raise _Fault(f"has a back reference at {at - 1}, which RE2 has not")
    if char.isascii() and not char.isalnum():
        return after, ord(char)
    raise _Fault(f"has an unknown escape \\{char} at {at - 1}")
