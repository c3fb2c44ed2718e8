"""GET of a URL that somebody else wrote, from the control plane: bounded in time, size and reach.

Each hop is a connection of its own: a redirect's host is resolved and its addresses judged like the first one's.
Nothing of the environment decides where it goes: no proxy variable, no `.netrc`, no key log. The roots are the
system's, and those of one file beside them; both are read at each fetch, so replacing them needs no restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lateen.fetch.connect import Resolve, connected, resolve_with
from lateen.fetch.errors import FetchError
from lateen.fetch.exchange import Answer, exchange
from lateen.fetch.guard import Guard
from lateen.fetch.threads import Threads
from lateen.fetch.urls import Target, follow, parse_url

__all__ = ["THREADS", "Fetched", "Fetcher", "Limits", "client_context"]

# Names that are asked for, and roots that are read, at once. Many: a name whose servers are silent holds one for half a
# minute, and whoever writes URLs may know such names.
THREADS: Final = 64
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one fetch may cost."""

    seconds: float = 5.0  # for all of it: names, connections, redirects, bodies
    max_bytes: int = 1024 * 1024  # of the body
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Fetched:
    """A body that came with status 200, and where it came from in the end, for people (`scheme://host`)."""

    body: bytes
    content_type: str  # lower case, without parameters; "" where none was said
    origin: str


class Fetcher:
    """GETs on behalf of one process. Holds nothing open between two."""

    def __init__(self, guard: Guard, *, ca_file: Path | None = None, resolve: Resolve | None = None) -> None:
        """`ca_file` holds roots in PEM that are trusted beside the system's. `resolve` is the system's unless given."""
        self.guard = guard
        self._ca_file = ca_file
        self._threads = Threads(THREADS)
        self._resolve = resolve if resolve is not None else resolve_with(self._threads)

    async def get(
        self,
        url: str,
        limits: Limits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fetched:
        """Return what `url` holds. Raises `FetchError`.

        `tls` takes the place of the roots for https, where the caller has an idea of its own of who is to answer.
        `headers` go to the URL's own host; where a redirect leads to another one, they stay behind.
        """
        limits = limits or Limits()
        target = parse_url(url)
        try:
            async with asyncio.timeout(limits.seconds):
                return await self._follow(target, limits, tls, headers or {})
        except TimeoutError:
            raise FetchError("timeout", f"{target.shown}: nothing whole within {limits.seconds:g} s") from None

    async def _follow(
        self, target: Target, limits: Limits, tls: ssl.SSLContext | None, headers: Mapping[str, str]
    ) -> Fetched:
        first = target.origin
        for _ in range(limits.redirects + 1):
            answer = await self._ask(target, limits, tls, headers if target.origin == first else {})
            location = answer.headers.get("location", "")
            if answer.status in REDIRECTS and location:
                target = follow(target, location)
                continue
            if answer.status != 200:
                raise FetchError("status", f"{target.shown}: status {answer.status}, 200 wanted")
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Fetched(answer.body, kind, target.shown)
        raise FetchError("redirect", f"{target.shown}: more than {limits.redirects} redirects")

    async def _ask(
        self, target: Target, limits: Limits, tls: ssl.SSLContext | None, headers: Mapping[str, str]
    ) -> Answer:
        context = None
        if target.scheme == "https":
            context = tls if tls is not None else await self._roots()
        async with connected(target, guard=self.guard, resolve=self._resolve, tls=context) as (reader, writer):
            return await exchange(reader, writer, target, max_bytes=limits.max_bytes, headers=headers)

    async def _roots(self) -> ssl.SSLContext:
        try:
            return await self._threads.run(client_context, self._ca_file)
        except OSError as error:
            why = error.strerror or "no certificate in PEM in it"
            raise FetchError("tls", f"the file of further roots {self._ca_file} cannot be read: {why}") from error


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    # Not `ssl.create_default_context`: it would write session keys where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context
