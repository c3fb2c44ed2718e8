"""The calls that Envoys make: Check, ShouldRateLimit, StreamAccessLogs, on one `grpc.aio` server.

Messages come and go as bytes; nothing is decoded that the loaded rules do not read. What cannot be read is refused by
status, and so is a proxy whose certificate contradicts it; Envoy then does what the filter's failure mode says.
Why this server: docs/design/0022-mixer-process.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import structlog

from lateen.errors import BadInput, LateenError, Refused
from lateen.mixer.services.answers import ALLOWED, Outcome, check_answer, limit_answer
from lateen.mixer.services.asker import Askers, Asking, Callers
from lateen.mixer.services.checks import CheckFiller
from lateen.mixer.services.descriptors import DescriptorFiller
from lateen.mixer.services.entries import EntryFiller
from lateen.mixer.services.places import Bag, Reads
from lateen.mixer.services.reports import ReportQueue
from lateen.wire.mixer import Asker

__all__ = ["ACCESS_LOGS", "AUTHORIZATION", "RATE_LIMITS", "SERVER_OPTIONS", "Judge", "MixerServices", "ServiceStats"]

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
RATE_LIMITS: Final = "envoy.service.ratelimit.v3.RateLimitService"
ACCESS_LOGS: Final = "envoy.service.accesslog.v3.AccessLogService"

MAX_MESSAGE: Final = 4 << 20
# Of questions that wait for an adapter; more are refused at once, which Envoy treats as any failure.
MAX_IN_FLIGHT: Final = 2048
SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.so_reuseport", 0),
    # Envoys ping every two seconds, to find one that hangs; gRPC's own limit would take that for abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Envoys keep one connection; what a dead one left is found within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

log = structlog.get_logger(__name__)


class Judge(Protocol):
    """Rules in force. Another one takes its place when rules change."""

    @property
    def reads(self) -> Reads: ...
    async def check(self, bag: Bag, asker: Asker, *, tcp: bool) -> Outcome: ...
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

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server is to answer; it hands on bytes as they are."""
        return tuple(
            grpc.method_handlers_generic_handler(service, methods)
            for service, methods in (
                (AUTHORIZATION, {"Check": grpc.unary_unary_rpc_method_handler(self._check)}),
                (RATE_LIMITS, {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(self._limit)}),
                (ACCESS_LOGS, {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._logs)}),
            )
        )

    # ---- calls

    async def _check(self, data: bytes, context: Any) -> bytes:
        self.stats.checks += 1
        now = self._set
        try:
            asking, origin, connection = self._asking(context)
            bag, tcp = now.checks(data, asking, origin, connection)
        except LateenError as error:
            await self._fail(context, error)
            raise
        outcome = await now.judge.check(bag, asking.asker, tcp=tcp)
        if outcome is ALLOWED:
            return _YES_TCP if tcp else _YES
        self.stats.denied += not outcome.allowed
        return check_answer(outcome, tcp=tcp)

    async def _limit(self, data: bytes, context: Any) -> bytes:
        self.stats.limits += 1
        now = self._set
        try:
            asking, _, _ = self._asking(context)
            question = now.descriptors(data, asking)
        except LateenError as error:
            await self._fail(context, error)
            raise
        outcomes = [
            await now.judge.limit(bag, asking.asker, question.domain, hits)
            for bag, hits in zip(question.bags, question.hits, strict=True)
        ]
        self.stats.denied += any(not outcome.allowed for outcome in outcomes)
        return limit_answer(outcomes)

    async def _logs(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            asking, _, _ = self._asking(context)
        except LateenError as error:
            await self._fail(context, error)
            raise
        self.stats.streams += 1
        try:
            async for data in messages:
                self.reports.put(data, asking)
        finally:
            self.stats.streams -= 1
        return b""

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

    def _asking(self, context: Any) -> tuple[Asking, str | None, str | None]:
        identity = None
        if self._mutual_tls:
            identity = self._callers.caller(context.auth_context().get("x509_pem_cert", ()), self.revoked)
            if self.trust_domain not in ("", identity.trust_domain):
                raise Refused(f"client certificate is of {identity.trust_domain}, {self.trust_domain} wanted")
        return self._askers.asking(context.invocation_metadata() or (), identity)

    async def _fail(self, context: Any, error: LateenError) -> None:
        self.stats.failed += 1
        code = grpc.StatusCode.PERMISSION_DENIED if isinstance(error, Refused) else grpc.StatusCode.INVALID_ARGUMENT
        log.warning("call refused", status=code.name, reason=str(error))
        await context.abort(code, str(error))


_YES: Final = check_answer(ALLOWED, tcp=False)
_YES_TCP: Final = check_answer(ALLOWED, tcp=True)
