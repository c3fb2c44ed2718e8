"""The metrics of a whole mesh at one address, for a Prometheus that is outside of it.

    /metrics                    the control plane's own
    /sd                         every workload as a target, for Prometheus' http_sd_configs
    /workloads/NAME/metrics     one workload's, asked of its agent by its Unix socket

A Prometheus reaches neither the networks of workloads nor Unix sockets; this hands on, and keeps nothing. Metrics tell
who calls whom, so it is opened only when asked for, and answers readers that it was told of. A page in a browser of
this machine may be anybody's: from loopback, only requests by an address or `localhost` are answered.
Rules: Prometheus "HTTP SD", docs/observability.md "Prometheus".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from lateen.errors import Refused, Unavailable
from lateen.wire.http_server import HttpServer, Request, Response, text_response
from lateen.wire.local import Registration
from lateen.wire.readers import Networks, may_read
from lateen.wire.series import MAX_TOLD_BYTES

__all__ = ["MetricsEndpoint", "MetricsEndpointOptions", "targets"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
AGENT_PORT: Final = 15020
AGENT_PATH: Final = "/stats/prometheus"
BACKLOG: Final = 128
AT_ONCE: Final = 8  # answers of workloads in this memory at one moment
ASK_SECONDS: Final = 10.0
MAX_HEAD_BYTES: Final = 16 << 10
MAX_BODY_BYTES: Final = MAX_TOLD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsEndpointOptions:
    """What `lateen up` is told of it."""

    address: str
    port: int
    readers: Networks


def targets(registrations: Iterable[Registration], here: str) -> list[dict[str, Any]]:
    """Return every workload as Prometheus reads targets, by name; `here` is this endpoint's HOST:PORT.

    The agent of a workload elsewhere is asked itself, at its own address.
    """
    return [
        {
            "targets": [_remote(one.ip) if one.remote else here],
            "labels": {
                "__metrics_path__": AGENT_PATH if one.remote else f"/workloads/{one.name}/metrics",
                "instance": one.name,
                "namespace": one.namespace,
                "pod": one.name,  # what Istio's dashboards call it
                "app": one.labels.get("app", ""),
                "version": one.version,
            },
        }
        for one in sorted(registrations, key=lambda one: one.name)
    ]


class MetricsEndpoint:
    """Serves it. `start` it, `stop` it."""

    def __init__(
        self,
        options: MetricsEndpointOptions,
        *,
        own: Callable[[], str],
        registrations: Callable[[], Iterable[Registration]],
        folder: Callable[[str], Path],
    ) -> None:
        """`own` gives the control plane's metrics, `folder` where a workload's sockets are."""
        self._options = options
        self._own = own
        self._registrations = registrations
        self._folder = folder
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._server = HttpServer(self._answer, structlog.get_logger())

    @property
    def here(self) -> str:
        return _with_port(self._options.address, self._options.port)

    async def start(self) -> None:
        """Listen. Raises `Refused` when the address is not to be had."""
        address, port = self._options.address, self._options.port
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise Refused(f"metrics cannot be served at {self.here}: {error.strerror}; choose another port") from error
        await self._server.serve_socket(sock)

    async def stop(self) -> None:
        await self._server.stop()

    async def _answer(self, request: Request) -> Response:
        if not may_read(self._options.readers, request.client) or not _meant(request):
            return text_response(403, "metrics are for this machine, and whom --metrics-from names\n")
        if request.path == "/metrics":
            return Response(200, self._own().encode(), CONTENT_TYPE)
        if request.path == "/sd":
            body = msgspec.json.encode(targets(self._registrations(), request.host or self.here))
            return Response(200, body, "application/json")
        words = request.path.split("/")
        if len(words) == 4 and words[1] == "workloads" and words[3] == "metrics":
            # By a name that is registered, never by one that a path makes up.
            if all(one.name != words[2] or one.remote for one in self._registrations()):
                return text_response(404, "no such workload on this machine\n")
            return await self._workload(words[2], request.seconds)
        return text_response(404, "there are /metrics, /sd and /workloads/NAME/metrics\n")

    async def _workload(self, name: str, seconds: float) -> Response:
        try:
            async with self._slots, asyncio.timeout(ASK_SECONDS):
                body = await _ask(self._folder(name) / "agent.sock", seconds)
        except (TimeoutError, OSError, EOFError, ValueError, Unavailable) as error:
            return text_response(503, f"the agent of {name} does not answer: {error or type(error).__name__}\n")
        return Response(200, body, CONTENT_TYPE)


def _remote(ip: str) -> str:
    return _with_port(ip, AGENT_PORT)


def _with_port(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _meant(request: Request) -> bool:
    """Tell whether a request from loopback was meant for it: a browser names the page's own host."""
    if not request.client or not ip_address(request.client).is_loopback:
        return True
    name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdecimal() else request.host
    if name in ("", "localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


async def _ask(path: Path, seconds: float) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_HEAD_BYTES)
    try:
        patience = f"x-prometheus-scrape-timeout-seconds: {seconds:.3f}\r\n" if seconds else ""
        writer.write(f"GET {AGENT_PATH} HTTP/1.1\r\nhost: agent\r\n{patience}connection: close\r\n\r\n".encode())
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        if lines[0].split(" ")[1:2] != ["200"]:
            raise Unavailable(f"status 200 wanted, got {lines[0][:80]!r}")
        sizes = [line.partition(":")[2].strip() for line in lines if line.startswith("content-length:")]
        size = int(sizes[0]) if sizes else -1
        if not 0 <= size <= MAX_BODY_BYTES:
            raise ValueError(f"at most {MAX_BODY_BYTES} bytes wanted, got {size}")
        return await reader.readexactly(size)
    except asyncio.LimitOverrunError as error:
        raise ValueError("a head without end") from error
    finally:
        writer.close()
