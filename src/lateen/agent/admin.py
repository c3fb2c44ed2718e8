"""Ask the workload's own Envoy on its admin socket: one short HTTP/1.1 request a connection.

Envoy is trusted, and still held to a deadline and a size: it may hang, or be a gigabyte of stats.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lateen.errors import Unavailable
from lateen.wire.series import MAX_SCRAPE_BYTES

__all__ = ["Admin", "AdminResponse", "parse_stats"]

TIMEOUT_SECONDS: Final = 2.0
STATS_SECONDS: Final = 10.0
MAX_BODY_BYTES: Final = MAX_SCRAPE_BYTES  # the longest answer is that with all metrics
MAX_HEAD_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class AdminResponse:
    status: int
    body: bytes


class Admin:
    """Envoy's admin interface behind `path`. Every method raises `Unavailable` when it does not answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def is_live(self) -> bool:
        """Whether Envoy has all that it waits for at the start, and is not draining."""
        return (await self.request("GET", "/ready")).status == 200

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return counters and gauges whose names match a regular expression (of letters and `.*^$|_()` only)."""
        return parse_stats((await self.request("GET", f"/stats?filter={pattern}")).body)

    async def prometheus(self, query: str = "") -> bytes:
        """Return all stats as Prometheus text, under Envoy's own names."""
        path = "/stats/prometheus" + (f"?{query}" if query else "")
        response = await self.request("GET", path, seconds=STATS_SECONDS)
        if response.status != 200:
            raise Unavailable(f"Envoy answered {response.status} to {path}")
        return response.body

    async def drain_listeners(self, *, inbound_only: bool) -> None:
        """Begin to drain: responses ask clients to close, new connections are still taken for a while."""
        await self.request("POST", "/drain_listeners?graceful" + ("&inboundonly" if inbound_only else ""))

    async def quit(self) -> None:
        """Tell Envoy to exit at once."""
        await self.request("POST", "/quitquitquit")

    async def request(self, method: str, path: str, *, seconds: float = TIMEOUT_SECONDS) -> AdminResponse:
        """Send one request and return the whole answer."""
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(method, path)
        except (OSError, EOFError, ValueError) as error:
            raise Unavailable(f"Envoy at {str(self.path)!r}: {error or type(error).__name__}") from error

    async def _exchange(self, method: str, path: str) -> AdminResponse:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=MAX_HEAD_BYTES)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = dict(_header(line) for line in lines[1:] if line)
            body = await _body(reader, headers)
            return AdminResponse(int(lines[0].split()[1]), body)
        except (asyncio.LimitOverrunError, IndexError) as error:
            raise ValueError(f"no HTTP response: {error}") from error
        finally:
            writer.close()


def parse_stats(text: bytes) -> dict[str, int]:
    """Return `name: number` lines of Envoy's `/stats`; histograms and texts are left out."""
    found = {}
    for line in text.decode(errors="replace").splitlines():
        name, colon, value = line.rpartition(": ")
        if colon and value.isdecimal():
            found[name] = int(value)
    return found


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip().lower()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        size = int(headers.get("content-length", "0"))
        return await reader.readexactly(_bounded(size))
    parts: list[bytes] = []
    total = 0
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        total = _bounded(total + size)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    return b"".join(parts)


def _bounded(size: int) -> int:
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError(f"body of at most {MAX_BODY_BYTES} bytes wanted, got {size}")
    return size
