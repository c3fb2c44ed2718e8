"""VirtualServices: which of their rules act for one viewer, as routes with every destination resolved.

Rules: docs/api/VirtualService.md. Static match fields (port, gateways, sourceLabels, sourceNamespace) are decided here
and never reach Envoy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from lateen.api.base import Object
from lateen.pilot.model.chains import first_of_each_match
from lateen.pilot.model.policy import config_ref
from lateen.pilot.model.values import (
    NO_TCP_LIMITS,
    Cluster,
    ConfigRef,
    Destination,
    DynamicTarget,
    HashPolicy,
    Hostname,
    MirrorInput,
    RouteInput,
    ServiceRef,
    TcpLimits,
    TcpRoute,
    Tunnel,
)

__all__ = [
    "MESH_GATEWAY",
    "Resolved",
    "Viewer",
    "bound_gateways",
    "default_route",
    "http_routes",
    "matches_all",
    "qualified_gateways",
    "tcp_routes",
    "tls_routes",
]

MESH_GATEWAY = "mesh"  # the name by which a VirtualService binds to every sidecar


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a `destination` of the API leads."""

    cluster: Cluster
    hash_policies: tuple[HashPolicy, ...] = ()
    service: ServiceRef | None = None
    limits: TcpLimits = NO_TCP_LIMITS
    tunnel: Tunnel | None = None
    dynamic: DynamicTarget | None = None  # a connection to it goes where its server name is
    retries: Any = None  # api HTTPRetry | None: of routes to it that say nothing about retries


# (destination, namespace of the rule, port of the listener) -> where it leads
Resolve = Callable[[Any, str, int], Resolved]


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """For whom rules are selected."""

    gateway: str = MESH_GATEWAY  # or "<namespace>/<name>" of a Gateway
    namespace: str
    labels: Mapping[str, str]
    tls: bool = False  # the gateway's listener terminates TLS


def bound_gateways(vs: Object) -> tuple[str, ...]:
    """Return the gateways a VirtualService binds to: `mesh` or `<namespace>/<name>`; `mesh` when it names none."""
    return qualified_gateways(vs.spec.gateways, vs.key.namespace) or (MESH_GATEWAY,)


def http_routes(vs: Object, *, port: int, viewer: Viewer, resolve: Resolve) -> tuple[RouteInput, ...]:
    """Return the routes of `vs` for requests to `port`, in order; () when none of its rules acts there.

    Stops after a route that matches everything: what follows could never be reached.
    """
    routes: list[RouteInput] = []
    ref = config_ref(vs)
    for rule in vs.spec.http:
        for match in rule.match or (None,):
            if match is not None and not _acts(match, vs, port, viewer):
                continue
            route = _http_route(vs, rule, match, port=port, viewer=viewer, resolve=resolve, ref=ref)
            if route is None:
                continue
            routes.append(route)
            if matches_all(match):
                return tuple(routes)
    return tuple(routes)


def default_route(hostname: Hostname, port: int, place: Resolved) -> RouteInput:
    """Return the one route of a service that no VirtualService speaks of."""
    return RouteInput(
        name="default",
        destinations=(Destination(cluster=place.cluster),),
        retries=place.retries,
        hash_policies=place.hash_policies,
        operation=f"{hostname}:{port}/*",
        listen_port=port,
    )


def tcp_routes(vs: Object, *, port: int, viewer: Viewer, resolve: Resolve) -> tuple[TcpRoute, ...]:
    """Return the filter chains that `vs.tcp` gives a port; the last one matches everything, if there is such a one."""
    chains: list[TcpRoute] = []
    for rule in vs.spec.tcp:
        for match in rule.match or (None,):
            if match is not None and not _acts_on_connections(match, vs, port, viewer):
                continue
            chain = _tcp_route(
                vs,
                rule.route,
                port=port,
                resolve=resolve,
                subnets=_subnets(match.destination_subnets) if match is not None else (),
                sources=_subnets((match.source_subnet,)) if match is not None and match.source_subnet else (),
            )
            chains.append(chain)
            if not chain.limited:
                return first_of_each_match(chains)
    return first_of_each_match(chains)


def tls_routes(vs: Object, *, port: int, viewer: Viewer, resolve: Resolve) -> tuple[TcpRoute, ...]:
    """Return the filter chains that `vs.tls` gives a port, by server name; the first of equal matches stands."""
    return first_of_each_match(
        _tcp_route(
            vs,
            rule.route,
            port=port,
            resolve=resolve,
            subnets=_subnets(match.destination_subnets),
            sni=() if "*" in match.sni_hosts else tuple(sorted({name.lower() for name in match.sni_hosts})),
        )
        for rule in vs.spec.tls
        for match in rule.match
        if _acts_on_connections(match, vs, port, viewer)
    )


def _subnets(written: Iterable[str]) -> tuple[str, ...]:
    """Return subnets spelled one way, without duplicates: `10.1.2.3/8` is `10.0.0.0/8`; () where one is everything."""
    networks = {ip_network(subnet, strict=False) for subnet in written}
    return tuple(sorted(str(network) for network in networks)) if all(net.prefixlen for net in networks) else ()


def qualified_gateways(gateways: Iterable[str], namespace: str) -> tuple[str, ...]:
    """Return the gateways that a resource of `namespace` names: `mesh` or `<namespace>/<name>`, each once."""
    return tuple(dict.fromkeys(_gateway_name(gateway, namespace) for gateway in gateways))


def _gateway_name(gateway: str, namespace: str) -> str:
    if gateway == MESH_GATEWAY:
        return gateway
    if "/" in gateway:
        owner, _, name = gateway.partition("/")
        return f"{namespace if owner == '.' else owner}/{name}"
    name, _, rest = gateway.partition(".")  # the old form: name.namespace.svc...
    return f"{rest.split('.')[0]}/{name}" if rest else f"{namespace}/{name}"


