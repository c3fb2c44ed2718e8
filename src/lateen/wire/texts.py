"""Texts that strangers wrote, before they reach a log or a terminal: nothing in them is a command to it."""

from __future__ import annotations

__all__ = ["tamed"]

MAX_TEXT = 8192  # characters; Envoy's longest words about a resource have some hundreds


def tamed(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` with a question mark for each character that is neither printable nor space, cut to `limit`."""
    cut = text[:limit]
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in cut)
