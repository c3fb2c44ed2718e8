"""How long to wait before the next attempt: doubling, spread, bounded. Pure; the caller draws and sleeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

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
