"""The process: rules come from a folder or from the control plane, questions from Envoys, metrics go to whoever asks.

By itself (`rules` is a folder): the folder is watched, each file's last good rules stay in force, the socket speaks
plain gRPC, and only who reaches it decides who asks. As a child of the control plane (`channel` is the socketpair):
mutual TLS; the end of the socketpair is the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from lateen.api.base import Object, Origin, Problem
from lateen.api.decode import decode_object
from lateen.errors import Unavailable
from lateen.mixer.channel import Channel
from lateen.mixer.http2.server import GrpcServer
from lateen.mixer.identity import OwnIdentity
from lateen.mixer.rules_folder import RulesFolder
from lateen.mixer.services.service import Judge, MixerServices
from lateen.net.kernel import set_turn
from lateen.wire.http_server import HttpServer, Request, Response, text_response
from lateen.wire.mixer import REPORT_SECONDS, Identity, Report, RuleProblem, Rules

__all__ = ["Court", "MixerOptions", "run_mixer"]

DRAIN_SECONDS: Final = 1.0
TURN_NANOSECONDS: Final = 100_000  # a decision takes less; Linux' own is 3 ms

log = structlog.get_logger(__name__)


class Court(Protocol):
    """Makes judges of rules, and keeps what outlives them: adapters, counts, logs."""

    def judge(self, rules: Sequence[Object]) -> Judge:
        """Put rules in force; those with a fault are left out and told by `problems`."""

    def problems(self) -> Sequence[Problem]: ...
    def metrics(self) -> str:
        """Return Prometheus' text."""

    async def run(self) -> None:
        """Do what is to be done meanwhile, until cancelled."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerOptions:
    """What one run is asked to do."""

    listen: str  # "unix:PATH" | "IP:PORT"
    rules: Path | None = None  # a folder; None: rules come by the channel
    channel: socket.socket | None = None
    metrics: tuple[str, int] | None = None


async def run_mixer(options: MixerOptions, court: Court) -> int:
    """Answer until SIGINT, SIGTERM or the end of the channel; return the exit code.

    Raises: BadInput for a folder that is none, Unavailable for an address that cannot be had.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # tokens and keys are in this memory
    with contextlib.suppress(OSError):  # a sandbox may forbid it; decisions are right without
        set_turn(TURN_NANOSECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(court.close)
        mixer = _Mixer(options, court)
        stack.push_async_callback(mixer.close)
        await mixer.serve(stop)
    return 0


class _Mixer:
    def __init__(self, options: MixerOptions, court: Court) -> None:
        self._options = options
        self._court = court
        self._services = MixerServices(court.judge(()), mutual_tls=options.channel is not None)
        self._server: GrpcServer | None = None
        self._metrics: HttpServer | None = None
        self._identity = OwnIdentity()
        self._version = 0
        self._told: frozenset[Problem] = frozenset()

    async def serve(self, stop: asyncio.Event) -> None:
        options = self._options
        folder = None if options.rules is None else RulesFolder(options.rules)
        if folder is not None:
            self._put_in_force(folder.objects(), folder.problems())
            await self._listen(None)
        if options.metrics is not None:
            await self._serve_metrics(*options.metrics)
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(self._services.reports.run(), name="reports"),
                tasks.create_task(self._court.run(), name="court"),
                tasks.create_task(stop.wait(), name="signals"),
            ]
            if folder is not None:
                parts.append(tasks.create_task(self._follow(folder), name="rules"))
            elif options.channel is not None:
                channel = await Channel.open(options.channel)
                parts.append(tasks.create_task(self._obey(channel, stop), name="channel"))
                parts.append(tasks.create_task(self._tell(channel), name="heartbeat"))
            await stop.wait()
            for part in parts:
                part.cancel()

    async def close(self) -> None:
        if self._metrics is not None:
            await self._metrics.stop()
        if self._server is not None:
            await self._server.stop(DRAIN_SECONDS)

    # ---- rules

    async def _follow(self, folder: RulesFolder) -> None:
        async for _ in folder.changes():
            self._put_in_force(folder.objects(), folder.problems())

    def _put_in_force(self, rules: Sequence[Object], problems: Sequence[Problem] = ()) -> None:
        self._services.follow(self._court.judge(rules))
        log.info("rules in force", rules=len(rules))
        self._show([*problems, *self._court.problems()])

    def _show(self, problems: Sequence[Problem]) -> None:
        now = frozenset(problems)
        for problem in sorted(now - self._told):
            tell = log.error if problem.level == "error" else log.warning
            tell("problem", problem=str(problem))
        self._told = now

    async def _obey(self, channel: Channel, stop: asyncio.Event) -> None:
        """Do what the control plane says, until it is gone."""
        async for message in channel.messages():
            match message:
                case Rules():
                    self._put_in_force(_objects(message))
                    self._version = message.version
                    channel.send(self._report())
                case Identity():
                    if self._identity.take(message):
                        self._services.revoked = frozenset(message.revoked)
                        self._services.trust_domain = message.trust_domain
                        if self._server is None:
                            await self._listen(self._identity.context)
                            channel.send(self._report())
                case _:
                    log.warning("message not understood", kind=type(message).__name__)
        stop.set()

    async def _tell(self, channel: Channel) -> None:
        while True:
            if self._identity.due():
                channel.send(self._identity.wish())
            channel.send(self._report())
            await asyncio.sleep(REPORT_SECONDS)

    def _report(self) -> Report:
        stats, reports = self._services.stats, self._services.reports.stats
        return Report(
            version=self._version,
            serving=self._server is not None,
            problems=tuple(
                RuleProblem(file=one.file, line=one.line, field=one.field, message=one.message, level=one.level)
                for one in self._court.problems()
            ),
            decisions=stats.checks + stats.limits,
            denied=stats.denied,
            failed=stats.failed,
            entries=reports.taken,
            dropped=reports.dropped,
            metrics=self._metrics_text(),
        )

    # ---- sockets

    async def _listen(self, context: Callable[[], ssl.SSLContext] | None) -> None:
        server = GrpcServer(self._services.methods(), context=context)
        await server.listen(self._options.listen)
        self._server = server
        log.info("mixer ready", listen=self._options.listen, mutual_tls=context is not None)

    async def _serve_metrics(self, host: str, port: int) -> None:
        async def answer(request: Request) -> Response:
            if request.path != "/metrics":
                return text_response(404, "/metrics wanted\n")
            return Response(200, self._metrics_text().encode(), "text/plain; version=0.0.4; charset=utf-8")

        try:
            sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise Unavailable(f"--metrics {host}:{port}: {error.strerror}") from error
        sock.setblocking(False)
        self._metrics = HttpServer(answer, log)
        await self._metrics.serve_socket(sock)

    def _metrics_text(self) -> str:
        stats, reports = self._services.stats, self._services.reports.stats
        lines = [
            _metric("mixer_checks_total", "counter", "questions of external authorization", stats.checks),
            _metric("mixer_rate_limits_total", "counter", "questions of rate limits", stats.limits),
            _metric("mixer_denied_total", "counter", "of both, those that were denied", stats.denied),
            _metric("mixer_refused_calls_total", "counter", "calls that got a status and no answer", stats.failed),
            _metric("mixer_log_streams", "gauge", "streams of access logs that are open", stats.streams),
            _metric("mixer_log_entries_total", "counter", "access log entries that rules were given", reports.taken),
            _metric(
                "mixer_log_entries_dropped_total",
                "counter",
                "of them, those without room in the queue",
                reports.dropped,
            ),
            _metric("mixer_log_unreadable_total", "counter", "messages and entries not read", reports.unreadable),
        ]
        return "".join(lines) + self._court.metrics()


def _metric(name: str, kind: str, text: str, value: int) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value}\n"


def _objects(message: Rules) -> list[Object]:
    """Return the rules of a message. The control plane has checked them; what does not decode is left out and told."""
    found: list[Object] = []
    for rule in message.rules:
        decoded = decode_object(rule.resource, Origin(rule.file, rule.line))
        found.extend(decoded.objects)
        for problem in decoded.problems:
            log.error("rule not read", problem=str(problem))
    return found
