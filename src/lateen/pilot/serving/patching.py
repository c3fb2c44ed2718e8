"""Resources that EnvoyFilters act on: translated, patched, and kept like all others.

The patches that may act on a resource are part of its input, so it is made again when one of them changes and shared by
all views that have the same ones. Where no patch is, nothing here is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.translate.patches.outcome import Again, Mark, Marked, MarkedResource, Trace
from lateen.pilot.translate.patches.routes import (
    RouteContext,
    acts_on_config,
    patch_route_shell,
    patch_virtual_host,
)
from lateen.pilot.translate.patches.values import message_of, usable
from lateen.pilot.xds.source import Resource

__all__ = [
    "Apply",
    "Shaped",
    "added",
    "extension",
    "gather",
    "patch_key",
    "shape",
    "shape_host",
    "shape_shell",
    "with_mark",
]

# (message, patches, trace) -> the message after them, None when it is removed
Apply = Callable[[Any, Sequence[Patch], Trace], Any]


class Shaped:
    """What became of one resource: None when it is removed. Kept as long as somebody uses it."""

    __slots__ = ("__weakref__", "mark", "resource")

    def __init__(self, resource: Resource | None, mark: Mark | None) -> None:
        self.resource = resource
        self.mark = mark


def patch_key(patches: Iterable[Patch]) -> tuple[tuple[str, str, int, str], ...]:
    """Return what stands for patches in the key of a cache."""
    return tuple((patch.id.namespace, patch.id.name, patch.id.index, patch.digest) for patch in patches)


def shape(build: Callable[[], Any], patches: tuple[Patch, ...], apply: Apply) -> Shaped:
    """Apply patches to one message, which is built anew each time."""

    def again(without: frozenset[PatchId]) -> Resource | None:
        return shape(build, tuple(patch for patch in patches if patch.id not in without), apply).resource

    message = build()
    trace = Trace()
    result = apply(message, usable(patches), trace)
    mark = trace.mark(message.name)
    return Shaped(None if result is None else with_mark(resource_of(result), mark, again), mark)


def gather(shaped: Iterable[Shaped]) -> tuple[Resource, ...]:
    """Return the resources of one part, with the marks of those that were touched."""
    found = tuple(shaped)
    resources = tuple(one.resource for one in found if one.resource is not None)
    marks = tuple(one.mark for one in found if one.mark is not None)
    return Marked(resources, marks) if marks else resources


def with_mark(resource: Resource, mark: Mark | None, again: Again | None = None) -> Resource:
    if mark is None:
        return resource
    return MarkedResource(resource.name, resource.version, resource.body, mark, again)


def added(patches: tuple[Patch, ...], make: Callable[[Sequence[Patch], Trace], Sequence[Any]]) -> list[Shaped]:
    """Return what patches add beside what is there."""
    found = []
    for patch in usable(patches):
        for message in make((patch,), Trace()):
            mark = Mark(message.name, (patch.id,))
            found.append(Shaped(with_mark(resource_of(message), mark), mark))
    return found


# ---------------------------------------------------------------- routes


def shape_shell(
    config: RouteConfiguration, patches: tuple[Patch, ...], context: RouteContext
) -> tuple[RouteConfiguration, Mark | None]:
    """Patch a route configuration without the virtual hosts that are spliced in later."""
    trace = Trace()
    mine = [patch for patch in usable(patches) if acts_on_config(patch, context)]
    return (patch_route_shell(config, mine, trace) if mine else config), trace.mark(config.name)


def shape_host(
    host: VirtualHost, patches: tuple[Patch, ...], context: RouteContext
) -> tuple[VirtualHost | None, Mark | None]:
    """Patch one virtual host of a configuration."""
    trace = Trace()
    mine = [patch for patch in usable(patches) if acts_on_config(patch, context)]
    return patch_virtual_host(host, mine, trace), trace.mark(host.name)


def extension(patches: Iterable[Patch], name: str) -> Resource | None:
    """Return the extension that proxies ask for by `name`: of several, the last one."""
    found: Resource | None = None
    for patch in usable(tuple(patches)):
        if patch.adds and patch.value is not None and patch.value.get("name") == name:
            found = with_mark(resource_of(message_of(patch)), Mark(name, (patch.id,)))
    return found
