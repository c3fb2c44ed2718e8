"""The application: started when the proxy is ready, watched until it listens, stopped in order.

It gets signals from the agent alone (a terminal's Ctrl-C would otherwise end it before its requests are drained), and
its exit code is the workload's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from lateen.agent.envoy import Child
from lateen.agent.listening import Listening, read_listening
from lateen.agent.log import Log
from lateen.agent.spec import Place, WorkloadSpec
from lateen.net.spawn import ends_within

__all__ = ["Application", "app_environment", "exit_code", "missing_ports"]

FAST_LOOK_SECONDS: Final = 0.05  # until it listens
SLOW_LOOK_SECONDS: Final = 1.0
LOOPBACK: Final = "localhost,127.0.0.1,::1"


def app_environment(spec: WorkloadSpec, place: Place) -> dict[str, str]:
    """Return the application's environment: the user's, and where to listen and call in explicit mode.

    `PORT` (and `PORT_<NAME>` for each port) is where its proxy expects it; `http_proxy` is its way into the mesh.
    """
    env = dict(spec.env)
    ports = {f"PORT_{port.name.upper().replace('-', '_')}": str(port.target) for port in spec.ports}
    if spec.ports:
        ports["PORT"] = str(spec.ports[0].target)
    if place.mode == "capture":
        return {**ports, **env}  # the application knows its port; what the user says of it stays
    env.update(ports)
    env.setdefault("BIND", "127.0.0.1")  # nothing listens beyond loopback unless told to
    if place.http_proxy_port:
        proxy = f"http://127.0.0.1:{place.http_proxy_port}"
        for name, value in (("http_proxy", proxy), ("no_proxy", LOOPBACK)):
            env[name] = env[name.upper()] = value
    return env


def exit_code(returncode: int) -> int:
    """Return a child's end as shells tell it: 128 and the signal's number when a signal ended it."""
    return 128 - returncode if returncode < 0 else returncode


def missing_ports(targets: frozenset[int], found: Listening, *, loopback: frozenset[int]) -> frozenset[int]:
    """Return the ports that the proxy cannot reach the application on; those of `loopback` it dials there."""
    return targets - found.reachable - (loopback & found.all())


class Application:
    """Owns the application's process. `run` is its life; `on_listening` is told when it begins and ceases to serve."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Child]],
        *,
        targets: frozenset[int],
        loopback: frozenset[int],
        on_pid: Callable[[int], None],
        on_listening: Callable[[bool], None],
        log: Log,
        read: Callable[[int], Listening] = read_listening,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._start = start
        self._targets = targets
        self._loopback = loopback
        self._on_pid = on_pid
        self._on_listening = on_listening
        self._log = log
        self._read = read
        self._sleep = sleep
        self._child: Child | None = None

    async def run(self) -> int:
        """Start it and return its exit code when it has ended; cancelled, it is killed first. Raises as `start`."""
        child = self._child = await self._start()
        self._log.info("application started", pid=child.pid)
        self._on_pid(child.pid)
        watch = asyncio.create_task(self._watch(child.pid), name="application's ports")
        try:
            code = await child.wait()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            if child.returncode is None:
                self._kill(child)
                await child.wait()
            # What it started and left behind, so far as it stayed in its session's first process group.
            self._kill(child)
        self._on_listening(False)
        self._on_pid(0)
        self._log.info("application ended", pid=child.pid, code=exit_code(code))
        return exit_code(code)

    async def stop(self, number: int, *, seconds: float) -> None:
        """Send it a signal, and SIGKILL when it has not ended `seconds` later; `run` then returns its code."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        if not await ends_within(child, seconds):
            self._log.warning("application killed: it did not stop", pid=child.pid, seconds=seconds)
            self._kill(child)
            await child.wait()

    async def _watch(self, pid: int) -> None:
        told: frozenset[int] | None = None
        while True:
            found = self._read(pid)
            missing = missing_ports(self._targets, found, loopback=self._loopback)
            if missing != told:
                self._on_listening(not missing)
                for port in sorted(missing & found.loopback):
                    # The proxy hands over to the address that the client dialled, as Istio's does.
                    self._log.warning("application listens on loopback only, so its proxy cannot reach it", port=port)
                told = missing
            await self._sleep(FAST_LOOK_SECONDS if missing else SLOW_LOOK_SECONDS)

    @staticmethod
    def _kill(child: Child) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
