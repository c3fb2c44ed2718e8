"""HTTP/1.1 to one server that configuration names: verified TLS, a deadline, a bounded answer.

Stands on `lateen.fetch`, without its rule of addresses: who writes this configuration may say where the authority is.
No redirect is followed and no proxy of the environment is used: the token in a header goes to the server that the file
names and to nobody else. Without TLS only a loopback address is spoken to. No error holds a request's headers or body.
A connection serves one request: beside what signing costs a handshake is little, and nothing is left to go stale.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lateen.errors import BadInput, Unavailable
from lateen.fetch.connect import connected, resolve_with
from lateen.fetch.errors import FetchError
from lateen.fetch.exchange import Answer, exchange
from lateen.fetch.guard import Guard
from lateen.fetch.threads import Threads
from lateen.fetch.urls import Target, parse_url

__all__ = ["MAX_SHOWN", "HttpsClient", "Server", "parse_server"]

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_SHOWN: Final = 300  # characters of what a server says that get into a message

_EVERYWHERE: Final = Guard(allowed=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and the path that stands before every other."""

    target: Target  # its path is that prefix, without a slash at the end

    def __str__(self) -> str:
        return self.target.shown + self.target.path


def parse_server(url: str) -> Server:
    """Return the server that a URL names. Raises `BadInput`: not http(s), credentials or a query in it, http afar."""
    try:
        target = parse_url(url)
    except FetchError as error:
        raise BadInput(f"wants a URL as in https://host:port: {error}") from error
    if "?" in url or "#" in url:
        raise BadInput("wants a URL without a query")
    if target.scheme == "http" and not _is_loopback(target.host):
        raise BadInput(f"must be https: over http everyone on the way to {target.host} could read the token")
    return Server(replace(target, path=target.path.rstrip("/")))


class HttpsClient:
    """Asks one server. Holds nothing between two requests."""

    def __init__(
        self, server: Server, *, ca_file: Path | None, server_name: str = "", concurrency: int, timeout_seconds: float
    ) -> None:
        """`ca_file`: whom to trust instead of the system's roots, read for each connection.

        `server_name`: whose certificate to want, where that is not the URL's host.
        """
        self.server = server
        self._ca_file = ca_file
        self._timeout = timeout_seconds
        self._threads = Threads(concurrency)  # names that are asked for, roots that are read
        # TLS proves the target's host, while what is dialled is the address of the URL's.
        self._target = replace(server.target, host=server_name) if server_name else server.target
        self._system_resolve = resolve_with(self._threads)

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Return the answer, whatever its status. Raises `Unavailable`: there is none in time, or it is too large."""
        target = replace(self._target, path=self.server.target.path + path)
        try:
            async with asyncio.timeout(self._timeout):
                tls = await self._context() if target.scheme == "https" else None
                async with connected(target, guard=_EVERYWHERE, resolve=self._resolve, tls=tls) as (reader, writer):
                    return await exchange(
                        reader,
                        writer,
                        target,
                        max_bytes=MAX_BODY_BYTES,
                        method=method,
                        headers=headers,
                        body=body,
                    )
        except TimeoutError:
            raise Unavailable(f"{self.server} gave no answer within {self._timeout:g} s") from None

    async def _resolve(self, _: str, port: int) -> list[str]:
        return await self._system_resolve(self.server.target.host, port)

    async def _context(self) -> ssl.SSLContext:
        try:
            return await self._threads.run(_client_context, self._ca_file)
        except OSError as error:
            why = error.strerror or "no certificate in PEM in it"
            raise Unavailable(f"{self._ca_file} cannot be read to verify {self.server}: {why}") from error


def _client_context(ca_file: Path | None) -> ssl.SSLContext:
    # Not `ssl.create_default_context`: it would write session keys where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, "localhost" too, may lead anywhere
