"""Asking an application for its metrics, over a real socket: what it may do wrong costs nothing but its own part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lateen.agent import scraping
from lateen.agent.scraping import Answer, Scraper, Target, application_metrics
from lateen.errors import BadInput, Unavailable
from lateen.wire.local import WorkloadPort

ON = {"prometheus.io/scrape": "true"}


@pytest.mark.parametrize(
    ("annotations", "target"),
    [
        pytest.param({}, None, id="nothing said"),
        pytest.param({"prometheus.io/scrape": "false", "prometheus.io/port": "9"}, None, id="no"),
        pytest.param(ON, Target(port=80), id="defaults"),
        pytest.param(
            {**ON, "prometheus.io/port": "9102", "prometheus.io/path": "stats?x=1", "prometheus.io/scheme": "https"},
            Target(port=9102, path="/stats?x=1", https=True),
            id="all",
        ),
        pytest.param({**ON, "prometheus.istio.io/merge-metrics": "false"}, None, id="not merged"),
        pytest.param({**ON, "prometheus.io/port": "9080"}, Target(port=40001), id="where it really listens"),
    ],
)
def test_where_it_is(annotations: dict[str, str], target: Target | None) -> None:
    assert application_metrics(annotations, (WorkloadPort(name="http", number=9080, target=40001),)) == target


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("scrape", "yes", id="scrape"),
        pytest.param("port", "0", id="port"),
        pytest.param("port", "http", id="port's name"),
        pytest.param("port", "15020", id="the agent itself"),
        pytest.param("path", "/a b", id="path"),
        pytest.param("path", "/a\r\nx: y", id="a line more"),
        pytest.param("scheme", "ftp", id="scheme"),
    ],
)
def test_what_cannot_be(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=rf"annotation prometheus.io/{name}: .*got"):
        application_metrics({**ON, f"prometheus.io/{name}": value})


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def application(folder: Path, serve: Serve) -> AsyncIterator[Scraper]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass  # who asks may have had enough
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, str(folder / "s"))
    scraper = Scraper(Target(port=9102), folder / "s")
    try:
        yield scraper
    finally:
        await scraper.close()
        server.close()


def saying(raw: bytes) -> Serve:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return serve


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\na 1\n", id="length"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\na 1\n", id="to the end"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n",
            id="chunks",
        ),
    ],
)
async def test_an_answer(tmp_path: Path, raw: bytes) -> None:
    async with application(tmp_path, saying(raw)) as scraper:
        assert await scraper.ask() == Answer(b"a 1\n", "text/plain")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 200 wanted, got '404'", id="404"),
        pytest.param(b"hello\r\n\r\n", "no answer in HTTP", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\na 1\n", "bytes read", id="cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "at most 8388608 bytes", id="too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "at most 8388608 bytes", id="negative"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * (9 << 20), "at most 8388608 bytes", id="without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20), "without end", id="a head without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n", "at most", id="a chunk below 0"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", "compressed", id="compressed"),
        pytest.param(b"", "bytes read", id="nothing"),
    ],
)
async def test_what_is_wrong(tmp_path: Path, raw: bytes, why: str) -> None:
    async with application(tmp_path, saying(raw)) as scraper:
        with pytest.raises(Unavailable, match=why):
            await scraper.ask()


async def test_one_that_hangs_is_asked_once_for_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "TIMEOUT_SECONDS", 0.2)
    asked = 0

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()  # until whoever asked has had enough

    async with application(tmp_path, hang) as scraper:
        results = await asyncio.gather(*(scraper.ask() for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 5
        assert "did not come within 0.2 s" in str(results[0])
        assert asked == 1


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="application's metrics"):
        await Scraper(Target(port=1), tmp_path / "nobody").ask()
