"""Ports for servers that tests start: never the same one twice, and none that a client could be given meanwhile.

A port that is asked of the kernel with 0 and closed again may come a second time, or become the own port of some
connection before the server is there. Those given here lie below the kernel's (`ip_local_port_range` begins at 32768).
"""

import random
import socket
from collections.abc import Iterator
from typing import Final

_RANGE: Final = range(16_000, 27_000)
_untried: Final[Iterator[int]] = iter(random.sample(_RANGE, len(_RANGE)))


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens at `host`, different from all that were given before."""
    for port in _untried:
        with socket.socket() as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"all ports of {_RANGE} were given or are taken at {host}")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
