"""Calls that block, in threads that nobody waits for: a lookup that hangs delays neither the loop nor the exit.

Not a pool of `concurrent.futures`: that one joins its threads when the interpreter ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """At most `limit` calls at once; one more waits for its turn, also for a call whose caller has given up."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Return what `call` returns or raise what it raises. Cancelled: the call goes on, its result is dropped."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def done(value: Any, error: BaseException | None) -> None:
            self._free.release()
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)

        def work() -> None:
            value, failed = None, None
            try:
                value = call(*args)
            except Exception as error:
                failed = error
            try:
                loop.call_soon_threadsafe(done, value, failed)
            except RuntimeError:  # the loop has ended: nobody asks any more
                return

        try:
            threading.Thread(target=work, name=f"fetch {call.__name__}", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._free.release()
            raise
        return await result
