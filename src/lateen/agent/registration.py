"""Keep the control plane's idea of this workload true: say what it is, again whenever that changes or was forgotten.

Only the newest word counts, so one pending registration replaces another. While the control plane is away it is asked
again; it keeps registrations over its own restarts, so nothing is lost meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from lateen.agent.backoff import Backoff
from lateen.agent.log import Log
from lateen.errors import BadInput, LateenError, Refused
from lateen.wire.local import Goodbye, Registered, Registration

__all__ = ["Registrar", "start_ticks"]

FIRST_WAIT_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 2.0
GOODBYE_SECONDS: Final = 2.0

Register = Callable[[Registration], Awaitable[Registered]]
Deregister = Callable[[Goodbye], Awaitable[object]]


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot (proc(5), field 22). Raises `OSError`."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    # The command's name is in parentheses and may hold anything, also spaces and parentheses.
    return int(stat[stat.rfind(b")") + 2 :].split()[19])


class Registrar:
    """Sends registrations, one at a time. `run` owns it."""

    def __init__(
        self,
        register: Register,
        deregister: Deregister,
        *,
        log: Log,
        draw: Callable[[], float],
        heartbeat_seconds: float | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`heartbeat_seconds`: how often to tell it again where the control plane cannot see this process."""
        self._heartbeat = heartbeat_seconds
        self._register = register
        self._deregister = deregister
        self._log = log
        self._draw = draw
        self._sleep = sleep
        self._wanted: Registration | None = None
        self._told: Registration | None = None
        self._last: Registration | None = None  # what was told last, also when it has to be told again
        self._changed = asyncio.Event()
        self._calling = asyncio.Lock()  # a registration that overtakes the goodbye would undo it
        self._left = False

    async def first(self, registration: Registration, *, seconds: float) -> Registered:
        """Register for the first time and return what the mesh is. The control plane may still be starting.

        Raises `Refused` or `BadInput` at once, `Unavailable` when it has not answered within `seconds`.
        """
        backoff = self._backoff()
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                answer = await self._register(registration)
            except (Refused, BadInput):
                raise
            except LateenError:
                wait = backoff.wait()
                if asyncio.get_running_loop().time() + wait > deadline:
                    raise
                await self._sleep(wait)
            else:
                self._wanted = self._told = registration
                return answer

    def want(self, registration: Registration) -> None:
        """Make `registration` what the control plane shall know."""
        if not self._left and registration != self._wanted:
            self._wanted = registration
            self._changed.set()

    def again(self) -> None:
        """Tell it once more: the control plane may be another one."""
        if not self._left:
            self._told = None
            self._changed.set()

    async def run(self) -> None:
        """Send what is wanted, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._changed.wait()
            except TimeoutError:
                self._told = None
            self._changed.clear()
            backoff = self._backoff()
            while (wanted := self._wanted) is not None and wanted != self._told and not self._left:
                try:
                    async with self._calling:
                        if self._left:
                            return
                        await self._register(wanted)
                    tell = self._log.info if wanted != self._last else self._log.debug
                    self._told = self._last = wanted
                    tell("registered", ready=wanted.ready, app=wanted.app_pid, envoy=wanted.envoy_pid)
                except LateenError as error:
                    self._log.warning("not registered", reason=str(error))
                    await self._sleep(backoff.wait())

    async def leave(self, *, name: str, pid: int) -> None:
        """Withdraw the registration, once. Does not raise: the control plane sees the process end anyway."""
        if self._left:
            return
        self._left = True
        try:
            # Not `asyncio.timeout`, which must not be used while being cancelled: see `lateen.net.spawn.ends_within`.
            await asyncio.wait_for(self._say_goodbye(Goodbye(name=name, pid=pid)), GOODBYE_SECONDS)
        except (LateenError, TimeoutError) as error:
            self._log.warning("not deregistered", reason=str(error) or "no answer in time")

    async def _say_goodbye(self, goodbye: Goodbye) -> None:
        async with self._calling:
            await self._deregister(goodbye)

    def _backoff(self) -> Backoff:
        return Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS, draw=self._draw)
