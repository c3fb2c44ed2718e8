"""Keep one Envoy running: start it, start it again when it ends, never two at once.

Rules: Istio's agent, docs/design/0005-agent.md "Envoy". What ends within a moment is started later each time; the agent
waits for the dead one before it starts the next, so ports and the admin socket are free.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from lateen.agent.backoff import Backoff
from lateen.agent.log import Log
from lateen.net.spawn import ends_within
from lateen.wire.envoy import find_envoy
from lateen.wire.local import AGENTS_CHOICE, ProxySettings

__all__ = ["DRAIN_TIME_SECONDS", "Child", "EnvoySupervisor", "envoy_arguments", "find_envoy", "validate_arguments"]

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0
HEALTHY_SECONDS: Final = 30.0  # having run so long, it starts again at once
DRAIN_TIME_SECONDS: Final = 45  # Istio's; how long Envoy spreads a graceful drain. Its clients hear of it much earlier
STOP_SECONDS: Final = 3.0
FLUSH_SECONDS: Final = 1.0  # of access logs, Istio's


class Child(Protocol):
    """A running process; `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int, /) -> None: ...


def validate_arguments(binary: Path, bootstrap: Path) -> list[str]:
    """Return the command line of an Envoy that only says whether it would start."""
    return [
        *(str(binary), "--mode", "validate", "-c", str(bootstrap)),
        *("--local-address-ip-version", "v4", "--disable-hot-restart", "--allow-unknown-static-fields", "-l", "error"),
    ]


def envoy_arguments(
    binary: Path, bootstrap: Path, *, concurrency: int, log_level: str, proxy: ProxySettings = AGENTS_CHOICE
) -> list[str]:
    """Return Envoy's command line."""
    drain = DRAIN_TIME_SECONDS if proxy.drain_seconds is None else int(proxy.drain_seconds)
    flush = FLUSH_SECONDS if proxy.flush_seconds is None else proxy.flush_seconds
    return [
        str(binary),
        *("-c", str(bootstrap)),
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(drain)),
        *("--drain-strategy", "immediate"),
        *("--local-address-ip-version", "v4"),
        *("--file-flush-interval-msec", str(int(flush * 1000))),
        *(() if proxy.flush_kilobytes is None else ("--file-flush-min-size-kb", str(proxy.flush_kilobytes))),
        "--disable-hot-restart",
        "--allow-unknown-static-fields",
        "--skip-deprecated-logs",
        *("-l", log_level),
        *("--log-format", "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"),
    ]


class EnvoySupervisor:
    """Owns the proxy's process. `run` is its life; `on_pid` is told each new pid, and 0 when there is none.

    `last_words` returns what the one that ended said, for the log.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Child]],
        *,
        on_pid: Callable[[int], None],
        last_words: Callable[[], str],
        log: Log,
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.restarts = 0
        self._start = start
        self._on_pid = on_pid
        self._last_words = last_words
        self._log = log
        self._sleep = sleep
        self._clock = clock or asyncio.get_running_loop().time
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS, draw=draw)
        self._child: Child | None = None
        self._stopping = False

    async def run(self) -> None:
        """Run Envoy until `stop`; cancelled, it is killed first. Raises what `start` raises the first time."""
        try:
            while not self._stopping:
                began = self._clock()
                if not await self._run_once():
                    return
                if self._clock() - began > HEALTHY_SECONDS:
                    self._backoff.reset()
                self.restarts += 1
                await self._sleep(self._backoff.wait())
        finally:
            await self._kill()

    async def stop(self) -> None:
        """End Envoy, at once where it does not go by itself; `run` then returns."""
        self._stopping = True
        child = self._child
        if child is None:
            return
        self._signal(child, signal.SIGTERM)
        if not await ends_within(child, STOP_SECONDS):
            self._log.warning("envoy killed: it did not stop", pid=child.pid)
            await self._kill()

    async def _run_once(self) -> bool:
        """Start one and wait for its end; say whether to start another."""
        try:
            self._child = child = await self._start()
        except Exception as error:
            if not self.restarts:
                raise  # the command, or the network, is wrong: the one who started the agent wants to know
            self._log.error("envoy not started", reason=str(error))
            return True
        self._log.info("envoy started", pid=child.pid)
        self._on_pid(child.pid)
        code = await child.wait()
        self._child = None
        self._on_pid(0)
        if not self._stopping:
            self._log.warning("envoy ended", pid=child.pid, code=code, said=self._last_words())
        return not self._stopping

    async def _kill(self) -> None:
        child = self._child
        if child is not None:
            self._signal(child, signal.SIGKILL)
            await child.wait()

    @staticmethod
    def _signal(child: Child, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
