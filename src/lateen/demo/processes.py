"""Keep a set of commands running: each is started, restarted with backoff when it dies, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Command", "Keeper"]

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0  # what ran so long starts with a short pause again


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command to keep running. Its output goes to `log`, from the start of each run of the whole."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Keeper:
    """Runs commands until told to stop. Each has a process group of its own: Ctrl-C reaches the keeper alone."""

    def __init__(self, on_restart: Callable[[str, int], None]) -> None:
        self._on_restart = on_restart
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = False

    def start(self, command: Command) -> None:
        """Start a command and keep it running."""
        command.log.parent.mkdir(parents=True, exist_ok=True)
        command.log.write_bytes(b"")
        self._tasks[command.name] = asyncio.create_task(self._keep(command), name=command.name)

    def pid(self, name: str) -> int | None:
        process = self._processes.get(name)
        return process.pid if process is not None and process.returncode is None else None

    async def _keep(self, command: Command) -> None:
        pause = FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while not self._stopping:
            with open(command.log, "ab") as log:  # noqa: ASYNC230  # a local file, opened once a start
                started = loop.time()
                process = await asyncio.create_subprocess_exec(
                    *command.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **command.env},
                    start_new_session=True,
                )
            self._processes[command.name] = process
            code = await process.wait()
            if self._stopping:
                return
            self._on_restart(command.name, code)
            pause = FIRST_PAUSE_SECONDS if loop.time() - started > STEADY_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def stop(self, names: Sequence[str], *, grace_seconds: float) -> None:
        """End these commands together: SIGTERM, and SIGKILL for what is left after `grace_seconds`."""
        self._stopping = True
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for name in names:
            self._signal(name, signal.SIGTERM)
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=grace_seconds)
        for task in left:
            self._signal(task.get_name(), signal.SIGKILL)
        if left:
            # A command that was between two runs sleeps; everything else has just been killed.
            await asyncio.wait(left, timeout=1.0)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
