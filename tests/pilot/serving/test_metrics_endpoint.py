"""One address for the metrics of a whole mesh, over real sockets: targets, handing on, and who is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from tests.fakes.ports import free_port

from lateen.errors import BadInput, Refused
from lateen.pilot.serving.metrics_endpoint import MetricsEndpoint, MetricsEndpointOptions, targets
from lateen.wire.http_server import HttpServer, Request, Response, text_response
from lateen.wire.local import Registration
from lateen.wire.readers import endpoint_readers


def registration(name: str, *, remote: bool = False, ip: str = "10.77.0.2") -> Registration:
    labels = {"app": name.partition("-")[0]}
    return Registration(
        name=name, namespace="shop", version="v1", labels=labels, ip=ip, pid=1, start_ticks=1, remote=remote
    )


@asynccontextmanager
async def serving(
    folder: Path, registrations: list[Registration], readers: tuple[str, ...] = ()
) -> AsyncIterator[MetricsEndpoint]:
    options = MetricsEndpointOptions(address="127.0.0.1", port=free_port(), readers=endpoint_readers(readers))
    endpoint = MetricsEndpoint(
        options, own=lambda: "pilot_xds 1\n", registrations=lambda: registrations, folder=lambda name: folder / name
    )
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.stop()


async def get(endpoint: MetricsEndpoint, path: str, host: str = "127.0.0.1:1") -> tuple[int, str, bytes]:
    address, _, port = endpoint.here.rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    patience = "x-prometheus-scrape-timeout-seconds: 2.5\r\n"  # is handed on
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{patience}connection: close\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await reader.read()
    writer.close()
    kind = next(line for line in head.split("\r\n") if line.startswith("content-type")).partition(": ")[2]
    return int(head.split()[1]), kind, body


@asynccontextmanager
async def agent(folder: Path, name: str, answer: Response) -> AsyncIterator[list[Request]]:
    requests: list[Request] = []

    async def handle(request: Request) -> Response:
        requests.append(request)
        return answer

    (folder / name).mkdir()
    server = HttpServer(handle, structlog.get_logger())
    await server.serve_path(folder / name / "agent.sock")
    try:
        yield requests
    finally:
        await server.stop()


def test_each_workload_is_a_target_with_its_labels() -> None:
    found = targets(
        [
            registration("b-v1", remote=True, ip="192.0.2.7"),
            registration("a-v1"),
            registration("c", remote=True, ip="::1"),
        ],
        "127.0.0.1:15014",
    )
    assert found[0] == {
        "targets": ["127.0.0.1:15014"],
        "labels": {
            "__metrics_path__": "/workloads/a-v1/metrics",
            "instance": "a-v1",
            "namespace": "shop",
            "pod": "a-v1",
            "app": "a",
            "version": "v1",
        },
    }
    # An agent elsewhere is reached at its own address.
    assert (found[1]["targets"], found[1]["labels"]["__metrics_path__"]) == (["192.0.2.7:15020"], "/stats/prometheus")
    assert found[2]["targets"] == ["[::1]:15020"]


async def test_what_is_served(tmp_path: Path) -> None:
    text = Response(200, b"istio_requests_total 3\n")
    async with agent(tmp_path, "a-v1", text) as requests, serving(tmp_path, [registration("a-v1")]) as endpoint:
        assert await get(endpoint, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"pilot_xds 1\n")
        status, kind, body = await get(endpoint, "/workloads/a-v1/metrics")
        assert (status, kind, body) == (200, "text/plain; version=0.0.4; charset=utf-8", text.body)
        assert [(request.path, request.seconds) for request in requests] == [("/stats/prometheus", 2.5)]
        status, kind, body = await get(endpoint, "/sd", host="192.0.2.1:15014")
        assert (status, kind) == (200, "application/json")
        # As whoever asks reaches it.
        assert json.loads(body)[0]["targets"] == ["192.0.2.1:15014"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/workloads/b-v1/metrics", id="not registered"),
        pytest.param("/workloads/../metrics", id="up"),
        pytest.param("/workloads/c-v1/metrics", id="elsewhere"),
        pytest.param("/workloads/a-v1/quitquitquit", id="something else"),
        pytest.param("/", id="nothing"),
    ],
)
async def test_what_is_not(tmp_path: Path, path: str) -> None:
    registrations = [registration("a-v1"), registration("c-v1", remote=True)]
    async with (
        agent(tmp_path, "a-v1", text_response(200, "")) as requests,
        serving(tmp_path, registrations) as endpoint,
    ):
        assert (await get(endpoint, path))[0] == 404
        assert requests == []


async def test_a_workload_that_does_not_answer_is_told(tmp_path: Path) -> None:
    async with (
        agent(tmp_path, "b-v1", text_response(500, "oops")),
        serving(tmp_path, [registration("a-v1"), registration("b-v1")]) as endpoint,
    ):
        for name in ("a-v1", "b-v1"):
            status, _, body = await get(endpoint, f"/workloads/{name}/metrics")
            assert status == 503
            assert f"the agent of {name} does not answer".encode() in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("127.0.0.1:15014", 200, id="address"),
        pytest.param("localhost:15014", 200, id="localhost"),
        pytest.param("[::1]:15014", 200, id="IPv6"),
        pytest.param("evil.example:15014", 403, id="a page of somebody's"),
        pytest.param("evil.example", 403, id="without port"),
    ],
)
async def test_a_page_in_a_browser_reads_nothing(tmp_path: Path, host: str, status: int) -> None:
    async with serving(tmp_path, []) as endpoint:
        for path in ("/metrics", "/sd"):
            assert (await get(endpoint, path, host=host))[0] == status


async def test_who_is_not_named_reads_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, [], ("10.1.0.0/16",)) as endpoint:
        for client, status in (("10.1.2.3", 200), ("10.2.0.1", 403), ("127.0.0.1", 200)):
            found = await endpoint._answer(Request("GET", "/metrics", "", client, host="prometheus.example"))
            # By a name of its own, since a Prometheus elsewhere is no page on this machine.
            assert found.status == (403 if client == "127.0.0.1" else status)
    with pytest.raises(BadInput, match="metrics-from"):
        endpoint_readers(["everybody"])


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, []) as endpoint:
        with pytest.raises(Refused, match=f"metrics cannot be served at {endpoint.here}: .* choose another port"):
            await MetricsEndpoint(
                endpoint._options, own=str, registrations=list, folder=lambda name: tmp_path / name
            ).start()
