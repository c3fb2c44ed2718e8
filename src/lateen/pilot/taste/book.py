"""What is known of contents, by the hash of their bytes: no content is tasted twice."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_KNOWN", "Book"]

MAX_KNOWN: Final = 100_000  # contents, about 12 MB; the oldest are forgotten, and tasted again should they come back


class Book:
    """Verdicts by version. Words against a content stay as long as the good ones do."""

    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._most = most
        self._verdicts: dict[str, str] = {}

    def verdict(self, version: str) -> str | None:
        """Return "" for a content that Envoy takes, its words against one that it refuses, None for an unknown one."""
        return self._verdicts.get(version)

    def write(self, version: str, words: str) -> None:
        self._verdicts.pop(version, None)
        self._verdicts[version] = words
        if len(self._verdicts) > self._most:
            del self._verdicts[next(iter(self._verdicts))]
