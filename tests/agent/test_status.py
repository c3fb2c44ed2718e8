"""Readiness and metrics as others ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lateen.agent.admin import Admin, parse_stats
from lateen.agent.dns import DnsStats
from lateen.agent.identity import Identity
from lateen.agent.metrics import Metric, format_metrics
from lateen.agent.readiness import ProxyState, Readiness, proxy_state
from lateen.agent.scraping import Scraper, Target
from lateen.agent.status import Facts, StatusHandler
from lateen.errors import Unavailable
from lateen.wire.http_server import Request
from lateen.wire.peer_env import peer_fields
from lateen.wire.readers import metrics_readers

LABELS = peer_fields(workload="w-v1", namespace="n", cluster="c", labels={"app": "shop"})
PROMETHEUS = b"""# TYPE envoy_istio_requests_total counter
envoy_istio_requests_total{reporter="source",path="envoy_istio_x"} 3
# HELP envoy_istio_request_bytes bytes
# TYPE envoy_istio_request_bytes histogram
envoy_istio_request_bytes_bucket{le="0.5"} 0
# TYPE envoy_server_live gauge
envoy_server_live{} 1
other_envoy_istio_x 1
"""


def test_format() -> None:
    metric = Metric("m", "gauge", "Text.", (((("a", 'x"y\\z\n'),), 1.0), ((), 2.5)))
    assert format_metrics([metric]) == b'# HELP m Text.\n# TYPE m gauge\nm{a="x\\"y\\\\z\\n"} 1\nm 2.5\n'
    assert format_metrics([]) == b""


READY = {
    "server.state": 0,
    "listener_manager.workers_started": 1,
    "cluster_manager.cds.update_success": 1,
    "listener_manager.lds.update_success": 2,
}


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param({}, ProxyState(live=True, clusters=True, listeners=True), id="ready"),
        pytest.param({"server.state": 2}, ProxyState(clusters=True, listeners=True), id="initializing"),
        pytest.param({"listener_manager.workers_started": 0}, ProxyState(clusters=True, listeners=True), id="workers"),
        pytest.param({"cluster_manager.cds.update_success": 0}, ProxyState(live=True, listeners=True), id="no CDS"),
        pytest.param({"listener_manager.lds.update_success": 0}, ProxyState(live=True, clusters=True), id="no LDS"),
    ],
)
def test_proxy_state(change: dict[str, int], state: ProxyState) -> None:
    assert proxy_state({**READY, **change}) == state
    assert state.ready is (not change)


def test_nothing_known_is_not_ready() -> None:
    assert proxy_state({}) == ProxyState()


@pytest.mark.parametrize(
    ("state", "waits_for"),
    [
        pytest.param(Readiness(proxy=proxy_state(READY), names=True), "", id="ready"),
        pytest.param(Readiness(proxy=proxy_state(READY)), "the name table", id="names"),
        pytest.param(Readiness(proxy=proxy_state(READY), names=True, draining=True), "draining", id="draining"),
        pytest.param(
            Readiness(names=True),
            "clusters from the control plane, listeners from the control plane, envoy to be live",
            id="nothing",
        ),
    ],
)
def test_what_readiness_waits_for(state: Readiness, waits_for: str) -> None:
    assert state.waits_for() == waits_for
    assert state.ready is (waits_for == "")


@asynccontextmanager
async def fake_admin(path: Path, answer: bytes) -> AsyncIterator[list[bytes]]:
    """Serve one raw answer to every request, and collect the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield requests
    finally:
        server.close()


def with_length(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na: \r\n2;x=y\r\n1\n\r\n0\r\n\r\n"


async def test_admin_reads_both_kinds_of_body(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "admin.sock")
    async with fake_admin(admin.path, CHUNKED) as requests:
        assert await admin.stats("^a$") == {"a": 1}
        assert requests[0].startswith(b"GET /stats?filter=^a$ HTTP/1.1\r\n")
    async with fake_admin(admin.path, with_length(b"a: 2\nb: No recorded values\n")):
        assert await admin.stats("") == {"a": 2}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", id="cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", id="huge"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk"),
        pytest.param(b"x" * 20000, id="endless head"),
    ],
)
async def test_admin_that_answers_nonsense_is_unavailable(tmp_path: Path, answer: bytes) -> None:
    admin = Admin(tmp_path / "admin.sock")
    async with fake_admin(admin.path, answer):
        with pytest.raises(Unavailable, match=r"admin\.sock"):
            await admin.stats("")


