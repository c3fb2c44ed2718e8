"""Route configurations in parts: which virtual host is the bad one, and how to go on without it. Pure.

A route configuration holds the virtual hosts of many resources of the API, so one bad one must not hold up the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.pilot.translate.pack import resource_of
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, RDS

__all__ = ["config_paths", "each_host", "each_route", "with_last_hosts"]


def each_host(resource: Resource) -> dict[str, Resource]:
    """Return each virtual host as a route configuration of its own, by its name."""
    whole = _read(resource)
    return {host.name: _with_hosts(whole, [host]) for host in whole.virtual_hosts}


def each_route(resource: Resource) -> list[Resource]:
    """Return each route of a configuration with one virtual host as a configuration of its own."""
    whole = _read(resource)
    found = []
    for host in whole.virtual_hosts:
        for route in host.routes:
            single = type(host)()
            single.CopyFrom(host)
            del single.routes[:]
            single.routes.append(route)
            found.append(_with_hosts(whole, [single]))
    return found


def with_last_hosts(resource: Resource, bad: Collection[str], last: Resource | None) -> Resource:
    """Return `resource` with each bad virtual host as `last` has it; without it, where `last` has none.

    A domain that a good host has now is taken from the old ones: Envoy refuses a domain that two hosts have.
    """
    whole = _read(resource)
    before = {host.name: host for host in _read(last).virtual_hosts} if last is not None else {}
    taken = {domain.lower() for host in whole.virtual_hosts if host.name not in bad for domain in host.domains}
    hosts: list[Any] = []
    for host in whole.virtual_hosts:
        if host.name not in bad:
            hosts.append(host)
            continue
        old = before.get(host.name)
        domains = [domain for domain in old.domains if domain.lower() not in taken] if old is not None else []
        if old is None or not domains:
            continue
        taken.update(domain.lower() for domain in domains)
        kept = type(old)()
        kept.CopyFrom(old)
        del kept.domains[:]
        kept.domains.extend(domains)
        hosts.append(kept)
    return _with_hosts(whole, hosts)


def config_paths(type_url: str, resource: Resource) -> tuple[str, ...]:
    """Return the resources of the API that a cluster's or its routes' metadata name, sorted.

    Each as `/apis/<group>/<version>/namespaces/<namespace>/<kind>/<name>`.
    """
    body = AnyMessage.FromString(resource.body).value
    holders: Iterable[Any] = ()
    if type_url == CDS:
        holders = (Cluster.FromString(body),)
    elif type_url == RDS:
        holders = (route for host in RouteConfiguration.FromString(body).virtual_hosts for route in host.routes)
    found = set()
    for holder in holders:
        if "istio" in holder.metadata.filter_metadata:
            found.add(holder.metadata.filter_metadata["istio"].fields["config"].string_value)
    return tuple(sorted(found - {""}))


def _read(resource: Resource) -> RouteConfiguration:
    return RouteConfiguration.FromString(AnyMessage.FromString(resource.body).value)


def _with_hosts(whole: RouteConfiguration, hosts: list[Any]) -> Resource:
    made = RouteConfiguration()
    made.CopyFrom(whole)
    del made.virtual_hosts[:]
    made.virtual_hosts.extend(hosts)
    return resource_of(made)
