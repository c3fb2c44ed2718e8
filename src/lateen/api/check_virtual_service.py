"""What a VirtualService must satisfy beyond its shape. Rule ids (VS-..) are those of docs/api/VirtualService.md.

Shape alone settles VS-12, VS-35 in part, VS-42, VS-47, VS-65, VS-70, VS-85 and VS-86.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_export_to, check_label_map, check_port, check_subnet
from lateen.api.check_http_route import check_http_route, is_claim_key
from lateen.api.check_unreachable import check_unreachable
from lateen.api.hosts import covering_patterns, most_specific_host
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_partial_wildcard, is_port, is_wildcard_domain
from lateen.api.places import join_path
from lateen.api.virtual_service import Destination, RouteDestination, TCPRoute, TLSRoute, VirtualService

__all__ = ["check_destination", "check_virtual_service"]

MESH: Final = "mesh"
WEIGHT_LIMIT: Final = 2**32 - 1


def check_virtual_service(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a VirtualService."""
    vs: VirtualService = obj.spec
    in_mesh = not vs.gateways or MESH in vs.gateways
    yield from _check_whole(obj, vs)
    yield from _check_hosts(obj, vs, in_mesh)
    yield from check_gateways(obj, vs.gateways, "spec.gateways")
    for i, route in enumerate(vs.http):
        path = f"spec.http[{i}]"
        yield from check_http_route(obj, route, path, root=bool(vs.hosts))
        for j, match in enumerate(route.match):
            yield from check_gateways(obj, match.gateways, f"{path}.match[{j}].gateways")
            if in_mesh:
                yield from _check_claims(obj, match, f"{path}.match[{j}]")
        yield from check_destinations(obj, route.route, f"{path}.route")
        if route.mirror is not None:
            yield from check_destination(obj, route.mirror, f"{path}.mirror")
        for j, mirror in enumerate(route.mirrors):
            yield from check_destination(obj, mirror.destination, f"{path}.mirrors[{j}].destination")
    for i, tls in enumerate(vs.tls):
        yield from _check_tls(obj, vs, tls, f"spec.tls[{i}]")
    for i, tcp in enumerate(vs.tcp):
        yield from _check_tcp(obj, tcp, f"spec.tcp[{i}]")
    for name, rules in (("http", vs.http), ("tls", vs.tls), ("tcp", vs.tcp)):
        yield from check_unreachable(obj, rules, f"spec.{name}")
    yield from check_export_to(obj, vs.export_to)


def _check_whole(obj: Object, vs: VirtualService) -> Iterator[Problem]:
    if not vs.hosts:
        for name, given in (("gateways", vs.gateways), ("tls", vs.tls), ("tcp", vs.tcp)):
            if given:  # VS-01, VS-02, VS-03
                yield obj.problem("spec.hosts", f"is required where there is {name}; only a delegate has no hosts")
    if not (vs.http or vs.tls or vs.tcp):  # VS-04
        yield obj.problem("spec", "must have http, tls or tcp")


def _check_hosts(obj: Object, vs: VirtualService, in_mesh: bool) -> Iterator[Problem]:
    sni_names = not in_mesh and any(match.sni_hosts for route in vs.tls for match in route.match)
    wrong = False
    for i, host in enumerate(vs.hosts):
        path = f"spec.hosts[{i}]"
        if not (is_wildcard_domain(host) or is_ip(host) or (sni_names and _is_cluster_sni(host))):  # VS-05
            wrong = True
            yield obj.problem(path, f'must be a host name, a wildcard as in *.foo.com, or an IP, got "{host}"')
        elif host == "*" and in_mesh:  # VS-06
            yield obj.problem(path, '"*" is for gateways only: name a gateway, and not mesh, or other hosts')
    if wrong:
        return
    known = {host.lower() for host in vs.hosts}
    before: set[str] = set()
    for i, host in enumerate(vs.hosts):  # VS-07; of an overlapping pair the one that is covered is told
        lower = host.lower()
        other = lower if lower in before else next((name for name in covering_patterns(lower) if name in known), None)
        before.add(lower)
        if other is not None:
            yield obj.problem(f"spec.hosts[{i}]", f'must not overlap with another host, got "{host}" and "{other}"')


def _is_cluster_sni(host: str) -> bool:
    """The SNI of Istio's own clusters, `outbound_.<port>_.<subset>_.<host>`."""
    parts = host.split("_.", 3)
    return (
        len(parts) == 4
        and parts[0] == "outbound"
        and parts[1].isdecimal()
        and is_port(int(parts[1][:6]))
        and (parts[2] == "" or is_dns_label(parts[2]))
        and is_fqdn(parts[3])
    )


