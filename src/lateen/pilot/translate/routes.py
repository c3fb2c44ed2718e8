"""Build route configurations.

In:  one `RouteConfigInput`.
Out: one `envoy.config.route.v3.RouteConfiguration`.
Rules: Istio `VirtualService` and outbound traffic policy, docs/api/translation.md "Routes".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption, Metadata
from envoy.config.route.v3.route_components_pb2 import (
    Decorator,
    DirectResponseAction,
    Route,
    RouteAction,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.wrappers_pb2 import BoolValue

from lateen.pilot.model.values import (
    ALLOW_ANY,
    ALLOW_ANY_DYNAMIC_DNS,
    REGISTRY_ONLY,
    ConfigRef,
    RouteConfigInput,
    RouteInput,
    VirtualHostInput,
)
from lateen.pilot.translate.actions import NO_TIMEOUT, build_action, cluster_headers
from lateen.pilot.translate.headers import header_fields
from lateen.pilot.translate.matches import EVERYTHING, build_match
from lateen.pilot.translate.names import BLACK_HOLE, DYNAMIC, PASSTHROUGH
from lateen.pilot.translate.pack import length_delimited, resource_of_bytes
from lateen.pilot.translate.parts import config_path, metadata, uint32
from lateen.pilot.translate.route_filters import per_filter_config
from lateen.pilot.xds.source import Resource

__all__ = [
    "build_route",
    "build_route_config",
    "build_virtual_host",
    "splice_route_config",
    "splice_virtual_host",
]

ALT_SVC_SECONDS: Final = 86400  # how long clients may remember that there is HTTP/3
MAX_DIRECT_RESPONSE_BYTES: Final = 1 << 20
BLOCKED_STATUS: Final = 502  # what REGISTRY_ONLY answers for hosts that nobody registered
_VIRTUAL_HOSTS: Final = RouteConfiguration.DESCRIPTOR.fields_by_name["virtual_hosts"].number
_ROUTES: Final = VirtualHost.DESCRIPTOR.fields_by_name["routes"].number
_BODY_LIMIT: Final = uint32(MAX_DIRECT_RESPONSE_BYTES)
# A route may name a cluster that does not exist (yet): the request fails, the configuration does not.
_NOT_VALIDATED: Final = BoolValue(value=False)


def build_route_config(inp: RouteConfigInput) -> RouteConfiguration:
    """Return all virtual hosts of one name. Same input, same bytes. Does not raise."""
    hosts = [build_virtual_host(host) for host in inp.virtual_hosts]
    return RouteConfiguration(name=inp.name, virtual_hosts=[*hosts, *_catch_all(inp)], **_options(inp))


def _options(inp: RouteConfigInput) -> dict[str, Any]:
    h3 = inp.http3_port
    return {
        "response_headers_to_add": [_alt_svc(h3)] if h3 else (),
        "validate_clusters": _NOT_VALIDATED,
        "max_direct_response_body_size_bytes": _BODY_LIMIT,
        "ignore_port_in_host_matching": inp.ignore_port_in_host,
    }


def _alt_svc(port: int) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key="alt-svc", value=f'h3=":{port}"; ma={ALT_SVC_SECONDS}'))


def splice_route_config(
    shell: RouteConfigInput,
    hosts: Iterable[tuple[tuple[str, ...], bytes]],
    rest: RouteConfiguration | None = None,
) -> Resource:
    """Return the resource that `build_route_config` would give, from virtual hosts that are serialised already.

    `shell` has no virtual hosts; `hosts` are (domains, bytes of the `VirtualHost`), in order. One changed host costs
    its own translation and one concatenation. Envoy refuses a domain that two hosts have: the first one keeps it, and
    a host left without domains is left out. `rest` is all that is not spliced, where `shell` does not say it.
    """
    spliced = b"".join(length_delimited(_VIRTUAL_HOSTS, data) for data in _without_duplicates(hosts))
    # In the order of field numbers, which is how protobuf writes them: equal content, equal bytes.
    head = RouteConfiguration(name=shell.name)
    if rest is None:
        tail = RouteConfiguration(virtual_hosts=_catch_all(shell), **_options(shell))
    else:
        tail = RouteConfiguration()
        tail.CopyFrom(rest)
        tail.name = ""
    value = head.SerializeToString() + spliced + tail.SerializeToString(deterministic=True)
    return resource_of_bytes(shell.name, RouteConfiguration.DESCRIPTOR.full_name, value)


def _without_duplicates(hosts: Iterable[tuple[tuple[str, ...], bytes]]) -> Iterator[bytes]:
    taken: set[str] = set()
    for domains, data in hosts:
        wanted = [domain for domain in domains if domain.lower() not in taken]
        taken.update(domain.lower() for domain in wanted)
        if len(wanted) == len(domains):
            yield data
        elif wanted:
            host = VirtualHost.FromString(data)
            del host.domains[:]
            host.domains.extend(wanted)
            yield host.SerializeToString(deterministic=True)


def build_virtual_host(inp: VirtualHostInput) -> VirtualHost:
    """Return one virtual host; usable on its own for VHDS."""
    return VirtualHost(
        name=inp.name, domains=inp.domains, routes=[build_route(route) for route in inp.routes], **_host_options(inp)
    )


def _host_options(inp: VirtualHostInput) -> dict[str, Any]:
    return {
        "require_tls": VirtualHost.ALL if inp.require_tls else VirtualHost.NONE,
        "include_request_attempt_count": True,
    }


def splice_virtual_host(shell: VirtualHostInput, routes: Iterable[bytes]) -> bytes:
    """Return the bytes of what `build_virtual_host` would give, from routes that are serialised already, in order.

    `shell` has no routes.
    """
    # In the order of field numbers, see `splice_route_config`.
    head = VirtualHost(name=shell.name, domains=shell.domains).SerializeToString()
    tail = VirtualHost(**_host_options(shell)).SerializeToString(deterministic=True)
    return b"".join((head, *(length_delimited(_ROUTES, data) for data in routes), tail))


def build_route(inp: RouteInput) -> Route:
    """Return one route of a virtual host."""
    # One destination's headers are the route's; of several, each cluster has its own (see `cluster_headers`).
    if len(inp.destinations) == 1:
        headers = header_fields(inp.headers, inp.destinations[0].headers)
    else:
        headers = header_fields(inp.headers) if cluster_headers(inp) is None else {}
    return Route(
        name=inp.name,
        match=build_match(inp.match),
        metadata=_config_metadata(inp.rule),
        decorator=Decorator(operation=inp.operation) if inp.operation else None,
        stat_prefix=(inp.match.stat_prefix or "") if inp.match is not None else "",
        typed_per_filter_config=per_filter_config(inp.fault, inp.cors, inp.dynamic_host),
        **build_action(inp),
        **headers,
    )


def _config_metadata(rule: ConfigRef | None) -> Metadata | None:
    return None if rule is None else metadata(istio={"config": config_path(rule)})


def _catch_all(inp: RouteConfigInput) -> list[VirtualHost]:
    """Return the last virtual host, for hosts that are not in the registry."""
    match inp.catch_all:
        case "":
            return []
        case "ALLOW_ANY":
            route = Route(
                name="allow_any",
                match=EVERYTHING,
                route=RouteAction(cluster=inp.egress_proxy or PASSTHROUGH, **NO_TIMEOUT),
            )
        case "ALLOW_ANY_DYNAMIC_DNS":
            route = Route(
                name="allow_any_dynamic_dns",
                match=EVERYTHING,
                route=RouteAction(cluster=DYNAMIC, **NO_TIMEOUT),
            )
        case "REGISTRY_ONLY":
            route = Route(
                name="block_all",
                match=EVERYTHING,
                direct_response=DirectResponseAction(status=BLOCKED_STATUS),
                metadata=metadata(istio={"service_name": BLACK_HOLE}),  # no cluster is there to tell it to metrics
            )
        case other:
            wanted = f"{ALLOW_ANY}, {ALLOW_ANY_DYNAMIC_DNS}, {REGISTRY_ONLY} or none"
            raise ValueError(f"catch-all {other!r}; {wanted} wanted")
    return [VirtualHost(name=route.name, domains=["*"], routes=[route], include_request_attempt_count=True)]
