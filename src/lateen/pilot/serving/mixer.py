"""Mixer as a child of the control plane: started once a rule needs it, told its rules, given its certificate.

It is started again when it ends or says nothing for `SILENCE_SECONDS`, sooner or later by how often that happened; what
it is told is kept here, so a new one begins where the last one ended. It dies with the control plane. Whatever it does,
nothing here waits for it: proxies go by the failure modes of their filters meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog
from cryptography import x509

from lateen.api.base import EMPTY, Object, Problem
from lateen.api.encode import encode_object
from lateen.citadel.authority import IssuedChain
from lateen.errors import LateenError
from lateen.net.spawn import ends_within, spawn
from lateen.wire.local import MixerInfo
from lateen.wire.mixer import (
    MAX_LINE,
    SILENCE_SECONDS,
    Identity,
    Message,
    Report,
    Rules,
    RuleText,
    Wish,
    decode_message,
    encode_message,
)
from lateen.wire.renewal import MAX_JITTER, renewal_time

__all__ = ["MixerKeeper", "rule_text"]

COMMAND: Final = (sys.executable, "-m", "lateen", "mixer", "serve")
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
WELL_SECONDS: Final = 30.0  # after which an end counts as the first one again
START_SECONDS: Final = 20.0  # until the first word: its imports take a second, on a busy machine several
TICK_SECONDS: Final = 0.5
TRUST_SECONDS: Final = 1.0  # how often is looked whether roots have changed
STOP_SECONDS: Final = 3.0
# What a child needs of the environment to be the same program; no credentials of whoever started this one.
ENVIRONMENT: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ")

log = structlog.get_logger(__name__)

Sign = Callable[[bytes], Awaitable[IssuedChain]]
Trust = Callable[[], tuple[bytes, frozenset[str]]]  # roots in PEM, serials that are revoked


def rule_text(obj: Object) -> RuleText:
    """Return a rule as Mixer is told it."""
    return RuleText(file=obj.origin.file, line=obj.origin.line, resource=encode_object(obj))


class MixerKeeper:
    """Keeps one Mixer running while there are rules for it. `run` until cancelled; `want` at any time."""

    def __init__(
        self,
        sock: Path,
        sign: Sign,
        trust: Trust,
        *,
        trust_domain: str,
        command: Sequence[str] = COMMAND,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] = EMPTY,
        json: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`arguments`, `environment`: more of them for `command`. `on_change` is called when `problems` may change."""
        self._sock = sock
        self._sign = sign
        self._trust = trust
        self._trust_domain = trust_domain
        self._command = tuple(command)
        self._arguments = (*arguments, *(["--log-json"] if json else ()))
        self._environment = environment
        self._on_change = on_change
        self._rules = Rules(version=0, rules=())
        self._changed = asyncio.Event()
        self._child: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._identity: Identity | None = None
        self._report: Report | None = None
        self._silence = 0.0
        self._began = ""
        self.starts = 0
        self.why = ""  # it does not run, though it should

    # ---- what others ask

    def want(self, rules: Sequence[RuleText]) -> None:
        """Have these rules in force at Mixer, and no others; none: no Mixer is needed."""
        wanted = tuple(rules)
        if wanted == self._rules.rules:
            return
        self._rules = Rules(version=self._rules.version + 1, rules=wanted)
        self._send(self._rules)
        self._changed.set()

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    def info(self) -> MixerInfo | None:
        """Return what `lateen status` shows; None: no rule needs it."""
        if not self._rules.rules and not self.pid:
            return None
        report = self._report
        if not self.pid:
            state = f"not running: {self.why}" if self.why else "not running"
        elif not self._rules.rules:
            state = "ending"
        elif report is None or not report.serving:
            state = "starting"
        else:
            state = "serving" if report.version == self._rules.version else "taking new rules"
        return MixerInfo(
            pid=self.pid,
            state=state,
            started=self._began,
            starts=self.starts,
            rules=len(self._rules.rules),
            decisions=report.decisions if report is not None else 0,
            denied=report.denied if report is not None else 0,
            entries=report.entries if report is not None else 0,
            dropped=report.dropped if report is not None else 0,
        )

    def problems(self) -> list[Problem]:
        """Return what is wrong now, with Mixer and with the rules as it sees them."""
        found: list[Problem] = []
        if self._rules.rules and self.why:
            text = f"mixer does not run: {self.why}; rules that it decides go by their failurePolicy"
            found.append(Problem("", 0, "", text, "warning"))
        if self._report is not None:
            found += [
                Problem(one.file, one.line, one.field, one.message, "error" if one.level == "error" else "warning")
                for one in self._report.problems
            ]
        return found

    def metrics(self) -> str:
        """Return Mixer's own metrics as it told them last, "" while there are none."""
        return self._report.metrics if self._report is not None else ""

    # ---- the child

    async def run(self) -> None:
        """Keep Mixer as it should be, until cancelled; then end it."""
        pause = FIRST_PAUSE
        try:
            while True:
                self._changed.clear()
                if not self._rules.rules:
                    await self._changed.wait()
                    continue
                began = time.monotonic()
                how = await self._live()
                if not self._rules.rules:
                    self._note("")
                    continue
                pause = FIRST_PAUSE if time.monotonic() - began > WELL_SECONDS else min(pause * 2, LONGEST_PAUSE)
                self._note(how)
                log.error("mixer ended", how=how, next_start_seconds=round(pause, 1))
                await asyncio.sleep(pause)
        finally:
            await self._end()

    async def _live(self) -> str:
        """Run one Mixer as long as it does well and is needed; return how it ended."""
        try:
            reader = await self._start()
        except (LateenError, OSError) as error:
            await self._end(at_once=True)  # it may run, and have no channel
            return f"not started: {error}"
        child = self._child
        assert child is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [
                    tasks.create_task(self._listen(reader), name="mixer's words"),
                    tasks.create_task(self._keep_trust(), name="mixer's roots"),
                ]
                waits = [
                    tasks.create_task(child.wait(), name="mixer"),
                    tasks.create_task(self._silent(), name="mixer's silence"),
                    tasks.create_task(self._unneeded(), name="mixer's use"),
                ]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for part in (*parts, *waits):
                    part.cancel()
        finally:
            code = child.returncode
            await self._end(at_once=self._silence >= SILENCE_SECONDS)
        if code is None:
            return f"said nothing for {SILENCE_SECONDS:.0f} s and was ended"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def _start(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            self._sock.unlink(missing_ok=True)
            self._child = await spawn(
                [*self._command, "--channel", "0", "--listen", f"unix:{self._sock}", *self._arguments],
                attachment=None,
                env={**{name: os.environ[name] for name in ENVIRONMENT if name in os.environ}, **self._environment},
                role="proxy",
                stdin=theirs.fileno(),
                stdout=DEVNULL,
            )
            reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.starts += 1
        self._began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._silence = SILENCE_SECONDS - START_SECONDS
        self._report = self._identity = None
        self._send(self._rules)
        log.info("mixer started", pid=self._child.pid, rules=len(self._rules.rules))
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except (OSError, ValueError):  # ValueError: longer than a line may be
                return
            if not line.endswith(b"\n"):
                return
            try:
                await self._hear(decode_message(line))
            except msgspec.MsgspecError as error:
                log.error("mixer not understood", reason=str(error))

    async def _hear(self, message: Message) -> None:
        self._silence = 0.0
        match message:
            case Report():
                before, self._report = self._report, message
                if message.serving:
                    self._note("")
                if before is None or before.problems != message.problems:
                    self._on_change()
            case Wish():
                await self._answer(message)
            case _:
                log.error("mixer not understood", kind=type(message).__name__)

    async def _answer(self, wish: Wish) -> None:
        try:
            public = _public_key(wish.csr)
            issued = await self._sign(wish.csr.encode())
        except (LateenError, ValueError) as error:
            log.error("mixer's certificate not signed", reason=str(error))
            return
        roots, revoked = self._trust()
        self._identity = Identity(
            public_key=public,
            chain=b"".join((issued.leaf, *issued.chain)).decode(),
            roots=roots.decode(),
            trust_domain=self._trust_domain,
            renew_at=renewal_time(
                issued.not_before,
                issued.not_after,
                random.uniform(-MAX_JITTER, MAX_JITTER),  # noqa: S311 not a secret
            ).timestamp(),
            revoked=tuple(sorted(revoked)),
        )
        self._send(self._identity)

    async def _keep_trust(self) -> None:
        """Tell Mixer whose certificates are believed whenever that changes."""
        while True:
            await asyncio.sleep(TRUST_SECONDS)
            if self._identity is None:
                continue
            roots, revoked = self._trust()
            now = msgspec.structs.replace(self._identity, roots=roots.decode(), revoked=tuple(sorted(revoked)))
            if now != self._identity:
                self._identity = now
                self._send(now)

    async def _silent(self) -> None:
        """Return once nothing was heard for too long.

        Counted in ticks: when this process itself was stopped, or had no time, Mixer was not silent that long.
        """
        while self._silence < SILENCE_SECONDS:
            await asyncio.sleep(TICK_SECONDS)
            self._silence += TICK_SECONDS

    async def _unneeded(self) -> None:
        while self._rules.rules:
            self._changed.clear()
            await self._changed.wait()

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(encode_message(message))

    def _note(self, why: str) -> None:
        if why != self.why:
            self.why = why
            self._on_change()

    async def _end(self, *, at_once: bool = False) -> None:
        child = self._child
        writer, self._writer = self._writer, None
        self._report = None
        if writer is not None:
            writer.close()
        if child is None:
            return
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill() if at_once else child.terminate()
            if not await ends_within(child, STOP_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
        await child.wait()
        self._child = None  # not before: whoever is cancelled here leaves it to the one who ends everything


def _public_key(csr: str) -> str:
    from cryptography.hazmat.primitives import serialization

    found = x509.load_pem_x509_csr(csr.encode()).public_key()
    return found.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
