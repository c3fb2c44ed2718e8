"""Watch the proxy: is it live, has it its configuration. Looks often until it is ready, then every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from lateen.agent.admin import Admin
from lateen.agent.readiness import READY_STATS, ProxyState, proxy_state
from lateen.errors import Unavailable

__all__ = ["ProxyMonitor"]

FAST_LOOK_SECONDS: Final = 0.03
SLOW_LOOK_SECONDS: Final = 3.0  # a crash is seen at once by the process; this finds a proxy that hangs
FAILURES: Final = 3  # looks in a row without an answer, before a proxy that was ready counts as gone


class ProxyMonitor:
    """Tells `on_state` each change. `run` owns it; `restarted` says that the process is another one."""

    def __init__(self, admin: Admin, on_state: Callable[[ProxyState], None]) -> None:
        self.state = ProxyState()
        self._admin = admin
        self._on_state = on_state
        self._failures = 0
        self._restarted = asyncio.Event()

    def restarted(self) -> None:
        """Forget what was known: the process ended, or a new one began."""
        self._failures = 0
        self._set(ProxyState())
        self._restarted.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._restarted.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_LOOK_SECONDS if self.state.ready else FAST_LOOK_SECONDS):
                    await self._restarted.wait()
                await asyncio.sleep(FAST_LOOK_SECONDS)  # a process that has just begun does not answer yet

    async def look(self) -> None:
        """Look once."""
        try:
            stats = await self._admin.stats(READY_STATS)
        except Unavailable:
            self._failures += 1
            if self._failures >= FAILURES:
                self._set(ProxyState())
            return
        self._failures = 0
        self._set(proxy_state(stats))

    def _set(self, state: ProxyState) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state)
