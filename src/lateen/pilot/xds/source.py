"""What the xDS server is fed with, and by whom: it knows names, bytes and versions, no meshes.

A *slice* is a set of resources of one type that many proxies share (all clusters of one view, the inbound listener of
one workload). A proxy is served, for each type, the union of the slices in its scope. Content is made once and
shared; a change is told once a slice, however many streams hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Delta", "Identity", "Listener", "NodeInfo", "Proxy", "ProxySource", "Resource", "Slice"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Resource:
    """One resource, made and serialised once."""

    name: str
    version: str  # hash of `body`; equal bytes have equal versions, in every process
    body: bytes = field(repr=False)  # serialised google.protobuf.Any


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed in one slice in one batch; both sorted by name, no name in both."""

    slice: Slice
    changed: tuple[Resource, ...]
    removed: tuple[str, ...]


class Listener(Protocol):
    """Who wants to know; the hub of streams is one."""

    def on_batch(self, deltas: Sequence[Delta]) -> None:
        """Take all that one batch of changes did. Called on the event loop, must not wait."""

    def on_scope(self, proxy: Proxy) -> None:
        """The proxy's `slices` are others now (its labels or rules about it changed)."""

    def on_refused(self, proxy: Proxy, reason: str) -> None:
        """The proxy was accepted, and may have nothing any more: its streams end before anything else is sent."""


class Slice(Protocol):
    """One shared set of resources of one type. Hashable by identity."""

    @property
    def type_url(self) -> str: ...

    def all(self) -> Mapping[str, Resource]:
        """Return everything in it, as of now; the mapping is live, do not keep it over a wait."""

    def get(self, name: str) -> Resource | None:
        """Return one resource; from then on its changes are told, until `release` was called as often."""

    def release(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end of a stream, as proven by the transport."""

    spiffe_id: str | None  # None: local trust (the socket's folder), which may claim any identity


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """The parts of Envoy's `core.v3.Node` that anything is decided on; checked for shape, not believed."""

    id: str
    cluster: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)  # plain Python values
    user_agent_version: str = ""


class Proxy(Protocol):
    """One accepted proxy. The stream that opened it closes it."""

    @property
    def name(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    @property
    def slices(self) -> Mapping[str, tuple[Slice, ...]]:
        """By type URL. A type that is not in it is not served."""

    def close(self) -> None: ...


class ProxySource(Protocol):
    """Decides who may connect and what they see."""

    def connect(self, node: NodeInfo, identity: Identity) -> Proxy:
        """Return the proxy's scope. Raises `Refused`, or `Unavailable` while sources are still being read."""

    async def settled(self) -> None:
        """Return once a proxy that `connect` accepted can be served: what it sees may have to be judged first."""

    def check(self, proxy: Proxy) -> None:
        """Raise `Refused` when a proxy that `connect` accepted may not be served after all."""

    def subscribe(self, listener: Listener) -> None: ...

    def rejected(self, proxy: Proxy, type_url: str, names: tuple[str, ...], error: str) -> None:
        """A proxy said no (NACK) to a response that held these resources."""

    def accepted(self, proxy: Proxy, type_url: str, names: tuple[str, ...]) -> None:
        """A response that held names which were rejected before is now accepted."""
