"""Virtual hosts as bytes, made and patched one by one, and the route configurations that are spliced of them.

A host of many routes is itself spliced of them: of a thousand routes that one rule of a VirtualService changes, the
others are not built again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from envoy.config.route.v3.route_components_pb2 import VirtualHost

from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.model.values import RouteConfigInput, RouteInput, VirtualHostInput
from lateen.pilot.serving.interned import Interned
from lateen.pilot.serving.patching import patch_key, shape_host, shape_shell, with_mark
from lateen.pilot.translate.patches.outcome import Mark, Trace
from lateen.pilot.translate.patches.routes import RouteContext
from lateen.pilot.translate.routes import (
    build_route,
    build_route_config,
    build_virtual_host,
    splice_route_config,
    splice_virtual_host,
)
from lateen.pilot.xds.source import Resource

__all__ = ["MANY_ROUTES", "HostBytes", "make_host", "patch_host", "port_of", "splice_hosts"]

# From so many routes on each is kept by itself. It costs some 300 bytes a route, and is worth it where a change leaves
# most routes as they were; the one or two routes of an ordinary host are built in less time than they are looked up.
MANY_ROUTES: Final = 16
DIGEST_BYTES: Final = 16  # two routes, or hosts, meet by chance once in 2**64


class RouteBytes:
    """One route of a large virtual host, serialised."""

    __slots__ = ("__weakref__", "data", "digest")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest = _digest(data)


class HostBytes:
    """One virtual host, serialised, and its domains; no data when a patch removed it. Equal data is equal."""

    __slots__ = ("__weakref__", "_data", "_routes", "_shell", "again", "domains", "mark")

    def __init__(
        self,
        domains: tuple[str, ...],
        data: bytes | None,
        mark: Mark | None = None,
        again: Callable[[frozenset[PatchId]], HostBytes] | None = None,
    ) -> None:
        self.domains = domains
        self.mark = mark
        self.again = again  # makes it without some patches
        self._data = data
        self._shell: VirtualHostInput | None = None
        self._routes: tuple[RouteBytes, ...] = ()

    @classmethod
    def of_routes(cls, shell: VirtualHostInput, routes: tuple[RouteBytes, ...]) -> HostBytes:
        """Return a host of many routes. Its bytes are not kept beside theirs."""
        host = cls(shell.domains, None)
        host._shell, host._routes = shell, routes
        return host

    @property
    def data(self) -> bytes | None:
        if self._shell is None:
            return self._data
        return splice_virtual_host(self._shell, (route.data for route in self._routes))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HostBytes) or other.mark != self.mark:
            return False
        if self._shell is not None and other._shell is not None:  # the same routes are the same objects
            return other._shell == self._shell and other._routes == self._routes
        return other.data == self.data

    def __hash__(self) -> int:
        return hash(self.data)


def make_host(inp: VirtualHostInput, interned: Interned) -> HostBytes:
    """Return one virtual host as translated; of many routes only those are built that nobody uses yet."""
    if len(inp.routes) < MANY_ROUTES:
        small: HostBytes = interned(_host_bytes, inp)
        return small
    routes: tuple[RouteBytes, ...] = tuple(interned(_route_bytes, route) for route in inp.routes)
    shell = dataclasses.replace(inp, routes=())
    key = (shell, b"".join(route.digest for route in routes))
    large: HostBytes = interned.keyed("host of routes", key, lambda one: HostBytes.of_routes(one, routes), shell)
    return large


def _host_bytes(inp: VirtualHostInput) -> HostBytes:
    return HostBytes(inp.domains, build_virtual_host(inp).SerializeToString(deterministic=True))


def _route_bytes(inp: RouteInput) -> RouteBytes:
    return RouteBytes(build_route(inp).SerializeToString(deterministic=True))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def patch_host(plain: HostBytes, patches: tuple[Patch, ...], context: RouteContext, interned: Interned) -> HostBytes:
    """Return a host that is translated already, as a member of one configuration, after the patches that are for it."""
    if not patches or plain.data is None:
        return plain
    key = (_digest(plain.data), patch_key(patches), context)
    made: HostBytes = interned.keyed("patched host", key, lambda one: _patched(one, patches, context), plain)
    return made


def _patched(plain: HostBytes, patches: tuple[Patch, ...], context: RouteContext) -> HostBytes:
    def again(without: frozenset[PatchId]) -> HostBytes:
        return _patched(plain, tuple(patch for patch in patches if patch.id not in without), context)

    # Read back from its bytes, so that a patch on one of many routes does not build the others.
    host, mark = shape_host(VirtualHost.FromString(plain.data or b""), patches, context)
    if mark is None:
        return plain  # nothing acted: not kept twice
    if host is None:
        return HostBytes((), None, mark, again)
    return HostBytes(tuple(host.domains), host.SerializeToString(deterministic=True), mark, again)


def splice_hosts(
    shell: RouteConfigInput, hosts: list[HostBytes], patches: tuple[Patch, ...], context: RouteContext
) -> Resource:
    """Return a route configuration of virtual hosts that are made already, and patched."""
    spliced = [(host.domains, data) for host in hosts if (data := host.data) is not None]
    if not patches and all(host.mark is None for host in hosts):
        return splice_route_config(shell, spliced)

    def again(without: frozenset[PatchId]) -> Resource:
        others = [host if host.again is None else host.again(without) for host in hosts]
        return splice_hosts(shell, others, tuple(patch for patch in patches if patch.id not in without), context)

    rest, mark = shape_shell(build_route_config(shell), patches, context)
    trace = Trace()
    for one in (mark, *(host.mark for host in hosts)):
        if one is not None:
            trace.include(one)
    return with_mark(splice_route_config(shell, spliced, rest), trace.mark(shell.name), again)


def port_of(name: str) -> int:
    """Return the port of a sidecar's route configuration, 0 for the one of all ports."""
    text = name.replace("_", ":").rpartition(":")[2]  # "9080", "host:9080", "127.0.0.1_9080" of a Sidecar's socket
    return int(text) if text.isdecimal() else 0
