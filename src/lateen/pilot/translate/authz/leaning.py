"""Which way a doubt goes.

A text of a policy sometimes does not say what to do with a request: a header that came twice, a value that no matcher
can hold. Whether a match then lets the request in or keeps it out decides what is safe, and that depends on the action
and on whether the text is in a `not...` list.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Leaning", "leaning_of"]


class Leaning(Enum):
    """What follows from a match."""

    GRANTS = "grants"  # it brings a request nearer to being let in: match only what is certain
    REFUSES = "refuses"  # it brings a request nearer to being kept out: match whatever may be meant

    @property
    def opposite(self) -> Leaning:
        """Return what holds inside of a negation."""
        return Leaning.REFUSES if self is Leaning.GRANTS else Leaning.GRANTS


def leaning_of(action: str) -> Leaning:
    """Return what a matching rule of this action leads to. To be asked about, or noted, counts as kept out."""
    return Leaning.GRANTS if action == "ALLOW" else Leaning.REFUSES
