"""What becomes of several resources that are about one host, for those who see them all.

Rules: docs/api/ServiceEntry.md "Precedence". Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lateen.pilot.model.values import Resolution
from lateen.pilot.registry.values import Registry, Service, ServicePort, StaticEndpoint

__all__ = ["merge_same_host"]


def merge_same_host(ranked: Sequence[Service], *, root: str) -> Service:
    """Return the first of `ranked` (best first, at least one) with what the others may add to it.

    To a Service, entries of its own namespace or of the root namespace add the names that its servers may have, and
    nothing else. An entry takes the ports and endpoints of those beside it that are of one kind with it.
    """
    first, *others = ranked
    if not others:
        return first
    if first.registry is Registry.SERVICE:
        trusted = (first.namespace, root)
        names = {
            name
            for other in others
            if other.registry is Registry.SERVICE_ENTRY and other.namespace in trusted
            for name in other.subject_alt_names
        }
        return replace(first, subject_alt_names=tuple(sorted(names))) if names else first
    alike = [other for other in others if _alike(first, other)]
    return _merge([first, *alike]) if alike else first


def _alike(first: Service, other: Service) -> bool:
    return all(
        getattr(first, field) == getattr(other, field)
        for field in ("registry", "namespace", "resolution", "mesh_external", "labels", "selector")
    )


def _merge(entries: Sequence[Service]) -> Service:
    ports: dict[int, ServicePort] = {}
    for entry in entries:
        for port in entry.ports:
            ports.setdefault(port.number, port)
    addresses = tuple(dict.fromkeys(address for entry in entries for address in entry.addresses))
    return replace(
        entries[0],
        ports=tuple(ports.values()),
        addresses=addresses,
        wants_vip=not addresses and any(entry.wants_vip for entry in entries),
        endpoints=tuple(_endpoints(entries)),
        subject_alt_names=tuple(sorted({name for entry in entries for name in entry.subject_alt_names})),
    )


def _endpoints(entries: Sequence[Service]) -> Iterator[StaticEndpoint]:
    """Yield each entry's endpoints, for the ports of that entry alone."""
    taken: set[int] = set()
    for entry in entries:
        # Such a cluster has one endpoint, so that of the first entry of a port stands.
        single = entry.resolution is Resolution.DNS_ROUND_ROBIN
        serves = tuple(port.name for port in entry.ports if not (single and port.number in taken))
        taken.update(port.number for port in entry.ports)
        for endpoint in entry.endpoints:
            yield replace(endpoint, serves=serves)