async def test_admin_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await Admin(tmp_path / "admin.sock").is_live()


def test_stats_are_numbers() -> None:
    text = b"cluster.a: b.c: 7\nx: P0(nan,1)\nneg: -1\ntext: abc\n\n"
    assert parse_stats(text) == {"cluster.a: b.c": 7}


def handler(
    admin: Admin, state: Readiness, log: Any, *, metrics: bool = True, scraper: Scraper | None = None
) -> StatusHandler:
    async def sign(_: bytes, __: int) -> list[str]:
        raise AssertionError("not asked")

    identity = Identity(sign, namespace="a", service_account="b", lifetime=None, log=log)
    facts = Facts(
        identity=identity, dns=DnsStats(5, 2, 1), envoy_restarts=3, labels=LABELS, startup_seconds=0.25, now=0.0
    )
    readers = metrics_readers("10.77.0.9", ["10.1.0.0/16"])
    tell = (lambda: facts) if metrics else None
    return StatusHandler(lambda: state, admin, tell, readers=readers, scraper=scraper, log=log)


async def test_health(tmp_path: Path, log: Any) -> None:
    admin = Admin(tmp_path / "admin.sock")
    get = Request("GET", "/healthz/ready", "")
    ready = await handler(admin, Readiness(proxy=proxy_state(READY), names=True), log)(get)
    waiting = await handler(admin, Readiness(proxy=proxy_state(READY)), log)(get)
    assert (ready.status, waiting.status) == (200, 503)
    assert waiting.body == b"waiting: the name table\n"


async def test_metrics_hold_both(tmp_path: Path, log: Any) -> None:
    admin = Admin(tmp_path / "admin.sock")
    async with fake_admin(admin.path, with_length(PROMETHEUS)) as requests:
        for path in ("/stats/prometheus", "/metrics"):
            response = await handler(admin, Readiness(), log)(Request("GET", path, "usedonly"))
            assert response.status == 200
            text = response.body.decode()
            assert 'istio_requests_total{destination_app="unknown",' in text
            assert 'source_app="shop",' in text
            assert "istio_agent_envoy_restarts_total 3\n" in text
            assert "istio_agent_dns_upstream_failures_total 1\n" in text
            assert 'istio_build{component="proxy",tag="' in text
            assert response.content_type.startswith("text/plain; version=0.0.4")
        assert requests[0].startswith(b"GET /stats/prometheus?usedonly HTTP/1.1")


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("", 200),  # the Unix socket
        ("127.0.0.1", 200),
        ("10.77.0.9", 200),  # the workload itself
        ("10.1.2.3", 200),  # named
        ("10.77.0.8", 403),
        ("10.2.0.1", 403),
        ("::1", 200),
        ("::ffff:10.77.0.8", 403),
        ("nonsense", 403),
    ],
)
async def test_whose_business_metrics_are(tmp_path: Path, log: Any, client: str, status: int) -> None:
    answer = handler(Admin(tmp_path / "none"), Readiness(), log)
    for path in ("/metrics", "/stats/prometheus"):
        assert (await answer(Request("GET", path, "", client))).status == status
    assert (await answer(Request("GET", "/healthz/ready", "", client))).status == 503  # for everybody: it is not ready


APPLICATION = b"# TYPE orders counter\norders 7\n# TYPE istio_requests_total counter\nistio_requests_total 9\n"


