"""The list of one rule: what it says itself, a file beside it, what a URL holds. What goes bad stays as it was.

In:  a `ListCheck`. Out: a `ValueList`, None as long as a part of it was never read; what is wrong, for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from lateen.api.mixer import ListCheck
from lateen.expr.lists import ListError, ValueList, build_list
from lateen.fetch import Fetcher, FetchError, Limits

__all__ = ["Listed"]

LONGEST: Final = 16 << 20  # bytes of a file, or of what a URL holds
FETCH: Final = Limits(seconds=10.0, max_bytes=LONGEST, redirects=3)


class Listed:
    """Use `look` and `fetch` from time to time."""

    def __init__(self, check: ListCheck, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.check = check
        self.folder = folder
        self.entries: ValueList | None = None
        self._clock = clock
        self._faults = {"file": "", "url": ""}
        self._of_file: list[str] | None = None if check.file else []
        self._of_url: list[str] | None = None if check.url else []
        self._stamp: object = None
        self._due = 0.0
        self.look()
        self._join(self._of_file, self._of_url)

    @property
    def faults(self) -> list[tuple[str, str]]:
        """The field that is wrong, and how."""
        return [(field, text) for field, text in self._faults.items() if text]

    def look(self) -> None:
        """Read the file again if it is another one."""
        if not self.check.file:
            return
        path = self.folder / self.check.file
        try:
            info = path.stat()
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            if stamp == self._stamp:
                return
            if info.st_size > LONGEST:
                raise OSError(f"has more than {LONGEST >> 20} MiB")
            lines = _entries(path.read_text())
            self._join(lines, self._of_url)
        except (OSError, UnicodeError, ListError) as error:
            self._faults["file"] = self._told(str(path), error)
            return
        self._of_file, self._stamp, self._faults["file"] = lines, stamp, ""

    def is_due(self) -> bool:
        """Whether `fetch` should be called."""
        return bool(self.check.url) and self._clock() >= self._due

    async def fetch(self, fetcher: Fetcher) -> None:
        """Read what the URL holds."""
        self._due = self._clock() + self.check.refresh.total_seconds()
        try:
            lines = _entries((await fetcher.get(self.check.url, FETCH)).body.decode())
            self._join(self._of_file, lines)
        except (FetchError, UnicodeError, ListError) as error:
            self._faults["url"] = self._told("what it holds", error)
            return
        self._of_url, self._faults["url"] = lines, ""

    def _join(self, of_file: list[str] | None, of_url: list[str] | None) -> None:
        """Make the list, if all parts of it are there. Raises: ListError."""
        if of_file is not None and of_url is not None:
            self.entries = build_list(self.check.type, [*self.check.values, *of_file, *of_url])

    def _told(self, what: str, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or str(error)
        after = "; what was read last stays in force" if self.entries is not None else ""
        return f"{what} cannot be used: {reason}{after}"


def _entries(text: str) -> list[str]:
    """Return what stands on the lines, without remarks."""
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
