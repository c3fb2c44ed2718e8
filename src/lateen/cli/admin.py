"""Ask one workload's Envoy or agent directly: the configuration that the proxy really holds, not what it was sent."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any

import msgspec

from lateen.errors import BadInput, Unavailable
from lateen.settings import Settings

__all__ = ["ask", "ask_json", "get_unix", "known_workloads"]

TIMEOUT_SECONDS = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


def known_workloads(settings: Settings) -> list[str]:
    """Return the workloads that run on this machine, by name."""
    return sorted(path.parent.name for path in settings.state.glob("w/*/admin.sock"))


def ask(settings: Settings, workload: str, path: str, *, method: str = "GET", sock: str = "admin.sock") -> bytes:
    """Return what the workload's socket answers. Raises `BadInput` for an unknown workload, else `Unavailable`."""
    names = known_workloads(settings)
    if workload not in names:
        listed = ", ".join(names) or "none"
        raise BadInput(f"no workload {workload!r} runs on this machine; there are: {listed}")
    connection = _UnixConnection(settings.workload_dir(workload) / sock)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
    except OSError as error:
        raise Unavailable(f"the proxy of {workload} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"the proxy of {workload} answered {response.status} to {path}: {body[:200].decode()!r}")
    return body


def get_unix(path: Path, query: str) -> tuple[int, bytes]:
    """Return status and body of a GET over a Unix socket. Raises `OSError`."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", query)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask_json(settings: Settings, workload: str, path: str) -> Any:
    """Return the JSON that the workload's Envoy answers."""
    return msgspec.json.decode(ask(settings, workload, path))
