"""What others may ask of an agent over HTTP: is the workload ready, and its metrics.

    15021           GET /healthz/ready
    15020           GET /healthz/ready; for `readers`: /stats/prometheus, /metrics, /stats/mesh
    w/NAME/agent.sock   the same as 15020, for the CLI on the host

`/stats/mesh` leaves out what the application says of itself: whoever looks at edges every second does not ask it.

Ports and paths are Istio's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lateen import __version__
from lateen.agent.admin import Admin
from lateen.agent.dns import DnsStats
from lateen.agent.exposition import append, is_openmetrics, is_text
from lateen.agent.identity import Identity
from lateen.agent.log import Log
from lateen.agent.metrics import CONTENT_TYPE, Metric, format_metrics
from lateen.agent.readiness import Readiness
from lateen.agent.scraping import TIMEOUT_SECONDS, Answer, Scraper
from lateen.agent.standard_metrics import SERIES_LIMITS, complete, series_of
from lateen.errors import Unavailable
from lateen.wire.http_server import Request, Response, text_response
from lateen.wire.readers import Networks, may_read

__all__ = ["Facts", "ScrapeStats", "StatusHandler", "agent_metrics", "resident_bytes"]

METRICS_PATHS: Final = frozenset({"/stats/prometheus", "/metrics"})
MESH_PATH: Final = "/stats/mesh"
FAILURES: Final = ("application", "envoy")  # as Istio's agent labels them
_QUERY_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-=&%|^$*()\\")


@dataclass(slots=True)
class ScrapeStats:
    """What became of the scrapes so far."""

    scrapes: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by whose part was missing
    families_left_out: int = 0  # of the application's, in the last scrape: the mesh has them already


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the agent's own metrics tell."""

    identity: Identity
    dns: DnsStats | None
    envoy_restarts: int
    labels: Mapping[str, str]  # of the workload, as its metrics have them: `peer_env.PEER_FIELDS`
    startup_seconds: float  # from the start of the agent to the first readiness; 0 before
    now: float  # seconds since 1970


class StatusHandler:
    """Answers requests. `readiness` and `facts` give what holds now."""

    def __init__(
        self,
        readiness: Callable[[], Readiness],
        admin: Admin,
        facts: Callable[[], Facts] | None,
        *,
        readers: Networks = (),
        scraper: Scraper | None = None,
        log: Log | None = None,
    ) -> None:
        """`facts` None serves readiness only; metrics are for `readers`, and for the Unix socket.

        `scraper` None: the application is asked for nothing.
        """
        self._readiness = readiness
        self._admin = admin
        self._facts = facts
        self._readers = readers
        self._scraper = scraper
        self._log = log
        self._told = ""
        self.stats = ScrapeStats()

    async def __call__(self, request: Request) -> Response:
        if request.path == "/healthz/ready":
            state = self._readiness()
            return text_response(200, "") if state.ready else text_response(503, f"waiting: {state.waits_for()}\n")
        if (request.path in METRICS_PATHS or request.path == MESH_PATH) and self._facts is not None:
            if not may_read(self._readers, request.client):
                return text_response(403, "metrics are for the workload itself, and whom --metrics-from names\n")
            return await self._metrics(request, self._facts())
        return text_response(404, "unknown path\n")

    async def _metrics(self, request: Request, facts: Facts) -> Response:
        if not _QUERY_CHARACTERS.issuperset(request.query):
            return text_response(400, "query with characters that no option of Envoy's has\n")
        whole = request.path != MESH_PATH
        # Both at once: the slower one is what the scrape takes.
        envoy, application = await asyncio.gather(
            self._envoy(request.query), self._application(request.seconds) if whole else _nothing()
        )
        if whole:
            self.stats.scrapes += 1
        own = format_metrics([*agent_metrics(facts), *scrape_metrics(self.stats), *series_metrics(envoy)])
        mesh = own + complete(envoy, facts.labels)
        if application is None:
            return Response(200, mesh, CONTENT_TYPE)
        try:
            # In a thread: it may be megabytes, and names are resolved meanwhile.
            found = await asyncio.to_thread(
                append, mesh, application.body, openmetrics=is_openmetrics(application.content_type)
            )
        except ValueError as error:
            self._failed("application", str(error))
            return Response(200, mesh, CONTENT_TYPE)
        self.stats.families_left_out = found.left_out
        self._told = ""
        return Response(200, found.text, CONTENT_TYPE)

    async def _envoy(self, query: str) -> bytes:
        try:
            return await self._admin.prometheus(query)
        except (Unavailable, TimeoutError):
            self._failed("envoy", "")
            return b""  # being started again; what the agent knows is told all the same

    async def _application(self, seconds: float) -> Answer | None:
        if self._scraper is None:
            return None
        # Who asks must get the mesh's metrics in time, whatever the application does: half of it is for that.
        patience = min(TIMEOUT_SECONDS, seconds / 2) if seconds else TIMEOUT_SECONDS
        try:
            answer = await self._scraper.ask(patience)
            if not is_text(answer.content_type):
                raise Unavailable(f"the application's metrics: text or OpenMetrics wanted, got {answer.content_type!r}")
        except Unavailable as error:
            self._failed("application", str(error))
            return None
        return answer

    def _failed(self, whose: str, reason: str) -> None:
        self.stats.failures[whose] += 1
        if reason and reason != self._told and self._log is not None:
            self._told = reason  # each complaint once, not every fifteen seconds
            self._log.warning("application's metrics left out", reason=reason)


