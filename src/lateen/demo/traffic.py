"""Some traffic for the demo: a browser that never tires, at a fixed rate, through the gateway."""

from __future__ import annotations

import asyncio
import itertools

__all__ = ["PATHS", "Traffic", "get"]

PATHS = ("/productpage", "/productpage", "/api/v1/products/0/reviews", "/api/v1/products", "/api/v1/products/0")
REQUEST_SECONDS = 5.0
MAX_IN_FLIGHT = 50  # a mesh that hangs is not buried in requests


async def get(port: int, path: str, *, host: str = "127.0.0.1", seconds: float = REQUEST_SECONDS) -> tuple[int, bytes]:
    """Return (status, body) of one GET on a connection of its own. Raises `OSError` or `TimeoutError`."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            head = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: lateen-demo\r\nconnection: close\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    first, _, body = answer.partition(b"\r\n\r\n")
    parts = first.split(b" ", 2)
    if len(parts) < 2 or not parts[1].isdigit():
        raise ConnectionError("no HTTP answer")
    return int(parts[1]), body


class Traffic:
    """Sends requests at a rate, until cancelled; counts what came back."""

    def __init__(self, port: int, requests_per_second: float) -> None:
        self._port = port
        self._gap = 1 / requests_per_second
        self.sent = 0
        self.failed = 0

    async def run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            for path in itertools.cycle(PATHS):
                if len(running) < MAX_IN_FLIGHT:
                    task = asyncio.create_task(self._one(path))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(self._gap)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _one(self, path: str) -> None:
        self.sent += 1
        try:
            status, _ = await get(self._port, path)
        except (OSError, TimeoutError):
            self.failed += 1
        else:
            self.failed += status >= 500
