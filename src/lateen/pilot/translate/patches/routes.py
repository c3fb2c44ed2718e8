"""Patch route configurations, virtual hosts and routes.

In:  built messages, the patches that may act on them, which configuration it is. Out: the messages, None when removed.
Rules: docs/api/EnvoyFilter.md "Routes". A virtual host is patched on its own, so that a configuration that is spliced
from many of them keeps those that nothing acts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.translate.patches.lists import changed_list
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.values import merges, message_of, try_merge

__all__ = [
    "RouteContext",
    "acts_on_config",
    "acts_on_host",
    "patch_route_shell",
    "patch_virtual_host",
    "patch_whole_route_config",
]

_ACTIONS: Final = {"ROUTE": "route", "REDIRECT": "redirect", "DIRECT_RESPONSE": "direct_response"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteContext:
    """Which route configuration it is. `port` is of the service or the Gateway's server; 0 when there is no one."""

    name: str
    port: int = 0
    servers: tuple[tuple[str, str], ...] | None = None  # of a gateway: ("<namespace>/<name>", port's name)


def acts_on_config(patch: Patch, context: RouteContext) -> bool:
    """Tell whether a patch is about this route configuration, or something in it."""
    wanted = patch.match.route_configuration
    if wanted is None:
        return True
    if (wanted.name and wanted.name != context.name) or (wanted.port_number and wanted.port_number != context.port):
        return False
    if context.servers is None or not (wanted.gateway or wanted.port_name):
        return True
    return any(
        wanted.gateway in ("", gateway) and wanted.port_name in ("", port_name)
        for gateway, port_name in context.servers
    )


def acts_on_host(patch: Patch) -> bool:
    """Tell whether a patch may change a virtual host by itself."""
    return patch.apply_to == "HTTP_ROUTE" or (patch.apply_to == "VIRTUAL_HOST" and not patch.adds)


def patch_whole_route_config(
    config: RouteConfiguration, patches: Sequence[Patch], trace: Trace, context: RouteContext
) -> RouteConfiguration:
    """Apply everything to a configuration that holds all of its virtual hosts; the same one when nothing acts."""
    mine = [patch for patch in patches if acts_on_config(patch, context)]
    if not mine:
        return config
    return patch_route_shell(config, mine, trace)


def patch_route_shell(config: RouteConfiguration, patches: Sequence[Patch], trace: Trace) -> RouteConfiguration:
    """Apply patches that are about this configuration to it and to the virtual hosts that it holds now."""
    name = config.name
    for patch in patches:
        if patch.apply_to == "ROUTE_CONFIGURATION" and merges(patch):
            config = try_merge(config, patch, trace)
    result = RouteConfiguration()
    result.CopyFrom(config)
    result.name = name  # what proxies ask for it by
    hosts = [patch_virtual_host(host, patches, trace) for host in config.virtual_hosts]
    for patch in patches:
        if patch.apply_to == "VIRTUAL_HOST" and patch.adds:
            trace.hit(patch)
            hosts.append(message_of(patch))
    del result.virtual_hosts[:]
    result.virtual_hosts.extend(host for host in hosts if host is not None)
    return result


def patch_virtual_host(host: VirtualHost, patches: Sequence[Patch], trace: Trace) -> VirtualHost | None:
    """Apply patches that are about this host's configuration to it and to its routes."""
    mine = [patch for patch in patches if acts_on_host(patch) and _is_host(host, patch)]
    for patch in mine:
        if patch.apply_to != "VIRTUAL_HOST":
            continue
        if patch.operation == "REMOVE":
            trace.hit(patch)
            return None
        if patch.operation == "REPLACE":
            trace.hit(patch)
            host = message_of(patch)
        elif merges(patch):
            host = try_merge(host, patch, trace)
    routes = [patch for patch in mine if patch.apply_to == "HTTP_ROUTE"]
    if not routes:
        return host
    result = VirtualHost()
    result.CopyFrom(host)
    del result.routes[:]
    result.routes.extend(_routes(list(host.routes), routes, trace))
    return result


def _is_host(host: VirtualHost, patch: Patch) -> bool:
    config = patch.match.route_configuration
    wanted = config.vhost if config is not None else None
    if wanted is None:
        return True
    return wanted.name in ("", host.name) and (not wanted.domain_name or wanted.domain_name in host.domains)


def _routes(routes: list[Route], patches: Sequence[Patch], trace: Trace) -> list[Route]:
    """Merges and removals first, then what is put in."""
    for patch in patches:
        if patch.operation == "REMOVE":
            rest = [route for route in routes if not _is_route(route, patch)]
            if len(rest) < len(routes):
                trace.hit(patch)
                routes = rest
        elif merges(patch):
            routes = [try_merge(route, patch, trace) if _is_route(route, patch) else route for route in routes]
    for patch in patches:
        if not patch.adds:
            continue
        if patch.operation == "INSERT_FIRST" and not any(_is_route(route, patch) for route in routes) and _names(patch):
            continue
        found = changed_list(
            routes,
            patch.operation,
            message_of(patch),
            named=_names(patch),
            matches=partial(_is_route, patch=patch),
        )
        if found is not None:
            trace.hit(patch)
            routes = found
    return routes


def _wanted_route(patch: Patch) -> Any:
    config = patch.match.route_configuration
    return config.vhost.route if config is not None and config.vhost is not None else None


def _names(patch: Patch) -> bool:
    wanted = _wanted_route(patch)
    return wanted is not None and (bool(wanted.name) or wanted.action != "ANY")


def _is_route(route: Route, patch: Patch) -> bool:
    wanted = _wanted_route(patch)
    if wanted is None:
        return True
    if wanted.name and wanted.name != route.name:
        return False
    return wanted.action == "ANY" or bool(route.WhichOneof("action") == _ACTIONS[wanted.action])
