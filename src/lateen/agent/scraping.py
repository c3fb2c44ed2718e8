"""Ask the workload's own application for its metrics: where its annotations say, by way of its Envoy, within bounds.

In:  annotations (`prometheus.io/scrape`, `port`, `path`, `scheme`; `prometheus.istio.io/merge-metrics`). Out: text.
Rules: Istio's merging of Prometheus metrics, docs/observability.md "Metrics of applications".

The agent is in the host's network and cannot reach the application; its Envoy is beside it, and hands what comes by one
Unix socket on to one port of the workload's loopback, nowhere else. Nobody waits for an application longer than it may
take: whoever asks meanwhile shares the answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lateen.agent.exposition import ACCEPT
from lateen.errors import BadInput, Unavailable
from lateen.wire.local import WorkloadPort

__all__ = [
    "LISTENER_SOCKET",
    "RESERVED_PORTS",
    "TIMEOUT_SECONDS",
    "Answer",
    "Scraper",
    "Target",
    "application_metrics",
]

TIMEOUT_SECONDS: Final = 3.0  # for the whole answer: Prometheus itself waits 10 s for all of them
MAX_BODY_BYTES: Final = 8 << 20
MAX_HEAD_BYTES: Final = 16 << 10
LISTENER_SOCKET: Final = "app.sock"
# Istio's, docs: "ports"; 15054 is Lateen's own.
RESERVED_PORTS: Final = frozenset({15000, 15001, 15006, 15008, 15020, 15021, 15053, 15054, 15090})
_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an application exposes its metrics, on its loopback."""

    port: int
    path: str = "/metrics"
    https: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    content_type: str


def application_metrics(annotations: Mapping[str, str], ports: Sequence[WorkloadPort] = ()) -> Target | None:
    """Return what is asked, None for an application that wants nothing asked. Raises `BadInput`.

    `ports` are the workload's: where the application listens elsewhere than clients dial, it is asked there.
    """
    if not _is_true(annotations, "prometheus.io/scrape", default=False):
        return None
    if not _is_true(annotations, "prometheus.istio.io/merge-metrics", default=True):
        return None
    text = annotations.get("prometheus.io/port", "80")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadInput(f"annotation prometheus.io/port: must be between 1 and 65535, got {text!r}")
    port = int(text)
    if port in RESERVED_PORTS:
        raise BadInput(
            f"annotation prometheus.io/port: one of the application wanted, got {port}, which is the proxy's"
        )
    path = annotations.get("prometheus.io/path", "/metrics")
    if not path.startswith("/"):
        path = f"/{path}"
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadInput(f"annotation prometheus.io/path: a path of a URL wanted, got {path!r}")
    scheme = annotations.get("prometheus.io/scheme", "http").lower()
    if scheme not in _SCHEMES:
        raise BadInput(f"annotation prometheus.io/scheme: must be http or https, got {scheme!r}")
    target = next((one.target for one in ports if one.number == port), port)
    return Target(port=target, path=path, https=scheme == "https")


def _is_true(annotations: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = annotations.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        raise BadInput(f"annotation {name}: must be true or false, got {text!r}")
    return text.lower() == "true"


class Scraper:
    """Asks one application. Its methods raise `Unavailable` when it does not answer as it should."""

    def __init__(self, target: Target, socket: Path) -> None:
        self.target = target
        self.socket = socket
        self._asking: asyncio.Task[Answer] | None = None

    async def ask(self, seconds: float = TIMEOUT_SECONDS) -> Answer:
        """Return the application's answer; while one is on its way, everybody waits for that one, `seconds` at most."""
        task = self._asking
        if task is None or task.done():
            task = self._asking = asyncio.create_task(self._ask(), name="application's metrics")
            task.add_done_callback(_heard)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise Unavailable(f"the application's metrics did not come within {seconds:g} s") from error

    async def close(self) -> None:
        """End what is on its way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._exchange()
        except TimeoutError as error:
            raise Unavailable(f"the application's metrics did not come within {TIMEOUT_SECONDS:g} s") from error
        except (OSError, EOFError, ValueError) as error:
            raise Unavailable(f"the application's metrics: {error or type(error).__name__}") from error

    async def _exchange(self) -> Answer:
        tls: dict[str, Any] = {}
        if self.target.https:
            # As Kubernetes' probes: an application's own certificate is nobody's business but its callers'.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            tls = {"ssl": context, "server_hostname": "localhost"}
        reader, writer = await asyncio.open_unix_connection(str(self.socket), limit=MAX_HEAD_BYTES, **tls)
        try:
            head = (
                f"GET {self.target.path} HTTP/1.1\r\nhost: localhost:{self.target.port}\r\naccept: {ACCEPT}\r\n"
                "user-agent: lateen-agent\r\nconnection: close\r\n\r\n"
            )
            writer.write(head.encode())
            await writer.drain()
            return await _read(reader)
        except asyncio.LimitOverrunError as error:
            raise ValueError("a head, or the size of a chunk, without end") from error
        finally:
            writer.close()


def _heard(task: asyncio.Task[Answer]) -> None:
    if not task.cancelled():
        task.exception()  # whoever asked may be gone


async def _read(reader: asyncio.StreamReader) -> Answer:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if not lines[0].startswith("HTTP/1.") or len(words) < 2:
        raise ValueError("no answer in HTTP")
    if words[1] != "200":
        raise ValueError(f"status 200 wanted, got {words[1][:20]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ValueError("an answer as it is wanted, got a compressed one")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    elif "content-length" in headers:
        body = await reader.readexactly(_bounded(int(headers["content-length"])))
    else:
        parts: list[bytes] = []
        while part := await reader.read(1 << 16):
            parts.append(part)
            _bounded(sum(map(len, parts)))
        body = b"".join(parts)
    return Answer(body, headers.get("content-type", ""))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        total = _bounded(total + size) if size > 0 else _bounded(-1)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    return b"".join(parts)


def _bounded(size: int) -> int:
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError(f"at most {MAX_BODY_BYTES} bytes wanted, got {size}")
    return size
