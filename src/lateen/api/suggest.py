"""Guess what somebody meant, and show what they wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["listed", "nearest", "seen"]

SEEN_LENGTH: Final = 60  # of a value in a message
NEAR: Final = 0.6  # similarity from which on a name is worth a hint
NEAREST_INPUT_LENGTH: Final = 100  # longer names are no misspelling, and comparing costs their square


def nearest(word: str, known: Iterable[str], *, cutoff: float = NEAR) -> str | None:
    """Return the known name most like `word`, case aside; None when none is near."""
    if len(word) > NEAREST_INPUT_LENGTH:
        return None
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def seen(value: Any) -> str:
    """Return a value as a message shows it: what it is, and as much of it as fits."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{_cut(value)}"'
        case int() | float():
            return _cut(str(value))
        case dict():
            return f"a map ({_cut(', '.join(map(str, value)))})" if value else "an empty map"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return _cut(repr(value))


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    return ", ".join(names)


def _cut(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= SEEN_LENGTH else text[: SEEN_LENGTH - 3] + "..."