def check_gateways(obj: Object, gateways: Iterable[str], path: str) -> Iterator[Problem]:
    """VS-09, VS-10, VS-11 (and VS-25 in matches)."""
    for i, gateway in enumerate(gateways):
        place = f"{path}[{i}]"
        namespace, slash, name = gateway.partition("/")
        if slash:
            # "." is the own namespace, which people write and proxies understand.
            if not (namespace == "." or is_dns_label(namespace)) or not is_dns_label(name):
                yield obj.problem(place, f'must be namespace/name, both DNS labels, got "{gateway}"')
        elif not is_fqdn(gateway):
            yield obj.problem(place, f'must be a Gateway as in name or namespace/name, or mesh, got "{gateway}"')
        elif "." in gateway:
            yield obj.problem(place, f'old way to name a Gateway, write namespace/name, got "{gateway}"', "warning")


def _check_claims(obj: Object, match: Any, path: str) -> Iterator[Problem]:
    for name, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for key in headers:
            if is_claim_key(key):  # VS-08
                yield obj.problem(join_path(f"{path}.{name}", key), "claims of a JWT are matched at gateways only")


# ---------------------------------------------------------------- destinations


def check_destinations(obj: Object, entries: Sequence[Any], path: str) -> Iterator[Problem]:
    """Destinations and their weights: VS-48..53."""
    for i, entry in enumerate(entries):
        if entry.destination is None:  # VS-51
            yield obj.problem(f"{path}[{i}].destination", "is required")
        else:
            yield from check_destination(obj, entry.destination, f"{path}[{i}].destination")
        if entry.weight < 0:  # VS-52
            yield obj.problem(f"{path}[{i}].weight", f"must be 0 or more, got {entry.weight}")
    if len(entries) > 1 and sum(entry.weight for entry in entries) == 0:  # VS-53
        yield obj.problem(path, f"must have weights: {len(entries)} destinations with 0 together get no traffic")
    if (total := sum(max(entry.weight, 0) for entry in entries)) > WEIGHT_LIMIT:  # Envoy adds them up in 32 bits
        yield obj.problem(path, f"must have weights of at most {WEIGHT_LIMIT} together, got {total}")


def check_destination(obj: Object, destination: Destination, path: str) -> Iterator[Problem]:
    host = destination.host
    if host == "*" or not (is_wildcard_domain(host) or is_ip(host)):  # VS-48
        yield obj.problem(f"{path}.host", f'must be the host of a service, got "{host}"')
    if destination.subset and not is_dns_label(destination.subset):  # VS-49
        yield obj.problem(f"{path}.subset", f'must be a DNS label, got "{destination.subset}"')
    if destination.port is not None:  # VS-50
        yield from check_port(obj, destination.port.number, f"{path}.port.number")


# ---------------------------------------------------------------- tls and tcp


def _check_tls(obj: Object, vs: VirtualService, route: TLSRoute, path: str) -> Iterator[Problem]:
    hosts = {host.lower() for host in vs.hosts}
    if not route.match:  # VS-71
        yield obj.problem(f"{path}.match", "must have at least one entry")
    for i, match in enumerate(route.match):
        place = f"{path}.match[{i}]"
        if not match.sni_hosts:  # VS-72
            yield obj.problem(f"{place}.sniHosts", "must have at least one entry")
        for j, host in enumerate(match.sni_hosts):
            where = f"{place}.sniHosts[{j}]"
            if is_ip(host):  # VS-74
                yield obj.problem(where, f'an IP is never a server name in TLS, got "{host}"', "warning")
            elif is_partial_wildcard(host):  # Envoy compares server names label by label
                yield obj.problem(where, f'must have its wildcard for whole labels, as in *.foo.com, got "{host}"')
            elif not (is_wildcard_domain(host) or _is_cluster_sni(host)):  # VS-73
                yield obj.problem(where, f'must be a host name or a wildcard as in *.foo.com, got "{host}"')
            if most_specific_host(host.lower(), hosts) is None:  # VS-75
                yield obj.problem(where, f'must be covered by spec.hosts, got "{host}"')
        yield from _check_l4_match(obj, match, place)
    yield from _check_l4_route(obj, route.route, f"{path}.route")


def _check_tcp(obj: Object, route: TCPRoute, path: str) -> Iterator[Problem]:
    for i, match in enumerate(route.match):
        yield from _check_l4_match(obj, match, f"{path}.match[{i}]")
    yield from _check_l4_route(obj, route.route, f"{path}.route")


def _check_l4_route(obj: Object, entries: Sequence[RouteDestination], path: str) -> Iterator[Problem]:
    if not entries:  # VS-71, VS-78
        yield obj.problem(path, "must have at least one destination")
    yield from check_destinations(obj, entries, path)


def _check_l4_match(obj: Object, match: Any, path: str) -> Iterator[Problem]:
    for i, subnet in enumerate(match.destination_subnets):  # VS-76
        yield from check_subnet(obj, subnet, f"{path}.destinationSubnets[{i}]")
    if match.port:  # VS-77
        yield from check_port(obj, match.port, f"{path}.port")
    yield from check_label_map(obj, match.source_labels, f"{path}.sourceLabels")
    yield from check_gateways(obj, match.gateways, f"{path}.gateways")
