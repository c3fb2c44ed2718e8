"""Addresses and ports for workloads where no namespaces can be made: each gets a loopback address of its own.

`run/explicit.json` holds who has which, under a lock; an entry stands as long as its process does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from lateen.errors import Unavailable, Unsupported
from lateen.net.process import start_ticks
from lateen.settings import Settings
from lateen.wire.files import write_atomically

__all__ = ["NETWORK", "allocate", "free_port", "release"]

NETWORK = IPv4Network("127.77.0.0/16")

_FIRST = 2
_LAST = NETWORK.num_addresses - 2


class _Entry(msgspec.Struct, frozen=True):
    ip: str
    pid: int
    start_ticks: int


def allocate(settings: Settings, name: str, pid: int | None = None) -> IPv4Address:
    """Return the loopback address of workload `name` for as long as process `pid` (this one) runs.

    A name gets the same address each time, unless another took it meanwhile. Raises `Unavailable` when a process that
    still runs holds `name`, `Unsupported` where the system has no 127.0.0.0/8 on its loopback (macOS).
    """
    pid = os.getpid() if pid is None else pid
    ticks = start_ticks(pid)
    if ticks is None:
        raise Unavailable(f"no process {pid} to hold an address for {name!r}")
    with _entries(settings) as entries:
        for gone in [key for key, entry in entries.items() if start_ticks(entry.pid) != entry.start_ticks]:
            del entries[gone]
        held = entries.get(name)
        if held and held.pid != pid:
            raise Unavailable(f"workload {name!r} is held by process {held.pid}; it must end first")
        address = IPv4Address(held.ip) if held else _first_free(name, {entry.ip for entry in entries.values()})
        _check_bindable(address)
        entries[name] = _Entry(str(address), pid, ticks)
    return address


def release(settings: Settings, name: str, pid: int | None = None) -> None:
    """Give the address of `name` back, if process `pid` (this one) holds it."""
    with _entries(settings) as entries:
        held = entries.get(name)
        if held and held.pid == (os.getpid() if pid is None else pid):
            del entries[name]


def free_port(ip: str = "127.0.0.1") -> int:
    """Return a TCP port that is free on `ip` now. Bind it soon: the kernel hands it out again after all others."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((ip, 0))
        port: int = sock.getsockname()[1]
        return port


def _first_free(name: str, taken: set[str]) -> IPv4Address:
    count = _LAST - _FIRST + 1
    begin = zlib.crc32(name.encode()) % count
    for step in range(count):
        address = NETWORK[_FIRST + (begin + step) % count]
        if str(address) not in taken:
            return address
    raise Unavailable(f"no loopback address left for {name!r}: all {count} are held")


def _check_bindable(address: IPv4Address) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError as error:
            raise Unsupported(f"loopback address {address}: {error.strerror}; add it to the loopback device") from error


@contextlib.contextmanager
def _entries(settings: Settings) -> Iterator[dict[str, _Entry]]:
    """Yield the entries, to be changed in place; they are written back unless an error is raised."""
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.run / "explicit.json"
    with _locked(settings.run / "explicit.lock"):
        before = _read(path)
        entries = dict(before)
        yield entries
        if entries and entries != before:
            write_atomically(path, msgspec.json.encode(entries))
        elif not entries:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, _Entry]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Entry])
    except (FileNotFoundError, msgspec.DecodeError):  # ours alone to write; a damaged one only forgets who is who
        return {}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
