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
        self._waived: set[str] = set()
        self.writes = 0  # so far: what was known then is known now, while this stays

    def verdict(self, version: str) -> str | None:
        """Return "" for a content that Envoy takes, its words against one that it refuses, None for an unknown one."""
        return self._verdicts.get(version)

    def good(self) -> list[str]:
        """Return the contents that Envoy takes."""
        return [version for version, words in self._verdicts.items() if not words and version not in self._waived]

    def waive(self, version: str) -> None:
        """Note that a content is served without a verdict; it is not remembered as a good one."""
        self.write(version, "")
        self._waived.add(version)

    def write(self, version: str, words: str) -> None:
        self.writes += 1
        self._waived.discard(version)
        self._verdicts.pop(version, None)
        self._verdicts[version] = words
        if len(self._verdicts) > self._most:
            oldest = next(iter(self._verdicts))
            del self._verdicts[oldest]
            self._waived.discard(oldest)