@pytest.mark.parametrize(
    ("answer", "told", "failures", "left_out"),
    [
        pytest.param(with_length(APPLICATION), True, 0, 1, id="text"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0\r\n\r\n"
            b"# TYPE orders counter\norders_total 7\n# EOF\n",
            True,
            0,
            0,
            id="OpenMetrics",
        ),
        pytest.param(with_length(b"<html>"), False, 1, 0, id="broken"),
        pytest.param(with_length(b"", "500 Oops"), False, 1, 0, id="failing"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\nx", False, 1, 0, id="of another kind"
        ),
    ],
)
async def test_an_application_is_told_behind_the_mesh_or_counted(
    tmp_path: Path, log: Any, answer: bytes, told: bool, failures: int, left_out: int
) -> None:
    admin, scraper = Admin(tmp_path / "admin.sock"), Scraper(Target(port=9102), tmp_path / "app.sock")
    status = handler(admin, Readiness(), log, scraper=scraper)
    async with fake_admin(admin.path, with_length(PROMETHEUS)), fake_admin(scraper.socket, answer):
        text = (await status(Request("GET", "/stats/prometheus", ""))).body.decode()
        mesh = (await status(Request("GET", "/stats/mesh", ""))).body.decode()
    for body in (text, mesh):
        assert body.count("# TYPE istio_requests_total counter\n") == 1
        assert 'path="envoy_istio_x",reporter="source",' in body
        assert 'istio_agent_metric_series{type="counter"} 1\n' in body
        assert 'istio_agent_metric_series_limit{type="histogram"} 3000\n' in body
        assert "\nistio_requests_total 9" not in body
    assert ("orders 7\n" in text or "orders_total 7\n" in text) is told
    assert "orders" not in mesh
    # The second look tells of the first.
    assert "istio_agent_scrapes_total 1\n" in mesh
    assert f'istio_agent_scrape_failures_total{{type="application"}} {failures}\n' in mesh
    assert f"istio_agent_scrape_families_left_out {left_out}\n" in mesh
    assert ("application's metrics left out" in log.buffer.getvalue()) is bool(failures)


async def test_whoever_waits_a_short_time_gets_the_meshs_metrics_in_time(tmp_path: Path, log: Any) -> None:
    admin, scraper = Admin(tmp_path / "admin.sock"), Scraper(Target(port=9102), tmp_path / "app.sock")
    status = handler(admin, Readiness(), log, scraper=scraper)

    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until whoever asked has had enough
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_unix_server(hang, str(scraper.socket))
    try:
        async with fake_admin(admin.path, with_length(PROMETHEUS)):
            text = (await status(Request("GET", "/stats/prometheus", "", seconds=0.1))).body.decode()
    finally:
        await scraper.close()
        await asyncio.wait_for(left.wait(), 5)
        server.close()
    assert "istio_requests_total{" in text
    assert "did not come within 0.05 s" in log.buffer.getvalue()


async def test_metrics_without_envoy_are_the_agents(tmp_path: Path, log: Any) -> None:
    response = await handler(Admin(tmp_path / "none"), Readiness(), log)(Request("GET", "/metrics", ""))
    assert response.status == 200
    assert b"istio_agent_num_outgoing_requests" in response.body
    assert b'istio_agent_scrape_failures_total{type="envoy"} 1\n' in response.body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(Request("GET", "/stats/prometheus", "a b\r\nX: y"), 400, id="a query that would be headers"),
        pytest.param(Request("GET", "/quitquitquit", ""), 404, id="admin's paths are not served"),
        pytest.param(Request("GET", "/stats/prometheus/../../x", ""), 404, id="no path but those"),
    ],
)
async def test_nothing_else_reaches_envoy(tmp_path: Path, log: Any, request_: Request, status: int) -> None:
    admin = Admin(tmp_path / "admin.sock")
    async with fake_admin(admin.path, with_length(b"")) as requests:
        assert (await handler(admin, Readiness(), log)(request_)).status == status
        assert requests == []


async def test_the_health_port_has_no_metrics(tmp_path: Path, log: Any) -> None:
    response = await handler(Admin(tmp_path / "x"), Readiness(), log, metrics=False)(Request("GET", "/metrics", ""))
    assert response.status == 404
