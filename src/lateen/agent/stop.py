"""The wish that a workload leaves: once, in order; asked again, at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

__all__ = ["Stop"]

# timeout(1), and many a wrapper, hands a signal on that the terminal or a `kill` of the group has given already.
SAME_MOMENT_SECONDS: Final = 1.0

_Result = TypeVar("_Result")


class Stop:
    """Set by signals, or by whoever runs workloads inside a program of their own."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_at = 0.0
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.signal: int = signal.SIGTERM  # to hand on to the application

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask to leave; asked again, but not within the same moment, to leave at once."""
        now = self._clock()
        if not self.asked.is_set():
            self._asked_at = now
            self.signal = number
            self.asked.set()
        elif now - self._asked_at >= SAME_MOMENT_SECONDS:
            self.hurried.set()

    def hurry(self) -> None:
        """Ask to leave at once."""
        self.asked.set()
        self.hurried.set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP ask, inside the block; not SIGHUP under nohup(1)."""
        loop = asyncio.get_running_loop()
        ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN}
        numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} - (ignored & {signal.SIGHUP})
        for number in numbers:
            # An application inherits that SIGINT is ignored (a shell's background job), and many take SIGHUP for
            # "read your configuration again": both then hear SIGTERM.
            plain = number in ignored or number == signal.SIGHUP
            loop.add_signal_handler(number, self.ask, signal.SIGTERM if plain else number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def unless_asked(self, work: Coroutine[Any, Any, _Result] | asyncio.Future[_Result]) -> _Result | None:
        """Return what `work` returns; None, with `work` cancelled, when leaving is asked for meanwhile."""
        return await _unless(work, self.asked)

    async def unless_hurried(self, work: Coroutine[Any, Any, _Result]) -> _Result | None:
        """The same for a request to leave at once."""
        return await _unless(work, self.hurried)


async def _unless(work: Coroutine[Any, Any, _Result] | asyncio.Future[_Result], event: asyncio.Event) -> _Result | None:
    task = asyncio.ensure_future(work)
    waiter = asyncio.create_task(event.wait(), name="stop")
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, waiter):
            each.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)
