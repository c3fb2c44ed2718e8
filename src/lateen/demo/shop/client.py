"""Call the other services of the shop: HTTP/1.1 over kept connections, through an HTTP proxy if there is one."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from typing import Any

from lateen.demo.shop.settings import Address, ShopSettings

__all__ = ["Answer", "Caller", "Failure"]

_IDLE_LIMIT = 16  # connections kept for each upstream


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream said. `value` is its body's JSON; None when it is not JSON."""

    status: int
    value: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer came: refused, reset, unresolved, or later than the deadline."""

    reason: str
    timed_out: bool = False


class Caller:
    """Keeps idle connections; usable from every thread."""

    def __init__(self, settings: ShopSettings) -> None:
        self._proxy = settings.proxy
        self._no_proxy = settings.no_proxy
        self._idle: dict[Address, list[HTTPConnection]] = {}
        self._lock = threading.Lock()

    def call(
        self,
        upstream: Address,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Answer | Failure:
        """Send one GET and return what came of it; never raises for what the network or the upstream does.

        A request that a kept connection lost before any byte of an answer is sent once more on a new one.
        """
        proxied = self._proxy is not None and not self._bypasses(upstream.host)
        next_hop = self._proxy if proxied and self._proxy is not None else upstream
        target = f"http://{upstream}{path}" if proxied else path
        fields = {"host": str(upstream), **headers}
        while True:
            conn, fresh = self._take(next_hop, timeout_seconds)
            try:
                conn.request("GET", target, headers=fields)
                response = conn.getresponse()
                data = response.read()
            except (RemoteDisconnected, BrokenPipeError, ConnectionResetError) as err:
                conn.close()
                if fresh:
                    return Failure(f"{upstream} closed the connection ({err})")
                continue
            except TimeoutError:
                conn.close()
                return Failure(f"{upstream} did not answer within {timeout_seconds:g} s", timed_out=True)
            except (OSError, HTTPException) as err:
                conn.close()
                return Failure(f"{upstream} cannot be reached ({err})")
            self._give_back(next_hop, conn, response.will_close)
            return Answer(response.status, _json_of(data))

    def _bypasses(self, host: str) -> bool:
        return any(
            entry == "*" or host == entry.lstrip(".") or host.endswith("." + entry.lstrip("."))
            for entry in self._no_proxy
        )

    def _take(self, address: Address, timeout_seconds: float) -> tuple[HTTPConnection, bool]:
        """Return a connection and whether it is a new one."""
        while True:
            with self._lock:
                kept = self._idle.get(address)
                conn = kept.pop() if kept else None
            if conn is None:
                return HTTPConnection(address.host, address.port, timeout=timeout_seconds), True
            if conn.sock is None or select.select([conn.sock], [], [], 0)[0]:
                conn.close()  # readable while nobody asked: the other side has closed it
                continue
            conn.timeout = timeout_seconds
            conn.sock.settimeout(timeout_seconds)
            return conn, False

    def _give_back(self, address: Address, conn: HTTPConnection, closing: bool) -> None:
        with self._lock:
            kept = self._idle.setdefault(address, [])
            if not closing and len(kept) < _IDLE_LIMIT:
                kept.append(conn)
                return
        conn.close()


def _json_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
