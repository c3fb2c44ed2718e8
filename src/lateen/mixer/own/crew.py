"""Processes that run adapters: started, asked, ended when they hang, started again when they end.

In:  what to load; questions. Out: replies. A worker that ends takes the questions that it had with it: `WorkerGone`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from lateen.errors import LateenError
from lateen.mixer.own.frames import Answer, Ask, Bind, Bound, Failure, Hello, Load, Reply, Tell, read_frame, to_frame
from lateen.net.spawn import ends_within, spawn

__all__ = ["Worker", "WorkerGone"]

START_SECONDS: Final = 20.0  # until it has loaded everything
GRACE_SECONDS: Final = 0.25  # beyond its deadline that a question may be unanswered before its worker is ended
END_SECONDS: Final = 1.0
# A worker is given nothing else of the environment: what Mixer was told in it stays there.
ENVIRONMENT: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ")
MEMORY_VARIABLE: Final = "LATEEN_WORKER_MEMORY"
_DECODER: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Hello | Bound | Answer | Failure)

log = structlog.get_logger(__name__)


class WorkerGone(Exception):
    """It ended before it answered."""


class Worker:
    """One process. `start` it, and `end` it."""

    def __init__(self, memory: int) -> None:
        """`memory`: bytes of address space that it may have."""
        self.gone = asyncio.Event()
        self.why = ""  # it ended
        self._memory = memory
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, asyncio.Future[Answer | Failure]] = {}
        self._waits: dict[int, asyncio.Future[Bound]] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def busy(self) -> int:
        return len(self._pending)

    async def start(self, files: Mapping[str, str], *, entry_points: bool) -> Hello:
        """Return what it has loaded. Raises: WorkerGone, OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        env = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        try:
            self._process = await spawn(
                [sys.executable, "-m", "lateen.mixer.own.worker"],
                attachment=None,
                env={**env, MEMORY_VARIABLE: str(self._memory)},
                role="app",
                stdin=theirs.fileno(),
                stdout=DEVNULL,
            )
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException as error:
            ours.close()
            if isinstance(error, LateenError):  # from `spawn`: a machine that is too busy, or has no room
                raise WorkerGone(f"the worker of adapters did not start: {error}") from error
            raise
        finally:
            theirs.close()
        self._send(Load(files=tuple(sorted(files.items())), entry_points=entry_points))
        try:
            async with asyncio.timeout(START_SECONDS):
                hello = await read_frame(reader, _DECODER)
        except (TimeoutError, EOFError, ValueError) as error:
            how = (
                f"was not ready within {START_SECONDS:g} s" if isinstance(error, TimeoutError) else "ended at its start"
            )
            await self.end()
            raise WorkerGone(f"the worker of adapters {how}") from None
        if not isinstance(hello, Hello):
            await self.end()
            raise WorkerGone("the worker of adapters said something else than what it has loaded")
        self._reading = asyncio.create_task(self._read(reader))
        return hello

    async def bind(self, binding: Bind) -> Bound:
        """Have parameters made. Raises: WorkerGone."""
        future: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
        self._waits[binding.number] = future
        self._send(binding)
        return await future

    async def ask(self, question: Ask | Tell) -> Answer | Failure:
        """Return the reply. Raises: WorkerGone.

        Whoever is cancelled meanwhile leaves the question's deadline behind: who asked may be gone sooner than that,
        and an adapter that is still within its time does not hang.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + question.seconds + GRACE_SECONDS
        future: asyncio.Future[Answer | Failure] = loop.create_future()
        self._pending[question.number] = future
        self._send(question)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            loop.call_at(max(deadline, loop.time() + GRACE_SECONDS), self._overdue, question.number)
            raise

    def kill(self, why: str) -> None:
        self.why = self.why or why
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def end(self) -> None:
        """End it, at once where it does not by itself."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None and not await ends_within(self._process, END_SECONDS):
            self.kill("")
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._lose()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _send(self, message: msgspec.Struct) -> None:
        if self._writer is None or self._writer.transport.is_closing():
            self._lose()
            return
        self._writer.write(to_frame(message))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await read_frame(reader, _DECODER))
        except (EOFError, ValueError) as error:
            if not isinstance(error, EOFError):
                self.kill("said something that is no reply")
        self.kill("ended")
        if self._process is not None:
            await self._process.wait()
        self._lose()

    def _take(self, message: Any) -> None:
        match message:
            case Bound():
                waiting = self._waits.pop(message.number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case Answer() | Failure():
                future = self._pending.pop(message.number, None)
                if future is not None and not future.done():
                    future.set_result(message)

    def _overdue(self, number: int) -> None:
        if number in self._pending:
            self.kill("a function hangs")

    def _lose(self) -> None:
        """Tell everybody who waits that nothing comes any more."""
        self.gone.set()
        if self._writer is not None:
            self._writer.close()
        waiting: list[asyncio.Future[Any]] = [*self._pending.values(), *self._waits.values()]
        self._pending.clear()
        self._waits.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(WorkerGone(self.why or "ended"))
                future.exception()  # nobody may be waiting any more
