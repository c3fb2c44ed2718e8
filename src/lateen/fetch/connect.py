"""A connection to a host of a URL: resolved, each address judged, and connected to the very address that was judged.

A name that answers differently the next time (DNS rebinding) gains nothing: it is asked once a connection, and what is
dialled is the address, not the name. TLS still proves the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from lateen.fetch.errors import FetchError
from lateen.fetch.guard import Guard
from lateen.fetch.threads import Threads
from lateen.fetch.urls import Target

__all__ = ["Resolve", "connected", "resolve_with"]

ADDRESSES: Final = 8  # of one name that are tried
BUFFER_BYTES: Final = 64 * 1024

# (host, port) -> IPs, as the resolver orders them. Raises OSError.
Resolve = Callable[[str, int], Awaitable[list[str]]]


def resolve_with(threads: Threads) -> Resolve:
    """Return the system's resolver, asked in `threads`, so that a slow one holds up nothing else."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(dict.fromkeys(await threads.run(_getaddrinfo, host, port)))

    return resolve


def _getaddrinfo(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@contextlib.asynccontextmanager
async def connected(
    target: Target, *, guard: Guard, resolve: Resolve, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to where `target` leads; `tls` is for https. Raises `FetchError`. The caller bounds the time."""
    sock = await _dial(target, await _addresses(target, guard, resolve))
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, limit=BUFFER_BYTES, ssl=tls, server_hostname=target.host if tls is not None else None
        )
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise FetchError("tls", f"{target.shown}: certificate not accepted: {error.verify_message}") from error
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        sock.close()
        raise FetchError("tls" if tls is not None else "connect", f"{target.shown}: {_words(error)}") from error
    except BaseException:
        sock.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # nothing is left to say, and nobody is waited for


async def _addresses(target: Target, guard: Guard, resolve: Resolve) -> list[str]:
    try:
        found = await resolve(target.host, target.port)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", f"{target.shown}: the name has no address: {_words(error)}") from error
    if not found:
        raise FetchError("dns", f"{target.shown}: the name has no address")
    verdicts = {address: guard.refusal(address) for address in found[:ADDRESSES]}
    fit = [address for address, why in verdicts.items() if why is None]
    if not fit:
        address, why = next(iter(verdicts.items()))
        raise FetchError(
            "refused",
            f"{target.shown} leads to {address}, which is {why}; `lateen up --allow-fetch CIDR` would open it",
        )
    return fit


async def _dial(target: Target, addresses: list[str]) -> socket.socket:
    loop = asyncio.get_running_loop()
    last: OSError | None = None
    for address in addresses:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (address, target.port))
        except OSError as error:
            sock.close()
            last = error
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    assert last is not None
    raise FetchError("connect", f"{target.shown}: {_words(last)}") from last


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "TLS failed").lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
