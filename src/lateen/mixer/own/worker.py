"""A worker: runs adapters of one's own, and nothing else. `python -m lateen.mixer.own.worker`, the socket is fd 0.

Coroutines run in the loop, other functions in threads, so that one which waits holds up no other. A coroutine that is
late is cancelled here; a thread cannot be, so it is not answered for, and whoever asked ends the whole worker. It holds
no secret: its environment is made for it, and it has no file open but this socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from lateen.adapters import AdapterError, Verdict
from lateen.mixer.own.frames import Answer, Ask, Bind, Bound, Failure, Hello, Load, Tell, read_frame, to_frame
from lateen.mixer.own.loading import Loaded, ParameterFault, load_all

__all__ = ["main"]

THREADS: Final = 16
MEMORY_VARIABLE: Final = "LATEEN_WORKER_MEMORY"
_DECODER: Final = msgspec.msgpack.Decoder(Load | Bind | Ask | Tell)
_MESSAGE: Final = 500  # characters of an error that are told


def main() -> None:
    bound = int(os.environ.get(MEMORY_VARIABLE, "0"))
    if bound:
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    sock = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what it prints is for people
    with contextlib.suppress(EOFError, KeyboardInterrupt):  # whoever asks is gone
        asyncio.run(_Worker().run(sock))
    os._exit(0)  # threads that hang are not waited for


class _Worker:
    def __init__(self) -> None:
        self._adapters: dict[tuple[str, str], Loaded] = {}
        self._bound: dict[int, tuple[Loaded, Any]] = {}
        self._threads = ThreadPoolExecutor(THREADS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        first = await read_frame(reader, _DECODER)
        assert isinstance(first, Load)
        for folder in dict.fromkeys(str(Path(path).parent) for path, _ in first.files):
            sys.path.insert(0, folder)  # a file may import another beside it
        adapters, faults = load_all(first.files, with_entry_points=first.entry_points)
        self._adapters = {(one.declared.kind, one.declared.name): one for one in adapters}
        self._send(Hello(adapters=tuple(one.description for one in adapters), faults=tuple(faults)))
        while True:
            message = await read_frame(reader, _DECODER)
            match message:
                case Bind():
                    self._send(self._bind(message))
                case Ask() | Tell():
                    task = asyncio.create_task(self._answer(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    def _send(self, message: msgspec.Struct) -> None:
        self._writer.write(to_frame(message))

    def _bind(self, message: Bind) -> Bound:
        adapter = self._adapters.get((message.kind, message.adapter))
        if adapter is None:
            return Bound(number=message.number, fault=f"there is no {message.kind} adapter {message.adapter}")
        try:
            self._bound[message.number] = (adapter, adapter.convert(message.params))
        except ParameterFault as fault:
            return Bound(number=message.number, field=fault.field, fault=str(fault))
        return Bound(number=message.number)

    async def _answer(self, message: Ask | Tell) -> None:
        try:
            found = await self._call(message)
        except TimeoutError:
            found = Failure(number=message.number, how="timeout", message=f"took longer than {message.seconds:g} s")
        except AdapterError as error:
            found = Failure(number=message.number, how="error", message=str(error)[:_MESSAGE])
        except BaseException as error:  # somebody's code: whatever it raises is its failure alone
            if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
                raise
            text = f"{type(error).__name__}: {error}".partition("\n")[0]
            found = Failure(number=message.number, how="error", message=text[:_MESSAGE])
        try:
            self._send(found)
        except (TypeError, ValueError) as error:
            self._send(Failure(number=message.number, how="wrong", message=str(error)[:_MESSAGE]))

    async def _call(self, message: Ask | Tell) -> Answer | Failure:
        adapter, params = self._bound[message.binding]
        given = message.values if isinstance(message, Ask) else message.rows
        if inspect.iscoroutinefunction(adapter.function):
            async with asyncio.timeout(message.seconds):
                found = await adapter.function(params, given)
        else:
            running = self._threads.submit(adapter.function, params, given)
            answer = asyncio.wrap_future(running)
            await asyncio.wait((answer,), timeout=message.seconds)
            if not answer.done() and running.cancel():  # no thread was free for it
                raise TimeoutError
            found = await answer
        return Answer(number=message.number) if isinstance(message, Tell) else _judged(message.number, found)


def _judged(number: int, found: object) -> Answer | Failure:
    """Return the answer; what is no verdict is a failure."""
    if isinstance(found, bool):
        return Answer(number=number, allowed=found)
    if not isinstance(found, Verdict):
        message = f"returned {type(found).__name__}, a Verdict or a bool is wanted"
        return Failure(number=number, how="wrong", message=message)
    fault = _fault(found)
    if fault:
        return Failure(number=number, how="wrong", message=fault)
    return Answer(
        number=number,
        allowed=found.allowed,
        status=found.status,
        body=found.body,
        headers=dict(found.headers),
        request_headers=dict(found.request_headers),
        ttl=float(found.ttl),
    )


def _fault(verdict: Verdict) -> str:
    """Return what is wrong with a verdict, "" for nothing."""
    if not isinstance(verdict.allowed, bool):
        return f"allowed is {verdict.allowed!r}, True or False is wanted"
    if not isinstance(verdict.status, int) or not isinstance(verdict.body, str):
        return f"status is {verdict.status!r} and body a {type(verdict.body).__name__}: a number and a text are wanted"
    for name in ("headers", "request_headers"):
        headers = getattr(verdict, name)
        if not isinstance(headers, Mapping) or not all(
            isinstance(key, str) and isinstance(text, str) for key, text in headers.items()
        ):
            return f"{name} are not texts by name"
    if isinstance(verdict.ttl, bool) or not isinstance(verdict.ttl, int | float):
        return f"ttl is {verdict.ttl!r}, seconds are wanted"
    return ""


if __name__ == "__main__":
    main()