async def _nothing() -> None:
    return None


def agent_metrics(facts: Facts) -> Iterable[Metric]:
    """Return the agent's own metrics, under the names of Istio's agent where it has them."""
    yield _one("istio_build", "gauge", "Version of the proxy's agent.", 1, component="proxy", tag=__version__)
    svid = facts.identity.current
    if svid is not None:
        left = svid.not_after.timestamp() - facts.now
        yield _one(
            "istio_agent_cert_expiry_seconds",
            "gauge",
            "Seconds that the certificate is still valid.",
            left,
            resource_name="default",
        )
    yield _one(
        "istio_agent_num_outgoing_requests",
        "counter",
        "Requests to the authority.",
        facts.identity.requests,
        request_type="csr",
    )
    yield _one(
        "istio_agent_num_failed_outgoing_requests",
        "counter",
        "Requests to the authority that failed.",
        facts.identity.failures,
        request_type="csr",
    )
    yield _one("istio_agent_envoy_restarts_total", "counter", "Times that Envoy ended by itself.", facts.envoy_restarts)
    yield _one("istio_agent_startup_duration_seconds", "gauge", "From start to first readiness.", facts.startup_seconds)
    yield _one("istio_agent_process_resident_memory_bytes", "gauge", "Memory of the agent itself.", resident_bytes())
    if facts.dns is not None:
        yield _one("istio_agent_dns_requests_total", "counter", "Names asked for.", facts.dns.requests)
        yield _one("istio_agent_dns_upstream_requests_total", "counter", "Names asked of the host.", facts.dns.upstream)
        yield _one(
            "istio_agent_dns_upstream_failures_total", "counter", "Names that the host did not find out.",
            facts.dns.failures,
        )  # fmt: skip


def scrape_metrics(stats: ScrapeStats) -> Iterable[Metric]:
    """Return what became of scrapes, this one included."""
    yield _one("istio_agent_scrapes_total", "counter", "Times that metrics were asked for.", stats.scrapes)
    yield Metric(
        "istio_agent_scrape_failures_total",
        "counter",
        "Times that a part of the metrics was missing, by whose.",
        tuple(((("type", whose),), float(stats.failures[whose])) for whose in FAILURES),
    )
    yield _one(
        "istio_agent_scrape_families_left_out",
        "gauge",
        "Families of the application's last answer that the mesh has already.",
        stats.families_left_out,
    )


def series_metrics(envoy: bytes) -> Iterable[Metric]:
    """Return how many series of the standard metrics Envoy keeps, and how many it may; more are not counted."""
    found = series_of(envoy)
    yield Metric(
        "istio_agent_metric_series",
        "gauge",
        "Series of the standard metrics that the proxy keeps.",
        tuple(((("type", kind),), float(number)) for kind, number in found.items()),
    )
    yield Metric(
        "istio_agent_metric_series_limit",
        "gauge",
        "Most of them that it may keep; envoy_server_stats_overflow counts what was left out.",
        tuple(((("type", kind),), float(limit)) for kind, limit in SERIES_LIMITS.items()),
    )


def resident_bytes() -> int:
    """Return the resident memory of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _one(name: str, kind: str, text: str, value: float, **labels: str) -> Metric:
    return Metric(name, kind, text, ((tuple(labels.items()), float(value)),))
