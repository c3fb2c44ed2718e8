"""Virtual hosts as bytes, made and patched one by one, and the route configurations that are spliced of them."""

from __future__ import annotations

from collections.abc import Callable

from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.model.values import RouteConfigInput, VirtualHostInput
from lateen.pilot.serving.patching import shape_host, shape_shell, with_mark
from lateen.pilot.translate.patches.outcome import Mark, Trace
from lateen.pilot.translate.patches.routes import RouteContext
from lateen.pilot.translate.routes import build_route_config, build_virtual_host, splice_route_config
from lateen.pilot.xds.source import Resource

__all__ = ["HostBytes", "host_bytes", "patched_host", "splice_hosts"]


class HostBytes:
    """One virtual host, serialised, and its domains; None when a patch removed it. Equal data is equal."""

    __slots__ = ("__weakref__", "again", "data", "domains", "mark")

    def __init__(
        self,
        domains: tuple[str, ...],
        data: bytes | None,
        mark: Mark | None = None,
        again: Callable[[frozenset[PatchId]], HostBytes] | None = None,
    ) -> None:
        self.domains = domains
        self.data = data
        self.mark = mark
        self.again = again  # makes it without some patches

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostBytes) and other.data == self.data and other.mark == self.mark

    def __hash__(self) -> int:
        return hash(self.data)


def host_bytes(inp: VirtualHostInput) -> HostBytes:
    """Return one virtual host as translated."""
    return HostBytes(inp.domains, build_virtual_host(inp).SerializeToString(deterministic=True))


def patched_host(inp: VirtualHostInput, patches: tuple[Patch, ...], context: RouteContext) -> HostBytes:
    """Return one virtual host of a configuration, patched."""

    def again(without: frozenset[PatchId]) -> HostBytes:
        return patched_host(inp, tuple(patch for patch in patches if patch.id not in without), context)

    host, mark = shape_host(build_virtual_host(inp), patches, context)
    if host is None:
        return HostBytes((), None, mark, again)
    return HostBytes(tuple(host.domains), host.SerializeToString(deterministic=True), mark, again)


def splice_hosts(shell: RouteConfigInput, hosts: list[HostBytes], patches: tuple[Patch, ...]) -> Resource:
    """Return a sidecar's route configuration of virtual hosts that are made already, and patched."""
    spliced = [(host.domains, host.data) for host in hosts if host.data is not None]
    if not patches and all(host.mark is None for host in hosts):
        return splice_route_config(shell, spliced)

    def again(without: frozenset[PatchId]) -> Resource:
        others = [host if host.again is None else host.again(without) for host in hosts]
        return splice_hosts(shell, others, tuple(patch for patch in patches if patch.id not in without))

    context = RouteContext(name=shell.name, port=_port_of(shell.name))
    rest, mark = shape_shell(build_route_config(shell), patches, context)
    trace = Trace()
    for one in (mark, *(host.mark for host in hosts)):
        if one is not None:
            trace.include(one)
    return with_mark(splice_route_config(shell, spliced, rest), trace.mark(shell.name), again)


def _port_of(name: str) -> int:
    """Return the port of a sidecar's route configuration, 0 for the one of all ports."""
    text = name.replace("_", ":").rpartition(":")[2]  # "9080", "host:9080", "127.0.0.1_9080" of a Sidecar's socket
    return int(text) if text.isdecimal() else 0