def _acts(match: Any, vs: Object, port: int, viewer: Viewer) -> bool:
    """Tell whether a match of an HTTP rule is for this viewer. Gateways that it names are asked alone."""
    if match.port and match.port != port:
        return False
    if match.gateways:
        return viewer.gateway in qualified_gateways(match.gateways, vs.key.namespace)
    return _is_meant(match, viewer)


def _acts_on_connections(match: Any, vs: Object, port: int, viewer: Viewer) -> bool:
    """The same of a TLS or TCP rule, of which everything must hold."""
    if match.port and match.port != port:
        return False
    if match.gateways and viewer.gateway not in qualified_gateways(match.gateways, vs.key.namespace):
        return False
    return _is_meant(match, viewer)


def _is_meant(match: Any, viewer: Viewer) -> bool:
    if match.source_namespace and match.source_namespace != viewer.namespace:
        return False
    return all(viewer.labels.get(key) == value for key, value in match.source_labels.items())


def matches_all(match: Any) -> bool:
    """Tell whether a match (api HTTPMatchRequest | None) takes every request that reaches its port."""
    if match is None:
        return True
    if match.headers or match.without_headers or match.query_params:
        return False
    if match.method is not None or match.authority is not None or match.scheme is not None:
        return False
    uri = match.uri
    return uri is None or uri.prefix in ("", "/") or uri.regex == ".*"


def _http_route(
    vs: Object, rule: Any, match: Any, *, port: int, viewer: Viewer, resolve: Resolve, ref: ConfigRef
) -> RouteInput | None:
    namespace = vs.key.namespace
    resolved = [(entry, resolve(entry.destination, namespace, port)) for entry in rule.route]
    if not resolved and rule.redirect is None and rule.direct_response is None:
        return None
    destinations = tuple(
        Destination(cluster=place.cluster, weight=entry.weight or 0, headers=entry.headers)
        for entry, place in resolved
        if len(resolved) == 1 or entry.weight
    )
    if resolved and not destinations:
        return None
    return RouteInput(
        name=_route_name(rule, match),
        match=match,
        destinations=destinations,
        redirect=rule.redirect,
        direct_response=rule.direct_response,
        rewrite=rule.rewrite,
        timeout=rule.timeout,
        retries=rule.retries or next((place.retries for _, place in resolved), None),
        fault=rule.fault,
        cors=rule.cors_policy,
        mirrors=tuple(_mirrors(rule, namespace, port, resolve)),
        headers=rule.headers,
        hash_policies=tuple(dict.fromkeys(policy for _, place in resolved for policy in place.hash_policies)),
        operation=_operation(vs, rule, match, port, resolved),
        listen_port=port,
        tls=viewer.tls,
        dynamic_host=rule.rewrite.authority
        if rule.rewrite is not None and any(place.dynamic is not None for _, place in resolved)
        else "",
        rule=ref,
    )


def _route_name(rule: Any, match: Any) -> str:
    name = rule.name or ""
    return f"{name}.{match.name}" if match is not None and match.name else name


def _operation(vs: Object, rule: Any, match: Any, port: int, resolved: list[tuple[Any, Resolved]]) -> str:
    path = "/*"
    uri = match.uri if match is not None else None
    if uri is not None:
        path = f"{uri.prefix}*" if uri.prefix else uri.exact or uri.regex or "/*"
    if len(resolved) == 1:
        _, port_text, _, host = resolved[0][1].cluster.split("|", 3)
        return f"{host}:{port_text}{path}"
    return f"{vs.key.name}:{port}{path}"


def _mirrors(rule: Any, namespace: str, port: int, resolve: Resolve) -> Iterator[MirrorInput]:
    if rule.mirror is not None:
        percent = 100.0
        if rule.mirror_percentage is not None:
            percent = float(rule.mirror_percentage.value or 0)
        elif rule.mirror_percent is not None:
            percent = float(rule.mirror_percent)
        if percent > 0:
            yield MirrorInput(cluster=resolve(rule.mirror, namespace, port).cluster, percent=percent)
    for mirror in rule.mirrors:
        percent = 100.0 if mirror.percentage is None else float(mirror.percentage.value or 0)
        if percent > 0:
            yield MirrorInput(cluster=resolve(mirror.destination, namespace, port).cluster, percent=percent)


def _tcp_route(
    vs: Object,
    entries: Iterable[Any],
    *,
    port: int,
    resolve: Resolve,
    subnets: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
    sni: tuple[str, ...] = (),
) -> TcpRoute:
    resolved = [(entry, resolve(entry.destination, vs.key.namespace, port)) for entry in entries]
    single = len(resolved) == 1
    places = [(entry, place) for entry, place in resolved if single or entry.weight]
    return TcpRoute(
        destinations=tuple(Destination(cluster=place.cluster, weight=entry.weight or 0) for entry, place in places),
        stat_prefix=str(places[0][1].cluster) if single else f"{vs.key.name}.{vs.key.namespace}",
        sni=sni,
        subnets=subnets,
        sources=sources,
        limits=places[0][1].limits if places else NO_TCP_LIMITS,  # of several destinations the first one's
        hash_source_ip=any(policy.kind == "source-ip" for _, place in places for policy in place.hash_policies),
        tunnel=_one_tunnel(place.tunnel for _, place in places),
        dynamic=places[0][1].dynamic if single else None,
        service=places[0][1].service if places else None,
        rule=config_ref(vs),
    )


def _one_tunnel(tunnels: Iterable[Tunnel | None]) -> Tunnel | None:
    # The tunnel is the whole connection's, before a destination is drawn: several must agree on it.
    found = set(tunnels)
    return found.pop() if len(found) == 1 else None
