r"""Does a text hold what an RE2 expression describes? In time that grows with both, whatever users write.

Python's `re` may take for ever on such patterns, so they are read here: each part of a pattern takes the places that a
match may have come to and returns those behind it. Texts are short (a proxy's version). Syntax: RE2's, as checked by
`lateen.api.regex_syntax`; a class of a Unicode script matches nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from lateen.api.regex_syntax import regex_fault

__all__ = ["regex_finds"]

TEXT_LENGTH: Final = 256  # what proxies say of themselves is untrusted; a version has a few characters

Places = frozenset[int]
Part = Callable[[str, Places], Places]
OneOf = Callable[[str], bool]  # is this character in the class?

_COUNT: Final = re.compile(r"\{(\d+)(,(\d*))?\}")
_FLAGS: Final = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAMED: Final = re.compile(r"\?P?<\w+>")
_POSIX: Final = re.compile(r"\[:(\^?)(\w+):\]")
_UNICODE: Final = re.compile(r"([pP])(?:([A-Z])|\{(\^?)(\w+)\})")
_HEX: Final = re.compile(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})")
_OCTAL: Final = re.compile(r"[0-7]{1,3}")
_SINGLE: Final = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CLASSES: Final[dict[str, OneOf]] = {
    "d": lambda char: char in "0123456789",
    "s": lambda char: char in "\t\n\f\r ",
    "w": lambda char: char in _WORD,
}
_POSIX_CLASSES: Final[dict[str, OneOf]] = {
    "alnum": lambda char: char.isascii() and char.isalnum(),
    "alpha": lambda char: char.isascii() and char.isalpha(),
    "ascii": str.isascii,
    "blank": lambda char: char in "\t ",
    "cntrl": lambda char: char < " " or char == "\x7f",
    "digit": _CLASSES["d"],
    "graph": lambda char: "!" <= char <= "~",
    "lower": lambda char: "a" <= char <= "z",
    "print": lambda char: " " <= char <= "~",
    "punct": lambda char: "!" <= char <= "~" and not char.isalnum(),
    "space": lambda char: char in "\t\n\v\f\r ",
    "upper": lambda char: "A" <= char <= "Z",
    "word": _CLASSES["w"],
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}


def regex_finds(pattern: str, text: str) -> bool:
    """Tell whether `pattern` matches anywhere in `text`. One that is no RE2, or a text too long, matches nothing."""
    part = _compiled(pattern)
    if part is None or len(text) > TEXT_LENGTH:
        return False
    return bool(part(text, frozenset(range(len(text) + 1))))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Part | None:
    return None if regex_fault(pattern) is not None else _Reader(pattern).alternatives(frozenset())


class _Reader:
    """Reads one pattern that is known to be well-formed."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def alternatives(self, flags: frozenset[str]) -> Part:
        """Read up to the end of the group."""
        choices: list[list[Part]] = [[]]
        while self._at < len(self._text) and self._text[self._at] != ")":
            if self._take("|"):
                choices.append([])
                continue
            part, flags = self._element(flags)
            choices[-1].append(part)
        return _any_of([_sequence(parts) for parts in choices])

    def _element(self, flags: frozenset[str]) -> tuple[Part, frozenset[str]]:
        text = self._text
        if self._take("("):
            if found := _FLAGS.match(text, self._at):
                self._at = found.end()
                inner = (flags | set(found[1])) - set(found[2] or "")
                if found[3] == ")":
                    return _sequence([]), frozenset(inner)
            else:
                inner = flags
                if named := _NAMED.match(text, self._at):
                    self._at = named.end()
            part = self.alternatives(frozenset(inner))
            self._take(")")
            return self._repeated(part), flags
        if text.startswith(r"\Q", self._at):
            end = text.find(r"\E", self._at)
            end = len(text) if end < 0 else end
            letters = [_letter(char, flags) for char in text[self._at + 2 : end]]
            self._at = min(end + 2, len(text))
            if letters:
                letters[-1] = self._repeated(letters[-1])
            return _sequence(letters), flags
        return self._repeated(self._atom(flags)), flags

    def _atom(self, flags: frozenset[str]) -> Part:
        char = self._text[self._at]
        self._at += 1
        if char == ".":
            return _one(lambda other: "s" in flags or other != "\n")
        if char == "^":
            return _where(lambda text, at: at == 0 or ("m" in flags and text[at - 1] == "\n"))
        if char == "$":
            return _where(lambda text, at: at == len(text) or ("m" in flags and text[at] == "\n"))
        if char == "[":
            return _one(_folded(self._class(), flags))
        if char != "\\":
            return _letter(char, flags)
        after = self._text[self._at]
        position = {"A": _start, "z": _end, "b": _boundary, "B": lambda text, at: not _boundary(text, at)}.get(after)
        if position is not None:
            self._at += 1
            return _where(position)
        if after == "C":
            self._at += 1
            return _one(lambda other: True)
        return _one(_folded(self._escape(), flags))

    def _repeated(self, part: Part) -> Part:
        low, high = 1, 1
        most: int | None = high
        if self._take("*"):
            low, most = 0, None
        elif self._take("+"):
            low, most = 1, None
        elif self._take("?"):
            low, most = 0, 1
        elif found := _COUNT.match(self._text, self._at):
            self._at = found.end()
            low = int(found[1])
            most = low if found[2] is None else int(found[3]) if found[3] else None
        else:
            return part
        self._take("?")  # as few as possible: the same texts match
        return _times(part, low, most)

    def _class(self) -> OneOf:
        negated = self._take("^")
        members: list[OneOf] = []
        first = True
        while first or self._text[self._at] != "]":
            first = False
            if found := _POSIX.match(self._text, self._at):
                self._at = found.end()
                members.append(_maybe_not(_POSIX_CLASSES[found[2]], bool(found[1])))
                continue
            low = self._member()
            if isinstance(low, str):
                high: str | OneOf = low
                if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                    self._at += 1
                    high = self._member()
                members.append(_between(low, high if isinstance(high, str) else low))
            else:
                members.append(low)
        self._at += 1
        return _maybe_not(lambda char: any(member(char) for member in members), negated)

    def _member(self) -> str | OneOf:
        char = self._text[self._at]
        self._at += 1
        if char != "\\":
            return char
        escaped = self._single()
        return escaped if escaped is not None else self._escape()

    def _escape(self) -> OneOf:
        """Read what follows a backslash and stands for a character."""
        single = self._single()
        if single is not None:
            return _between(single, single)
        if found := _UNICODE.match(self._text, self._at):
            self._at = found.end()
            name = found[2] or found[4]
            return _maybe_not(
                lambda char: len(name) <= 2 and unicodedata.category(char).startswith(name),
                (found[1] == "P") != bool(found[3]),
            )
        char = self._text[self._at]
        self._at += 1
        return _maybe_not(_CLASSES[char.lower()], char.isupper())

    def _single(self) -> str | None:
        text, at = self._text, self._at
        char = text[at]
        if char in _SINGLE:
            self._at += 1
            return _SINGLE[char]
        if found := _HEX.match(text, at) or _OCTAL.match(text, at):
            self._at = found.end()
            digits = found[1] or found[2] if found.re is _HEX else found[0]
            return chr(int(digits, 16 if found.re is _HEX else 8))
        if not char.isalnum():
            self._at += 1
            return char
        return None

    def _take(self, char: str) -> bool:
        taken = self._text.startswith(char, self._at)
        self._at += taken
        return taken


