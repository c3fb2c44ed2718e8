"""URLs as they are fetched: taken apart, or refused with the reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from lateen.fetch.errors import FetchError

__all__ = ["Target", "follow", "parse_url"]

URL_BYTES: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes and what it asks for."""

    scheme: str  # http | https
    host: str  # a name in ASCII, or an IP without brackets
    port: int
    path: str  # with the query, as it goes into the request line

    @property
    def authority(self) -> str:
        """The Host header: without the port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For people and logs: without path and query, which may hold what is not to be told."""
        return f"{self.scheme}://{self.authority}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def parse_url(url: str) -> Target:
    """Return where `url` leads. Raises `FetchError` "url" for what is not fetched."""
    if len(url) > URL_BYTES:
        raise FetchError("url", f"the URL has {len(url)} characters, at most {URL_BYTES} wanted")
    if any(ord(char) < 0x21 or ord(char) == 0x7F for char in url):
        raise FetchError("url", "the URL holds blanks or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
        name = parts.hostname or ""
        host = name if ":" in name else name.rstrip(".").encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        raise FetchError("url", "the URL cannot be read: scheme://host[:port]/path is wanted") from None
    if parts.scheme not in _PORTS:
        raise FetchError("url", f"the URL's scheme is {parts.scheme[:20]!r}, http or https wanted")
    if not host or "%" in host:
        raise FetchError("url", "the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise FetchError("url", f"the URL for {host} holds credentials, which are not sent")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
    return Target(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, path)


def follow(base: Target, location: str) -> Target:
    """Return where a redirect from `base` leads. Raises `FetchError`: TLS is never left for plain text."""
    try:
        joined = urljoin(f"{base.shown}{base.path}", location)
    except ValueError:
        raise FetchError("redirect", f"{base.shown} redirects to what is no URL") from None
    try:
        target = parse_url(joined)
    except FetchError as error:
        raise FetchError("redirect", f"{base.shown} redirects to what is not followed: {error}") from None
    if base.scheme == "https" and target.scheme != "https":
        raise FetchError("redirect", f"{base.shown} redirects from https to {target.shown}, which is not followed")
    return target
