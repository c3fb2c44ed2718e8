"""Patch one listener: itself, its listener filters, its filter chains, their filters, the filters of HTTP.

In:  a built listener, and the patches that may act on it. Out: the listener, None when one removes it.
Rules: docs/api/EnvoyFilter.md "Listeners" and "Filters". Removals and merges of a listener or a chain come before
additions beside it; in a list of filters operations act as they are listed, and merges come last, so that they reach
what was put in as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from lateen.api.envoy_filter import FilterChainMatch
from lateen.pilot.model.envoy_filters import Patch
from lateen.pilot.translate.matches import JWT_FILTER
from lateen.pilot.translate.names import VIRTUAL_INBOUND, VIRTUAL_OUTBOUND
from lateen.pilot.translate.pack import TYPE_PREFIX, pack
from lateen.pilot.translate.patches.lists import changed_list
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.routes import RouteContext, patch_whole_route_config
from lateen.pilot.translate.patches.values import merges, message_of, try_merge

__all__ = ["added_listeners", "patch_listener"]

HCM_TYPE: Final = TYPE_PREFIX + HttpConnectionManager.DESCRIPTOR.full_name
_VIRTUAL: Final = frozenset({VIRTUAL_INBOUND, VIRTUAL_OUTBOUND})
_EXTENSION: Final = TYPE_PREFIX + "envoy.extensions.filters."
# Filters that end their chain: Envoy refuses anything behind them, so what is added goes before.
_LAST_OF_NETWORK: Final = frozenset(
    f"{_EXTENSION}network.{name}"
    for name in (
        "http_connection_manager.v3.HttpConnectionManager",
        "tcp_proxy.v3.TcpProxy",
        "redis_proxy.v3.RedisProxy",
        "thrift_proxy.v3.ThriftProxy",
        "dubbo_proxy.v3.DubboProxy",
        "generic_proxy.v3.GenericProxy",
        "echo.v3.Echo",
        "direct_response.v3.Config",
    )
)
_LAST_OF_HTTP: Final = frozenset({f"{_EXTENSION}http.router.v3.Router"})
_AUTHENTICATION: Final = (JWT_FILTER, "istio_authn", "envoy.filters.http.set_filter_state")
_AUTHORIZATION: Final = ("envoy.filters.http.rbac", "envoy.filters.http.ext_authz")
_STATS: Final = ("istio.stats", "envoy.filters.http.fault")


def patch_listener(listener: Listener, patches: Sequence[Patch], trace: Trace) -> Listener | None:
    """Apply everything but additions of whole listeners."""
    mine = [patch for patch in patches if _matches(listener, patch)]
    if not mine:
        return listener
    for patch in mine:
        if patch.apply_to == "LISTENER":
            if patch.operation == "REMOVE":
                trace.hit(patch)
                return None
            if merges(patch):
                listener = try_merge(listener, patch, trace)
    result = Listener()
    result.CopyFrom(listener)
    _set_list(result.listener_filters, _listener_filters(result, mine, trace))
    chains = [_chain(result, chain, mine, trace) for chain in result.filter_chains]
    chains.extend(_added(patch, trace) for patch in mine if patch.apply_to == "FILTER_CHAIN" and patch.adds)
    _set_list(result.filter_chains, [chain for chain in chains if chain is not None])
    if result.HasField("default_filter_chain"):
        default = _chain(result, result.default_filter_chain, mine, trace)
        if default is None:
            result.ClearField("default_filter_chain")
        elif default is not result.default_filter_chain:
            result.default_filter_chain.CopyFrom(default)
    return result


def added_listeners(patches: Sequence[Patch], trace: Trace) -> list[Listener]:
    """Return the listeners that patches add."""
    return [_added(patch, trace) for patch in patches if patch.apply_to == "LISTENER" and patch.adds]


def _added(patch: Patch, trace: Trace) -> Any:
    trace.hit(patch)
    return message_of(patch)


def _set_list(field: Any, values: Sequence[Any]) -> None:
    if len(field) == len(values) and all(old is new for old, new in zip(field, values, strict=True)):
        return
    copies = list(values)
    del field[:]
    field.extend(copies)


# ---------------------------------------------------------------- what matches


def _matches(listener: Listener, patch: Patch) -> bool:
    wanted = patch.match.listener
    if wanted is None:
        return True
    if wanted.name and wanted.name != listener.name:
        return False
    if not wanted.port_number or (listener.name in _VIRTUAL and patch.apply_to != "LISTENER"):
        return True  # of the capture listeners, chains have ports: see `_chain_matches`
    return bool(listener.address.socket_address.port_value == wanted.port_number)


def _chain_matches(listener: Listener, chain: FilterChain, patch: Patch) -> bool:
    wanted = patch.match.listener
    if wanted is None:
        return True
    match = chain.filter_chain_match
    if wanted.port_number and listener.name in _VIRTUAL and match.destination_port.value != wanted.port_number:
        return False
    return wanted.filter_chain is None or _is_chain(chain, wanted.filter_chain)


def _is_chain(chain: FilterChain, wanted: FilterChainMatch) -> bool:
    match = chain.filter_chain_match
    protocols = [word.strip() for word in wanted.application_protocols.split(",") if word.strip()]
    return not (
        (wanted.name and wanted.name != chain.name)
        or (wanted.sni and wanted.sni not in match.server_names)
        or (wanted.transport_protocol and wanted.transport_protocol != match.transport_protocol)
        or any(protocol not in match.application_protocols for protocol in protocols)
        or (wanted.destination_port and wanted.destination_port != match.destination_port.value)
    )


def _filter_name(patch: Patch) -> str:
    """Return the network filter that a patch names, "" for any."""
    chain = patch.match.listener.filter_chain if patch.match.listener is not None else None
    return chain.filter.name if chain is not None and chain.filter is not None else ""


def _sub_filter_name(patch: Patch) -> str:
    chain = patch.match.listener.filter_chain if patch.match.listener is not None else None
    named = chain.filter.sub_filter if chain is not None and chain.filter is not None else None
    return named.name if named is not None else ""


# ---------------------------------------------------------------- level by level


def _listener_filters(listener: Listener, patches: Sequence[Patch], trace: Trace) -> Sequence[ListenerFilter]:
    mine = [patch for patch in patches if patch.apply_to == "LISTENER_FILTER"]
    return _filters(
        listener.listener_filters,
        mine,
        trace,
        name_of=lambda patch: patch.match.listener.listener_filter if patch.match.listener is not None else "",
        last=frozenset(),
    )


def _chain(listener: Listener, chain: FilterChain, patches: Sequence[Patch], trace: Trace) -> FilterChain | None:
    mine = [patch for patch in patches if _chain_matches(listener, chain, patch)]
    for patch in mine:
        if patch.apply_to == "FILTER_CHAIN":
            if patch.operation == "REMOVE":
                trace.hit(patch)
                return None
            if merges(patch):
                chain = try_merge(chain, patch, trace)
    network = [patch for patch in mine if patch.apply_to == "NETWORK_FILTER"]
    filters = _filters(chain.filters, network, trace, name_of=_filter_name, last=_LAST_OF_NETWORK)
    http = [patch for patch in mine if patch.apply_to in ("HTTP_FILTER", *_ROUTE_PARTS)]
    if http:
        filters = [_manager(one, http, trace) for one in filters]
    if all(new is old for new, old in zip(filters, chain.filters, strict=False)) and len(filters) == len(chain.filters):
        return chain
    result = FilterChain()
    result.CopyFrom(chain)
    _set_list(result.filters, filters)
    return result


_ROUTE_PARTS: Final = ("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE")


def _manager(one: Filter, patches: Sequence[Patch], trace: Trace) -> Filter:
    """Patch the HTTP filters of a connection manager, and the routes that are written inside it."""
    if one.typed_config.type_url != HCM_TYPE:
        return one
    mine = [patch for patch in patches if patch.apply_to == "HTTP_FILTER" and _filter_name(patch) in ("", one.name)]
    routes = [patch for patch in patches if patch.apply_to in _ROUTE_PARTS]
    manager = HttpConnectionManager.FromString(one.typed_config.value)
    before = manager.http_filters[:]
    filters = _filters(before, mine, trace, name_of=_sub_filter_name, last=_LAST_OF_HTTP)
    changed = filters is not before
    if changed:
        _set_list(manager.http_filters, filters)
    if routes and manager.HasField("route_config"):
        context = RouteContext(name=manager.route_config.name, port=_inbound_port(manager.route_config.name))
        routed = patch_whole_route_config(manager.route_config, routes, trace, context)
        if routed is not manager.route_config:
            manager.route_config.CopyFrom(routed)
            changed = True
    return Filter(name=one.name, typed_config=pack(manager)) if changed else one


def _inbound_port(name: str) -> int:
    parts = name.split("|")
    return int(parts[1]) if len(parts) == 4 and parts[1].isdecimal() else 0


def _filters(
    filters: Sequence[Any],
    patches: Sequence[Patch],
    trace: Trace,
    *,
    name_of: Callable[[Patch], str],
    last: frozenset[str],
) -> Sequence[Any]:
    """Return the filters after all patches; the same sequence when nothing acted."""
    result = filters
    for patch in patches:
        if merges(patch):
            continue
        name = name_of(patch)
        new = message_of(patch) if patch.operation != "REMOVE" else None
        if patch.operation == "ADD":
            place = _place(result, new, patch, last)
            found: list[Any] | None = [*result[:place], new, *result[place:]]
        else:
            found = changed_list(result, patch.operation, new, named=bool(name), matches=partial(_is_named, name=name))
        if found is not None:
            trace.hit(patch)
            result = found
    for patch in patches:
        if not merges(patch):
            continue
        name = name_of(patch)
        after = []
        for one in result:
            if name not in ("", one.name):
                after.append(one)
            elif _is_apart(one):
                # Merged, it would have this piece alone for its configuration, and check nothing.
                if name:
                    trace.failed(patch, f"nothing is merged into {name}: its configuration comes apart (ECDS)")
                after.append(one)
            else:
                after.append(try_merge(one, patch, trace, sure=bool(name)))
        if any(new is not old for new, old in zip(after, result, strict=True)):
            result = after
    return result


def _is_apart(one: Any) -> bool:
    """Tell whether a filter of Lateen's own is discovered: what is in the listener is only its name."""
    return isinstance(one, HttpFilter) and one.name == JWT_FILTER and one.HasField("config_discovery")


def _is_named(one: Any, name: str) -> bool:
    return bool(one.name == name)


def _place(filters: Sequence[Any], new: Any, patch: Patch, last: frozenset[str]) -> int:
    """Return where an added filter goes: at the end, before what must be last, or where its class says."""
    end = len(filters)
    if filters and filters[-1].typed_config.type_url in last:
        end -= 1
    if not isinstance(new, HttpFilter):
        return end
    match patch.filter_class:
        case "STATS":
            return next((at for at, one in enumerate(filters) if one.name == _STATS[0]), end)
        case "AUTHN":
            return _behind(filters, _AUTHENTICATION)
        case "AUTHZ":
            return _behind(filters, (*_AUTHENTICATION, *_AUTHORIZATION))
    return end


def _behind(filters: Sequence[HttpFilter], names: Sequence[str]) -> int:
    """Return the place behind the last of these filters: the front where there is none."""
    places = [at for at, one in enumerate(filters) if one.name.startswith(names)]
    return places[-1] + 1 if places else 0
