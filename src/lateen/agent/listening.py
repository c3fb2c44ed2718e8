"""Which TCP ports a process's network listens on, as the kernel says.

Source: proc(5), /proc/PID/net/tcp and tcp6: addresses are hexadecimal words of the machine's byte order, state 0A is
LISTEN. Everything in the process's network namespace is listed, its children's sockets too.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Listening", "parse_listening", "read_listening"]

_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True)
class Listening:
    """Ports that accept connections: on any address, or on loopback only."""

    reachable: frozenset[int] = frozenset()
    loopback: frozenset[int] = frozenset()

    def all(self) -> frozenset[int]:
        return self.reachable | self.loopback


def parse_listening(tables: Iterable[str]) -> Listening:
    """Return the listening ports in the text of `tcp` and `tcp6`. A line that is none is skipped."""
    reachable: set[int] = set()
    loopback: set[int] = set()
    for table in tables:
        for line in table.splitlines()[1:]:
            words = line.split()
            if len(words) < 4 or words[3] != _LISTEN:
                continue
            address, _, port = words[1].partition(":")
            (loopback if _is_loopback(address) else reachable).add(int(port, 16))
    return Listening(frozenset(reachable), frozenset(loopback - reachable))


def read_listening(pid: int) -> Listening:
    """Return what the network of a process listens on; nothing when the process is gone."""
    tables = []
    for name in ("tcp", "tcp6"):
        try:
            tables.append(Path(f"/proc/{pid}/net/{name}").read_text())
        except OSError:
            continue  # gone, or a kernel without IPv6
    return parse_listening(tables)


def _is_loopback(address: str) -> bool:
    words = [address[start : start + 8] for start in range(0, len(address), 8)]
    raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 4:
        return raw[0] == 127
    text = socket.inet_ntop(socket.AF_INET6, raw)
    return text == "::1" or text.startswith("::ffff:127.")
