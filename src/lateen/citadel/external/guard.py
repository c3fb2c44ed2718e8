"""Calls to an external authority, so that a slow or dead one harms nobody: deadlines, few at once, a breaker.

In:  orders from any number of callers. Out: the authority's answer, or `Unavailable` that says why and until when.

    closed     every order is sent; after `THRESHOLD` failures in a row: open
    open       nothing is sent and callers are told at once, for a time that doubles with each failure
    half open  when that time is over one order is sent; it closes or opens again

What the authority refuses (`Refused`, `BadInput`) is an answer: it works, and breaks nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from lateen.citadel.external.interface import ExternalAuthority, Order
from lateen.errors import BadInput, LateenError, Refused, Unavailable

__all__ = ["Breaker", "Guard", "GuardReport"]

THRESHOLD: Final = 3  # failures in a row: one may be chance, and one order may be at fault
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
_SPREAD: Final = 0.25  # of each pause is drawn, so that control plane replicas do not come together


class Breaker:
    """The state machine. Times are seconds of a clock that does not jump."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self.failures = 0  # in a row
        self.closed_again_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._probing = False
        self._draw = draw

    @property
    def open(self) -> bool:
        """True from the failure that opened it until an order succeeds."""
        return self.failures >= THRESHOLD

    def admit(self, now: float) -> bool:
        """Return whether an order may be sent now; if so, `succeeded`, `failed` or `left` has to follow."""
        if not self.open:
            return True
        if self._probing or now < self.closed_again_at:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self.failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._probing = False

    def failed(self, now: float) -> None:
        self.failures += 1
        self._probing = False
        if self.open:
            self.closed_again_at = now + self._pause * (1 - _SPREAD * self._draw())
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def left(self) -> None:
        """An order was given up by its caller, which says nothing of the authority."""
        self._probing = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """How the authority has been lately."""

    working: bool
    orders: int  # sent since the start
    failed: int
    refused: int
    lies: int  # answers that were not what had been asked for
    waiting: int  # for a free place, now
    fault: str  # the last failure while it does not work, else ""
    asked_again_seconds: float  # 0: the next order is sent


class Guard:
    """Stands before one authority. For one event loop."""

    def __init__(
        self,
        authority: ExternalAuthority,
        *,
        name: str,
        timeout: timedelta,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        log: Any = None,
    ) -> None:
        self.name = name
        self.breaker = Breaker()
        self.orders = self.failed = self.refused = self.lies = self.waiting = 0
        self.fault = ""
        self._authority = authority
        self._seconds = timeout.total_seconds()
        self._places = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._log = structlog.get_logger() if log is None else log
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="authority")

    async def sign(self, order: Order) -> bytes:
        """Return what the authority signed, unchecked. Raises `Unavailable`, `Refused`, `BadInput`.

        The time-out is for the wait for a place, and again for the answer: an order that waited long must not make the
        authority look slow. Callers are served in the order of arrival.
        """
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(f"{self.name} is busy: no order could be sent within {self._seconds:g} s") from None
        finally:
            self.waiting -= 1
        try:
            # Asked here and not before the wait: those who waited must not all run into a breaker that opened since.
            if not self.breaker.admit(self._clock()):
                left = max(self.breaker.closed_again_at - self._clock(), 0.0)
                raise Unavailable(f"{self.name} is not asked for another {left:.1f} s: {self.fault}")
            return await self._send(order)
        finally:
            self._places.release()

    def report(self) -> GuardReport:
        open_ = self.breaker.open
        return GuardReport(
            working=not open_,
            orders=self.orders,
            failed=self.failed,
            refused=self.refused,
            lies=self.lies,
            waiting=self.waiting,
            fault=self.fault,
            asked_again_seconds=max(self.breaker.closed_again_at - self._clock(), 0.0) if open_ else 0.0,
        )

    def lied(self, problem: str) -> Unavailable:
        """Count and log an answer that may not be handed out; return the error to raise.

        It does not open the breaker: what one caller's CSR provokes must not keep others from their certificates.
        """
        self.lies += 1
        self._log.error("external authority gave what must not be used", authority=self.name, reason=problem)
        return Unavailable(f"{self.name} gave a certificate that must not be used: {problem}")

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._authority.close()

    async def _send(self, order: Order) -> bytes:
        self.orders += 1
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._call(order)
        except (Refused, BadInput) as error:
            self.refused += 1
            self._succeed()
            raise type(error)(f"{self.name} refuses: {error}") from error
        except TimeoutError:
            self._fail(f"no answer within {self._seconds:g} s")
            raise Unavailable(f"{self.name} gave no answer within {self._seconds:g} s") from None
        except LateenError as error:
            self._fail(str(error))
            raise Unavailable(f"{self.name} cannot sign now: {error}") from error
        except asyncio.CancelledError:
            self.breaker.left()
            raise
        except Exception as error:  # somebody else's class: its fault must not end the control plane
            self._log.error("external authority raised", authority=self.name, error=type(error).__name__)
            self._fail(f"it raised {type(error).__name__}")
            raise Unavailable(f"{self.name} cannot sign now: it raised {type(error).__name__}") from error
        self._succeed()
        return answer

    async def _call(self, order: Order) -> bytes:
        if inspect.iscoroutinefunction(self._authority.sign):
            answer = await self._authority.sign(order)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._authority.sign, order)
            if inspect.isawaitable(answer):  # a coroutine function in a wrapper that hides it
                answer = await answer
        if not isinstance(answer, bytes):
            raise Unavailable(f"certificates in PEM wanted as bytes, got {type(answer).__name__}")
        return answer

    def _succeed(self) -> None:
        if self.breaker.open:
            self._log.info("external authority works again", authority=self.name)
        self.breaker.succeeded()
        self.fault = ""

    def _fail(self, fault: str) -> None:
        was_open = self.breaker.open
        self.failed += 1
        self.fault = fault
        self.breaker.failed(self._clock())
        if self.breaker.open and not was_open:
            self._log.error("external authority does not work", authority=self.name, reason=fault)
