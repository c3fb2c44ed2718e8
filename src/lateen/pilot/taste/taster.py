"""Give resources to a real Envoy and tell which of them it takes. I/O; what it is given is built in `probe.py`.

The Envoy is a child of this process, dies with it, and lives in an empty network. It runs all the time, since a start
costs what two hundred clusters cost. One that a configuration kills is started again, and the resource that did it is
found by halves; so is one that Envoy refuses without naming it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from lateen.errors import Unavailable
from lateen.net.spawn import spawn
from lateen.pilot.taste.bootstrap import ENVIRONMENT, encode_bootstrap
from lateen.pilot.taste.probe import Probe, build_probe
from lateen.pilot.taste.stream import TasteStream
from lateen.pilot.taste.words import MAX_WORDS, readable, refused
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, LDS
from lateen.wire.envoy import find_envoy
from lateen.wire.files import write_atomically

__all__ = ["TASTE_SECONDS", "TasteStats", "Taster", "Verdicts"]

TASTE_SECONDS: Final = 15.0  # for one call of `taste`; what is not judged by then is not known
EACH_SECONDS: Final = 0.1  # more, for each resource in it
ANSWER_SECONDS: Final = 8.0  # for one response; an Envoy that takes longer hangs, and is ended
START_SECONDS: Final = 10.0
# Of one response: about 0.1 s of Envoy's time for clusters, 1.5 s for listeners with thirty filter chains.
MAX_PROBES: Final = {CDS: 400, LDS: 50}
_OPTIONS: Final = (("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0))

log = structlog.get_logger(__name__)

Verdicts = Mapping[str, str]  # version of a resource -> Envoy's words against it, "" when it takes it


@dataclass(slots=True)
class TasteStats:
    """Sums since the start."""

    tasted: int = 0
    refused: int = 0
    untasted: int = 0  # given up on: no Envoy, or no time
    rounds: int = 0  # calls of `taste`
    seconds: float = 0.0  # spent in them
    starts: int = 0  # of the tasting Envoy; more than one: it was ended by what it was given, or by somebody


class Taster:
    """Owns the tasting Envoy. Use as an async context; `taste` may be called at any time within."""

    def __init__(self, folder: Path, *, deadline_seconds: float = TASTE_SECONDS) -> None:
        """`folder` holds the bootstrap, the socket and Envoy's last words; its path must be short."""
        self.stats: Final = TasteStats()
        self._folder = folder
        self._deadline_seconds = deadline_seconds
        self._stream = TasteStream()
        self._server: grpc.aio.Server | None = None
        self._child: Process | None = None
        self._waiters: set[asyncio.Task[None]] = set()  # one for each child that has not ended
        self._turn = asyncio.Lock()
        self._number = 0
        self._loggers: set[bytes] = set()  # access loggers that Envoy took

    async def __aenter__(self) -> Taster:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket = self._folder / "ads.sock"
        socket.unlink(missing_ok=True)
        write_atomically(self._folder / "bootstrap.json", encode_bootstrap(str(socket)))
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._stream.handler(),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        socket.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        if self._server is not None:
            await self._server.stop(0)

    @property
    def pid(self) -> int:
        """Return the Envoy's pid, 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    async def start(self) -> None:
        """Start the Envoy if none runs. Raises `LateenError` when it does not come up."""
        async with self._turn:
            await self._start()

    async def taste(self, wanted: Sequence[tuple[str, Resource]]) -> Verdicts:
        """Judge resources, each given with its type URL. One that is missing in the answer could not be judged.

        Raises `LateenError` when no Envoy can be had at all.
        """
        began = time.monotonic()
        verdicts: dict[str, str] = {}
        async with self._turn:
            try:
                async with asyncio.timeout(self._deadline_seconds + EACH_SECONDS * len(wanted)):
                    await self._taste(wanted, verdicts)
            except TimeoutError:
                log.error("tasting gave up", seconds=self._deadline_seconds, judged=len(verdicts), of=len(wanted))
                await self._stop()  # what it holds of this round must not stand in the next one's way
        stats = self.stats
        stats.rounds += 1
        stats.seconds += time.monotonic() - began
        stats.tasted += len(verdicts)
        stats.refused += sum(1 for words in verdicts.values() if words)
        stats.untasted += len({resource.version for _, resource in wanted} - verdicts.keys())
        return verdicts

    async def _taste(self, wanted: Sequence[tuple[str, Resource]], verdicts: dict[str, str]) -> None:
        waiting = list({resource.version: (type_url, resource) for type_url, resource in wanted}.values())
        waiting.sort(key=lambda pair: pair[0])
        while waiting:
            probes, waiting = self._next_probes(waiting, verdicts)
            await self._judge(probes, verdicts)

    def _next_probes(
        self, waiting: Sequence[tuple[str, Resource]], verdicts: dict[str, str]
    ) -> tuple[list[Probe], list[tuple[str, Resource]]]:
        """Return the probes of the next response, and what is left for later ones.

        A listener that brings new access loggers goes alone: those after it, which mostly have the same, go without.
        """
        probes: list[Probe] = []
        for position, (type_url, resource) in enumerate(waiting):
            self._number += 1
            try:
                probe = build_probe(type_url, resource, self._number, self._loggers)
            except (DecodeError, ValueError) as error:
                verdicts[resource.version] = readable(str(error))
                continue
            if probes and (
                probe.type_url != probes[0].type_url
                or len(probes) >= MAX_PROBES[probe.type_url]
                or bool(probe.loggers or probes[0].loggers)
            ):
                return probes, list(waiting[position:])
            probes.append(probe)
        return probes, []

    async def _judge(self, probes: Sequence[Probe], verdicts: dict[str, str]) -> None:
        """Have probes of one type judged, by halves where Envoy does not say which one it means."""
        if not probes:
            return
        type_url = probes[0].type_url
        await self._start()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                error = await self._stream.ask(type_url, probes)
        except (Unavailable, TimeoutError):
            how = await self._end()
            if len(probes) == 1:
                verdicts[probes[0].version] = f"envoy {how} when it was given this"
                return
            log.warning("tasting envoy ended", how=how, probes=len(probes))
            await self._judge_halves(probes, verdicts)
            return
        if not error:
            verdicts.update((probe.version, "") for probe in probes)
            self._loggers.update(key for probe in probes for key in probe.loggers)
            return
        named = refused(error, probes)
        verdicts.update((probe.version, words or "refused without a reason") for probe, words in named.items())
        rest = [probe for probe in probes if probe not in named]
        if named:
            await self._judge(rest, verdicts)
        elif len(probes) == 1:
            verdicts[probes[0].version] = readable(error)
        else:
            await self._judge_halves(probes, verdicts)

    async def _judge_halves(self, probes: Sequence[Probe], verdicts: dict[str, str]) -> None:
        middle = len(probes) // 2
        await self._judge(probes[:middle], verdicts)
        await self._judge(probes[middle:], verdicts)

    # ---- the process

    async def _start(self) -> None:
        if self.pid:
            return
        self._stream.lost()
        log_file = self._folder / "envoy.log"
        with open(log_file, "wb") as out:  # noqa: ASYNC230  # one system call on a local folder
            self._child = await spawn(
                self._arguments(),
                attachment=None,
                env={"PATH": os.defpath, **ENVIRONMENT},
                cwd=self._folder,
                role="proxy",
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                alone=True,
            )
        self.stats.starts += 1
        waiter = asyncio.create_task(self._wait(self._child), name="tasting envoy")
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._stream.opened()
        except TimeoutError as error:
            await self._stop()
            raise Unavailable(f"tasting envoy: no stream after {START_SECONDS:.0f} s: {self._last_words()}") from error

    def _arguments(self) -> list[str]:
        return [
            str(find_envoy()),
            *("-c", str(self._folder / "bootstrap.json")),
            *("--concurrency", "1"),
            "--disable-hot-restart",
            "--skip-deprecated-logs",
            *("-l", "critical"),
        ]

    async def _wait(self, child: Process) -> None:
        await child.wait()
        if self._child is child:
            self._stream.lost()

    async def _end(self) -> str:
        """End the Envoy, if it has not ended; return how it did, for people."""
        child = self._child
        code = child.returncode if child is not None else None
        if child is not None and code is None:
            # The stream may have ended a moment before the process.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    code = await child.wait()
        words = self._last_words()
        await self._stop()
        if code is None:
            return "gave no answer and was ended"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"{how} ({words})" if words else how

    async def _stop(self) -> None:
        child, self._child = self._child, None
        self._stream.lost()
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        if self._waiters:
            # Whoever is cancelled here leaves them to the next one who comes, at the latest at the end.
            await asyncio.wait(self._waiters)

    def _last_words(self) -> str:
        try:
            data = (self._folder / "envoy.log").read_bytes()
        except OSError:
            return ""
        lines = [line for line in data[-8192:].decode(errors="replace").splitlines() if "critical" in line]
        return readable(lines[0].rpartition("] ")[2])[:MAX_WORDS] if lines else ""
