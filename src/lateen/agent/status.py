"""What others may ask of an agent over HTTP: is the workload ready, and its metrics.

    15021           GET /healthz/ready
    15020           GET /healthz/ready; for `readers`: /stats/prometheus, /metrics
    w/NAME/agent.sock   the same as 15020, for the CLI on the host

Ports and paths are Istio's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lateen import __version__
from lateen.agent.admin import Admin
from lateen.agent.dns import DnsStats
from lateen.agent.identity import Identity
from lateen.agent.metrics import CONTENT_TYPE, Metric, format_metrics, merge
from lateen.agent.readers import Networks, may_read
from lateen.agent.readiness import Readiness
from lateen.errors import Unavailable
from lateen.wire.http_server import Request, Response, text_response

__all__ = ["Facts", "StatusHandler", "agent_metrics", "resident_bytes"]

METRICS_PATHS: Final = frozenset({"/stats/prometheus", "/metrics"})
_QUERY_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-=&%|^$*()\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the agent's own metrics tell."""

    identity: Identity
    dns: DnsStats | None
    envoy_restarts: int
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
    ) -> None:
        """`facts` None serves readiness only; metrics are for `readers`, and for the Unix socket."""
        self._readiness = readiness
        self._admin = admin
        self._facts = facts
        self._readers = readers

    async def __call__(self, request: Request) -> Response:
        if request.path == "/healthz/ready":
            state = self._readiness()
            return text_response(200, "") if state.ready else text_response(503, f"waiting: {state.waits_for()}\n")
        if request.path in METRICS_PATHS and self._facts is not None:
            if not may_read(self._readers, request.client):
                return text_response(403, "metrics are for the workload itself, and whom --metrics-from names\n")
            return await self._metrics(request.query, self._facts())
        return text_response(404, "unknown path\n")

    async def _metrics(self, query: str, facts: Facts) -> Response:
        if not _QUERY_CHARACTERS.issuperset(query):
            return text_response(400, "query with characters that no option of Envoy's has\n")
        try:
            envoy = await self._admin.prometheus(query)
        except Unavailable:
            envoy = b""  # being started again; what the agent knows is told all the same
        return Response(200, merge(format_metrics(agent_metrics(facts)), envoy), CONTENT_TYPE)


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


def resident_bytes() -> int:
    """Return the resident memory of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _one(name: str, kind: str, text: str, value: float, **labels: str) -> Metric:
    return Metric(name, kind, text, ((tuple(labels.items()), float(value)),))
