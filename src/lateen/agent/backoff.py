"""How long to wait before the next attempt: doubling, spread, bounded. Pure; the caller draws and sleeps.

What goes on failing is let be: after a number of attempts in a row a `Breaker` opens, and one attempt in a long while
tells whether it has recovered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff", "Breaker"]

_SPREAD: Final = 0.5  # of each wait is drawn: what failed together does not come back together


class Backoff:
    """Waits from `first` seconds to `longest`. `draw` returns a number in 0..1."""

    def __init__(self, *, first: float, longest: float, draw: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._draw = draw
        self._next = first

    def reset(self) -> None:
        """After success: the next failure waits `first` again."""
        self._next = self._first

    def wait(self) -> float:
        """Return the seconds to wait now; the next wait is twice as long."""
        seconds = self._next * (1 - _SPREAD * self._draw())
        self._next = min(self._next * 2, self._longest)
        return seconds


class Breaker(Backoff):
    """A backoff that after `failures` in a row waits `pause` seconds between attempts, spread as all waits are."""

    def __init__(self, *, first: float, longest: float, failures: int, pause: float, draw: Callable[[], float]) -> None:
        super().__init__(first=first, longest=longest, draw=draw)
        self._pause = pause
        self._limit = failures
        self._failed = 0

    @property
    def open(self) -> bool:
        """Whether so many attempts have failed in a row that few are made."""
        return self._failed >= self._limit

    def reset(self) -> None:
        super().reset()
        self._failed = 0

    def wait(self) -> float:
        self._failed += 1
        if self.open:
            return self._pause * (1 - _SPREAD * self._draw())
        return super().wait()
