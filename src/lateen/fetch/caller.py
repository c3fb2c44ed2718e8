"""POST to URLs that somebody else wrote, many in a short time: connections are kept, and who does not answer is let be.

In:  a URL, a body. Out: the answer, whatever its status. Each new connection goes through the guard; one that stands is
used again for the same origin. After `FAILURES` in a row an owner's questions to an origin are refused for
`PAUSE_SECONDS`: they fail at once, and not after a time-out each. Only what the other side does counts, and only
against who asked: neither who gives up nor somebody else's short patience makes it look away.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h11

from lateen.fetch.connect import Resolve, connected, resolve_with
from lateen.fetch.errors import FetchError
from lateen.fetch.exchange import HEADER_BYTES, Answer, exchange
from lateen.fetch.fetcher import THREADS, client_context
from lateen.fetch.guard import Guard
from lateen.fetch.threads import Threads
from lateen.fetch.urls import Target, parse_url

__all__ = ["Caller"]

MOST_IDLE: Final = 16  # connections of one origin
MOST_IN_FLIGHT: Final = 256  # of one origin
IDLE_SECONDS: Final = 30.0
FAILURES: Final = 3
PAUSE_SECONDS: Final = 1.0
MOST_ORIGINS: Final = 1024
MOST_OWNERS: Final = 1024


@dataclass(slots=True)
class _Line:
    """One connection that is free."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stack: contextlib.AsyncExitStack
    http: h11.Connection
    since: float = 0.0


@dataclass(slots=True)
class _Origin:
    idle: list[_Line] = field(default_factory=list)
    in_flight: int = 0
    circuits: dict[str, _Circuit] = field(default_factory=dict)  # by owner


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    rests_until: float = 0.0

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= FAILURES:
            self.rests_until = time.monotonic() + PAUSE_SECONDS


class Caller:
    """Use `close` at the end."""

    def __init__(self, guard: Guard, *, ca_file: Path | None = None, resolve: Resolve | None = None) -> None:
        """`ca_file`, `resolve`: as for `Fetcher`."""
        self.guard = guard
        self._ca_file = ca_file
        self._threads = Threads(THREADS)
        self._resolve = resolve if resolve is not None else resolve_with(self._threads)
        self._origins: dict[object, _Origin] = {}
        self._tls: ssl.SSLContext | None = None

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], max_bytes: int, seconds: float, owner: str = ""
    ) -> Answer:
        """Return the answer of `url` to `body`. `owner`: on whose behalf. Raises `FetchError`."""
        target = parse_url(url)
        origin = self._origin(target)
        circuit = origin.circuits.setdefault(owner, _Circuit())
        if time.monotonic() < circuit.rests_until:
            raise FetchError("connect", f"{target.shown}: did not answer, and is asked again in a moment")
        if origin.in_flight >= MOST_IN_FLIGHT:
            raise FetchError("timeout", f"{target.shown}: {MOST_IN_FLIGHT} questions are waiting for it already")
        origin.in_flight += 1
        try:
            async with asyncio.timeout(seconds):
                answer = await self._ask(target, origin, body, headers, max_bytes)
        except TimeoutError:
            circuit.failed()
            raise FetchError("timeout", f"{target.shown}: no answer within {seconds:g} s") from None
        except FetchError:
            circuit.failed()
            raise
        finally:
            origin.in_flight -= 1
        circuit.failures = 0
        return answer

    async def close(self) -> None:
        for origin in self._origins.values():
            while origin.idle:
                await origin.idle.pop().stack.aclose()

    def _origin(self, target: Target) -> _Origin:
        found = self._origins.get(target.origin)
        if found is not None and len(found.circuits) > MOST_OWNERS:
            found.circuits = {owner: one for owner, one in found.circuits.items() if one.failures}
        if found is None:
            if len(self._origins) >= MOST_ORIGINS:
                for key in [key for key, one in self._origins.items() if not one.idle and not one.in_flight]:
                    del self._origins[key]
            found = self._origins[target.origin] = _Origin()
        return found

    async def _ask(
        self, target: Target, origin: _Origin, body: bytes, headers: Mapping[str, str], max_bytes: int
    ) -> Answer:
        line = await self._free(origin)
        if line is not None:
            try:
                return await self._over(line, target, origin, body, headers, max_bytes)
            except FetchError as error:
                # It may have been closed since: once more, over a new one.
                if error.reason not in ("connect", "malformed"):
                    raise
        return await self._over(await self._new(target), target, origin, body, headers, max_bytes)

    async def _free(self, origin: _Origin) -> _Line | None:
        while origin.idle:
            line = origin.idle.pop()
            if time.monotonic() - line.since < IDLE_SECONDS and not line.reader.at_eof():
                return line
            await line.stack.aclose()
        return None

    async def _new(self, target: Target) -> _Line:
        tls = None
        if target.scheme == "https":
            if self._tls is None:
                try:
                    self._tls = await self._threads.run(client_context, self._ca_file)
                except OSError as error:
                    raise FetchError("tls", f"roots cannot be read: {error.strerror}") from error
            tls = self._tls
        stack = contextlib.AsyncExitStack()
        opened = connected(target, guard=self.guard, resolve=self._resolve, tls=tls)
        reader, writer = await stack.enter_async_context(opened)
        return _Line(reader, writer, stack, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES))

    async def _over(
        self, line: _Line, target: Target, origin: _Origin, body: bytes, headers: Mapping[str, str], max_bytes: int
    ) -> Answer:
        kept = False
        try:
            answer = await exchange(
                line.reader,
                line.writer,
                target,
                max_bytes=max_bytes,
                method="POST",
                headers={"connection": "keep-alive", **headers},
                body=body,
                connection=line.http,
            )
            if line.http.our_state is h11.DONE and line.http.their_state is h11.DONE and len(origin.idle) < MOST_IDLE:
                line.http.start_next_cycle()
                line.since = time.monotonic()
                origin.idle.append(line)
                kept = True
            return answer
        finally:
            if not kept:
                await line.stack.aclose()
