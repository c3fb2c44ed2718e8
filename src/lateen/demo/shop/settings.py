"""What one shop service is told by its environment; nothing else of the shop reads it.

PORT               where it listens, default 9080; 0 takes a free port
BIND               the address it listens on, default 0.0.0.0
SERVICE_VERSION    v1, v2, v3; default v1
DETAILS_ADDRESS    `host:port` of an upstream, default details:9080; REVIEWS_ADDRESS and RATINGS_ADDRESS likewise
http_proxy         an HTTP proxy that all calls go through (a sidecar in explicit mode), `http://host:port`
no_proxy           hosts that are called without it, separated by commas
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["DEFAULT_PORT", "Address", "BadSetting", "ShopSettings", "parse_address"]

DEFAULT_PORT = 9080  # where every service of the tutorials' shop listens


class BadSetting(Exception):
    """A variable of the environment makes no sense; the message names it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopSettings:
    """Where one service listens, which version it plays, and where it finds the others."""

    port: int = DEFAULT_PORT
    bind: str = "0.0.0.0"  # noqa: S104  # a workload is reached from its mesh, and its sidecar guards it
    version: str = "v1"
    details: Address = Address("details", DEFAULT_PORT)
    reviews: Address = Address("reviews", DEFAULT_PORT)
    ratings: Address = Address("ratings", DEFAULT_PORT)
    proxy: Address | None = None
    no_proxy: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> ShopSettings:
        """Return what `env` says. Raises `BadSetting`."""
        default = cls()
        port = env.get("PORT") or str(DEFAULT_PORT)
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise BadSetting(f"PORT must be a number from 0 to 65535, got {port!r}")
        return cls(
            port=int(port),
            bind=env.get("BIND") or default.bind,
            version=env.get("SERVICE_VERSION") or default.version,
            details=_address(env, "DETAILS_ADDRESS", default.details),
            reviews=_address(env, "REVIEWS_ADDRESS", default.reviews),
            ratings=_address(env, "RATINGS_ADDRESS", default.ratings),
            proxy=_proxy(env),
            no_proxy=frozenset(part.strip().lower() for part in env.get("no_proxy", "").split(",") if part.strip()),
        )


def parse_address(text: str, name: str) -> Address:
    """Return `host:port` as an address; `name` is what an error calls it. Raises `BadSetting`."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise BadSetting(f"{name} must be host:port, got {text!r} ({err})") from None
    if not host or port is None or parts.path or parts.query or parts.username is not None:
        raise BadSetting(f"{name} must be host:port, got {text!r}")
    return Address(host, port)


def _address(env: Mapping[str, str], name: str, default: Address) -> Address:
    text = env.get(name)
    return parse_address(text, name) if text else default


def _proxy(env: Mapping[str, str]) -> Address | None:
    text = env.get("http_proxy", "")
    if not text:
        return None
    scheme, found, rest = text.partition("://")
    if found and scheme.lower() != "http":
        raise BadSetting(f"http_proxy must be http://host:port, got {text!r}")
    return parse_address((rest if found else text).rstrip("/"), "http_proxy")
