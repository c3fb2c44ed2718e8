"""What an EnvoyFilter must satisfy beyond its shape. Rule ids (EF-..) are those of docs/api/EnvoyFilter.md.

What a patch's value is (EF-14, EF-15) is told where the patch is applied: that needs Envoy's messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_selector
from lateen.api.envoy_filter import EnvoyConfigObjectPatch, EnvoyFilter, FilterMatch, ObjectMatch
from lateen.api.regex_syntax import REGEX_LENGTH, regex_fault

__all__ = ["check_envoy_filter"]

CONNECTION_MANAGERS: Final = ("envoy.filters.network.http_connection_manager", "envoy.http_connection_manager")
_LISTENER_PARTS: Final = ("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER")
_ROUTE_PARTS: Final = ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE")
_MERGES: Final = frozenset({"MERGE", "MERGE_AND_REPLACE_LIST"})
_ADDITIONS: Final = frozenset({"ADD", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST"})
_WHOLE: Final = _MERGES | _ADDITIONS | {"REMOVE"}
# Which operations have an effect on what; docs/api/EnvoyFilter.md "What can be patched".
EFFECTIVE: Final = {
    "LISTENER": _WHOLE,
    "LISTENER_FILTER": _WHOLE | {"REPLACE"},
    "FILTER_CHAIN": _WHOLE,
    "NETWORK_FILTER": _WHOLE | {"REPLACE"},
    "HTTP_FILTER": _WHOLE | {"REPLACE"},
    "ROUTE_CONFIGURATION": _MERGES,
    "VIRTUAL_HOST": _WHOLE | {"REPLACE"},
    "HTTP_ROUTE": _WHOLE,
    "CLUSTER": _WHOLE,
    "EXTENSION_CONFIG": _ADDITIONS,
    "BOOTSTRAP": _MERGES,
}
_NAMING: Final = {
    "LISTENER_FILTER": _MERGES | {"REPLACE", "REMOVE"},
    "NETWORK_FILTER": frozenset({"REPLACE", "REMOVE"}),
    "HTTP_FILTER": frozenset({"REPLACE", "REMOVE"}),
}
_TARGETS: Final = {
    "LISTENER_FILTER": "listener.listenerFilter",
    "NETWORK_FILTER": "listener.filterChain.filter.name",
    "HTTP_FILTER": "listener.filterChain.filter.subFilter.name",
}
_OLD_NAMES: Final = (
    "envoy.buffer",
    "envoy.client_ssl_auth",
    "envoy.cors",
    "envoy.csrf",
    "envoy.echo",
    "envoy.ext_authz",
    "envoy.fault",
    "envoy.grpc_http1_bridge",
    "envoy.grpc_json_transcoder",
    "envoy.grpc_web",
    "envoy.gzip",
    "envoy.health_check",
    "envoy.http_connection_manager",
    "envoy.ip_tagging",
    "envoy.lua",
    "envoy.mongo_proxy",
    "envoy.rate_limit",
    "envoy.ratelimit",
    "envoy.redis_proxy",
    "envoy.router",
    "envoy.squash",
    "envoy.tcp_proxy",
)


def check_envoy_filter(obj: Object) -> Iterator[Problem]:
    """Yield every fault of an EnvoyFilter."""
    spec: EnvoyFilter = obj.spec
    message = "changes what is generated, which is no interface and may differ after an upgrade"
    yield obj.problem("", message, "warning")  # EF-01
    yield from check_selector(obj, spec.workload_selector, "spec.workloadSelector")  # EF-02
    for i, patch in enumerate(spec.config_patches):
        path = f"spec.configPatches[{i}]"
        match = patch.match if patch.match is not None else ObjectMatch()
        if (match.context == "WAYPOINT") != (match.waypoint is not None) and _kind_of(match) is not None:  # EF-16
            yield obj.problem(f"{path}.match", "context WAYPOINT and match.waypoint go together")
        if match.context != "WAYPOINT":
            yield from _check_patch(obj, patch, match, path)


def _check_patch(obj: Object, patch: EnvoyConfigObjectPatch, match: ObjectMatch, path: str) -> Iterator[Problem]:
    if patch.apply_to == "INVALID":  # EF-04
        yield obj.problem(f"{path}.applyTo", "is required")
    if patch.patch is None:  # EF-04
        yield obj.problem(f"{path}.patch", "is required")
    else:
        if patch.patch.operation == "INVALID":
            yield obj.problem(f"{path}.patch.operation", "is required")
        if patch.patch.value is None and patch.patch.operation != "REMOVE":
            yield obj.problem(f"{path}.patch.value", f"is required for {patch.patch.operation}")
        yield from _check_effect(obj, patch, match, path)
    if match.listener is not None and match.listener.port_name:
        message = "is not looked at, so that listeners of any port match: use portNumber or name"
        yield obj.problem(f"{path}.match.listener.portName", message, "warning")
    if match.proxy is not None and (version := match.proxy.proxy_version):
        fault = regex_fault(version)
        if len(version) > REGEX_LENGTH:  # EF-06
            yield obj.problem(f"{path}.match.proxy.proxyVersion", f"{fault}, so it matches nothing", "warning")
        elif fault is not None:  # EF-05
            yield obj.problem(f"{path}.match.proxy.proxyVersion", fault)
    wanted = _match_for(patch.apply_to)
    found = _kind_of(match)
    if wanted is not None and found not in (None, wanted):  # EF-07, EF-08, EF-09
        yield obj.problem(f"{path}.match.{found}", f"must be match.{wanted} for applyTo {patch.apply_to}")
    chain = match.listener.filter_chain if match.listener is not None else None
    if chain is not None and chain.filter is not None:
        yield from _check_filter(obj, patch.apply_to, chain.filter, f"{path}.match.listener.filterChain.filter")


def _check_effect(obj: Object, written: EnvoyConfigObjectPatch, match: ObjectMatch, path: str) -> Iterator[Problem]:
    """An operation that does nothing to what it is applied to is a mistake, not a wish."""
    patch = written.patch
    effective = EFFECTIVE.get(written.apply_to)
    if patch is None or effective is None or patch.operation == "INVALID":
        return
    operation = patch.operation
    if operation not in effective:
        wanted = ", ".join(sorted(effective))
        yield obj.problem(
            f"{path}.patch.operation", f"{operation} has no effect for applyTo {written.apply_to}: use one of {wanted}"
        )
    elif operation in _NAMING.get(written.apply_to, ()) and not _target(written.apply_to, match):
        yield obj.problem(f"{path}.match", f"must name the filter to {operation}: {_TARGETS[written.apply_to]}")
    if patch.filter_class != "UNSPECIFIED" and (written.apply_to, operation) != ("HTTP_FILTER", "ADD"):
        message = f"is for applyTo HTTP_FILTER with operation ADD, not for {written.apply_to} with {operation}"
        yield obj.problem(f"{path}.patch.filterClass", message, "warning")


def _target(apply_to: str, match: ObjectMatch) -> str:
    """Return the name of the filter that a patch is about, "" when it names none."""
    if match.listener is None:
        return ""
    if apply_to == "LISTENER_FILTER":
        return match.listener.listener_filter
    chain = match.listener.filter_chain
    if chain is None or chain.filter is None:
        return ""
    if apply_to == "NETWORK_FILTER":
        return chain.filter.name
    return chain.filter.sub_filter.name if chain.filter.sub_filter is not None else ""


def _match_for(apply_to: str) -> str | None:
    if apply_to in _LISTENER_PARTS:
        return "listener"
    if apply_to in _ROUTE_PARTS:
        return "routeConfiguration"
    return "cluster" if apply_to == "CLUSTER" else None


def _kind_of(match: ObjectMatch) -> str | None:
    for name, given in (
        ("listener", match.listener),
        ("routeConfiguration", match.route_configuration),
        ("cluster", match.cluster),
        ("waypoint", match.waypoint),
    ):
        if given is not None:
            return name
    return None


def _check_filter(obj: Object, apply_to: str, match: FilterMatch, path: str) -> Iterator[Problem]:
    if apply_to in ("LISTENER", "FILTER_CHAIN"):  # EF-10
        yield obj.problem(path, f"has no effect for applyTo {apply_to}", "warning")
        return
    if not match.name:  # EF-11
        yield obj.problem(f"{path}.name", "is required")
    names = [(f"{path}.name", match.name)]
    if match.sub_filter is not None:  # EF-12
        below = f"{path}.subFilter"
        names.append((f"{below}.name", match.sub_filter.name))
        if apply_to != "HTTP_FILTER":
            yield obj.problem(below, f"is for applyTo HTTP_FILTER, not for {apply_to}")
        elif match.name and match.name not in CONNECTION_MANAGERS:
            yield obj.problem(below, f'wants a filter named {CONNECTION_MANAGERS[0]}, got "{match.name}"')
        if not match.sub_filter.name:
            yield obj.problem(f"{below}.name", "is required")
    for place, name in names:  # EF-13
        if name in _OLD_NAMES:
            yield obj.problem(place, f'is the old name of a filter and matches none, got "{name}"', "warning")