def _sequence(parts: list[Part]) -> Part:
    def run(text: str, places: Places) -> Places:
        for part in parts:
            if not places:
                break
            places = part(text, places)
        return places

    return run


def _any_of(choices: list[Part]) -> Part:
    if len(choices) == 1:
        return choices[0]
    return lambda text, places: frozenset().union(*(choice(text, places) for choice in choices))


def _times(part: Part, low: int, most: int | None) -> Part:
    def run(text: str, places: Places) -> Places:
        for _ in range(low):
            places = part(text, places)
        seen, fresh, count = places, places, low
        while fresh and (most is None or count < most):
            fresh = part(text, fresh) - seen
            seen |= fresh
            count += 1
        return seen

    return run


def _one(member: OneOf) -> Part:
    return lambda text, places: frozenset(at + 1 for at in places if at < len(text) and member(text[at]))


def _where(holds: Callable[[str, int], bool]) -> Part:
    return lambda text, places: frozenset(at for at in places if holds(text, at))


def _letter(char: str, flags: frozenset[str]) -> Part:
    return _one(_folded(_between(char, char), flags))


def _folded(member: OneOf, flags: frozenset[str]) -> OneOf:
    if "i" not in flags:
        return member
    return lambda char: member(char.lower()) or member(char.upper())


def _between(low: str, high: str) -> OneOf:
    return lambda char: low <= char <= high


def _maybe_not(member: OneOf, negated: bool) -> OneOf:
    return (lambda char: not member(char)) if negated else member


def _start(text: str, at: int) -> bool:
    return at == 0


def _end(text: str, at: int) -> bool:
    return at == len(text)


def _boundary(text: str, at: int) -> bool:
    before = at > 0 and text[at - 1] in _WORD
    after = at < len(text) and text[at] in _WORD
    return before != after
