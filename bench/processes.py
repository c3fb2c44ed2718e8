"""Child processes that are spoken to in JSON lines, and what the kernel says of a process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["Child", "cpu_seconds", "rss_bytes", "run_child"]

ANSWER_SECONDS = 60.0
CPUCLOCK_SCHED = 2  # clock ids of other processes: ~pid << 3 | 2 (clock_getcpuclockid(3))


def rss_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} tells no VmRSS")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, exact to the nanosecond."""
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


class Child:
    """One process: a line in, a line out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_SECONDS)
        if not line:
            raise EOFError(f"process {self.pid} ended")
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        return await self.answer()

    async def quit(self) -> None:
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.write(b"quit\n")
            await asyncio.wait_for(self._process.wait(), ANSWER_SECONDS)

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def gone(self) -> None:
        await self._process.wait()


@asynccontextmanager
async def run_child(module: str, *arguments: str, errors: Path) -> AsyncIterator[Child]:
    """Run `python -m module` until the context ends; what it logs goes to the file `errors`."""
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=1 << 20,
        )
    child = Child(process)
    try:
        yield child
    finally:
        child.kill()
        await child.gone()
