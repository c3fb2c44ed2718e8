"""The calls that Envoys make: Check, ShouldRateLimit, StreamAccessLogs, on one server.

Messages come and go as bytes; nothing is decoded that the loaded rules do not read. What cannot be read is refused by
status, and so is a proxy whose certificate contradicts it; Envoy then does what the filter's failure mode says.
Why this server: docs/design/0025-mixer-server.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from lateen.errors import BadInput, LateenError, Refused
from lateen.mixer.http2.call import Call, CallFailed, Code, Methods, Stream, Unary
from lateen.mixer.services.answers import ALLOWED, Outcome, check_answer, limit_answer
from lateen.mixer.services.asker import Askers, Asking, Callers
from lateen.mixer.services.checks import CheckFiller
from lateen.mixer.services.descriptors import DescriptorFiller
from lateen.mixer.services.entries import EntryFiller
from lateen.mixer.services.places import Bag, Reads
from lateen.mixer.services.reports import ReportQueue
from lateen.wire.mixer import Asker

__all__ = ["ACCESS_LOGS", "AUTHORIZATION", "RATE_LIMITS", "Judge", "MixerServices", "ServiceStats"]

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
RATE_LIMITS: Final = "envoy.service.ratelimit.v3.RateLimitService"
ACCESS_LOGS: Final = "envoy.service.accesslog.v3.AccessLogService"

log = structlog.get_logger(__name__)


class Judge(Protocol):
    """Rules in force. Another one takes its place when rules change."""

    @property
    def reads(self) -> Reads: ...
    def decide(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome | Awaitable[Outcome]:
        """Return what is to become of a request, or of a connection: at once, if that can be."""

    async def limit(self, bag: Bag, asker: Asker, domain: str, hits: int) -> Outcome: ...
    def report(self, bags: Sequence[Bag], asker: Asker, *, tcp: bool) -> None: ...


@dataclass(slots=True)
class ServiceStats:
    """Sums since the start."""

    checks: int = 0
    limits: int = 0
    denied: int = 0
    failed: int = 0  # calls that got a status instead of an answer
    streams: int = 0  # of access logs, open now


@dataclass(frozen=True, slots=True)
class _Set:
    """Rules, and what they need."""

    judge: Judge
    checks: CheckFiller
    descriptors: DescriptorFiller
    entries: EntryFiller


class MixerServices:
    """Answers calls by the rules that `follow` was given last."""

    def __init__(self, judge: Judge, *, mutual_tls: bool) -> None:
        """`mutual_tls`: callers are proxies of the mesh, and whoever shows no certificate of it is refused."""
        self.stats: Final = ServiceStats()
        self.reports: Final = ReportQueue(self._report)
        self.revoked: frozenset[str] = frozenset()  # serials of certificates
        self.trust_domain = ""  # of callers; "": any that the roots vouch for
        self._mutual_tls = mutual_tls
        self._askers = Askers()
        self._callers = Callers()
        self.follow(judge)

    def follow(self, judge: Judge) -> None:
        """Answer by these rules from the next call on."""
        reads = tuple(judge.reads)
        self._set = _Set(judge, CheckFiller(reads), DescriptorFiller(reads), EntryFiller(reads))

    def methods(self) -> Methods:
        """Return what a server is to answer."""
        return {
            f"/{AUTHORIZATION}/Check": Unary(self._check),
            f"/{RATE_LIMITS}/ShouldRateLimit": Unary(self._limit),
            f"/{ACCESS_LOGS}/StreamAccessLogs": Stream(self._logs_opened, self._logs, self._logs_closed),
        }

    # ---- calls

    def _check(self, data: bytes, call: Call) -> bytes | Awaitable[bytes]:
        self.stats.checks += 1
        now = self._set
        try:
            asking, origin, connection = self._asking(call)
            bag, tcp = now.checks(data, asking, origin, connection)
        except LateenError as error:
            raise self._failed(error) from None
        outcome = now.judge.decide(bag, asking.asker, tcp=tcp)
        return self._told(outcome, tcp) if isinstance(outcome, Outcome) else self._told_later(outcome, tcp)

    async def _told_later(self, outcome: Awaitable[Outcome], tcp: bool) -> bytes:
        return self._told(await outcome, tcp)

    def _told(self, outcome: Outcome, tcp: bool) -> bytes:
        if outcome is ALLOWED:
            return _YES_TCP if tcp else _YES
        self.stats.denied += not outcome.allowed
        return check_answer(outcome, tcp=tcp)

    async def _limit(self, data: bytes, call: Call) -> bytes:
        self.stats.limits += 1
        now = self._set
        try:
            asking, _, _ = self._asking(call)
            question = now.descriptors(data, asking)
        except LateenError as error:
            raise self._failed(error) from None
        outcomes = [
            await now.judge.limit(bag, asking.asker, question.domain, hits)
            for bag, hits in zip(question.bags, question.hits, strict=True)
        ]
        self.stats.denied += any(not outcome.allowed for outcome in outcomes)
        return limit_answer(outcomes)

    def _logs_opened(self, call: Call) -> None:
        try:
            self._asking(call)
        except LateenError as error:
            raise self._failed(error) from None
        self.stats.streams += 1

    def _logs(self, data: bytes, call: Call) -> None:
        try:
            asking, _, _ = self._asking(call)
        except LateenError as error:
            raise self._failed(error) from None
        self.reports.put(data, asking)

    def _logs_closed(self) -> None:
        self.stats.streams -= 1

    def _report(self, entries: list[Any], asking: Asking, tcp: bool) -> None:
        now = self._set
        bags = []
        for entry in entries:
            try:
                bags.append(now.entries(entry, asking, tcp=tcp))
            except BadInput:
                self.reports.stats.unreadable += 1
        now.judge.report(bags, asking.asker, tcp=tcp)

    # ---- who calls

    def _asking(self, call: Call) -> tuple[Asking, str | None, str | None]:
        identity = None
        if self._mutual_tls:
            shown = (call.certificate,) if call.certificate else ()
            identity = self._callers.caller(shown, self.revoked)
            if self.trust_domain not in ("", identity.trust_domain):
                raise Refused(f"client certificate is of {identity.trust_domain}, {self.trust_domain} wanted")
        return self._askers.asking(call.metadata, identity)

    def _failed(self, error: LateenError) -> CallFailed:
        self.stats.failed += 1
        code = Code.PERMISSION_DENIED if isinstance(error, Refused) else Code.INVALID_ARGUMENT
        log.warning("call refused", status=code.name, reason=str(error))
        return CallFailed(code, str(error))


_YES: Final = check_answer(ALLOWED, tcp=False)
_YES_TCP: Final = check_answer(ALLOWED, tcp=True)
