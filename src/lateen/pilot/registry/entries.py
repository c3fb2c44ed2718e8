"""Turn ServiceEntries and WorkloadEntries into service rows and endpoints.

Rules: /docs/api/ServiceEntry.md and WorkloadEntry.md (Istio's conversion of what is written about the outside).
Pure: one resource in, its rows or its endpoint out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from lateen.api.base import Object
from lateen.api.names import is_ip
from lateen.api.protocol import parse_protocol
from lateen.api.workload_entry import WorkloadEntry
from lateen.pilot.model.values import Hostname, Resolution
from lateen.pilot.registry.values import (
    Registry,
    Service,
    ServiceKey,
    ServicePort,
    StaticEndpoint,
    asks_for_redis_proxy,
    export_scopes,
)

__all__ = ["NETWORK_LABEL", "entry_labels", "entry_rows", "is_unix", "traffic_distribution", "written_endpoint"]

AUTO_ALLOCATE_LABEL: Final = "networking.istio.io/enable-autoallocate-ip"
NETWORK_LABEL: Final = "topology.istio.io/network"

DISTRIBUTION_ANNOTATION: Final = "networking.istio.io/traffic-distribution"
DISTRIBUTIONS = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})

_RESOLUTIONS: Final = {
    "NONE": Resolution.ORIGINAL_DST,
    "STATIC": Resolution.EDS,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
    "DYNAMIC_DNS": Resolution.DYNAMIC_DNS,
}


def entry_rows(obj: Object, default: tuple[str, ...]) -> Iterator[tuple[ServiceKey, Service]]:
    """Yield the rows of one ServiceEntry: one a host, sorted. `default` is the mesh's exportTo."""
    for host in sorted({host.lower() for host in obj.spec.hosts}):
        service = _service(obj, Hostname(host), default)
        yield ServiceKey(service.hostname, Registry.SERVICE_ENTRY, obj.key.namespace, obj.key.name), service


def entry_labels(obj: Object) -> dict[str, str]:
    """Return the labels of a WorkloadEntry that selectors and subsets ask for: those of its metadata win."""
    return {**(obj.spec.labels or {}), **obj.labels}


def written_endpoint(obj: Object) -> StaticEndpoint | None:
    """Return the endpoint that a WorkloadEntry is; None when it has no address of its own."""
    return _endpoint(obj.spec, entry_labels(obj), obj.key.namespace, obj.key.name)


def traffic_distribution(obj: Object) -> str:
    """Return a Service's `trafficDistribution`, or its or an entry's annotation; "" for none that is known."""
    written = getattr(obj.spec, "traffic_distribution", None) or obj.annotations.get(DISTRIBUTION_ANNOTATION, "")
    return written if written in DISTRIBUTIONS else ""


def is_unix(address: str) -> bool:
    """Tell whether an endpoint's address is a Unix socket: a path, or `@name` for an abstract one."""
    return address.startswith(("/", "@"))


def _service(obj: Object, hostname: Hostname, default: tuple[str, ...]) -> Service:
    spec = obj.spec
    ports = tuple(
        ServicePort(
            port.name or "",
            port.number,
            parse_protocol(port.protocol or "", "", port.number, "TCP"),
            port.target_port or None,
        )
        for port in spec.ports
    )
    resolution = _RESOLUTIONS[spec.resolution or "NONE"]
    addresses = tuple(dict.fromkeys(address.removesuffix("/32") for address in spec.addresses))
    # Where connections go to where the client dialled, nobody is selected.
    chosen = spec.workload_selector if resolution is not Resolution.ORIGINAL_DST else None
    selector = tuple(sorted(chosen.labels.items())) if chosen else ()
    return Service(
        hostname=hostname,
        name=str(hostname),
        namespace=obj.key.namespace,
        registry=Registry.SERVICE_ENTRY,
        ports=ports,
        addresses=addresses,
        # Without an address of its own, and with endpoints of its own, a host can only be told apart by one of ours.
        wants_vip=obj.labels.get(AUTO_ALLOCATE_LABEL) != "false"
        and "*" not in hostname
        and not addresses
        and resolution is not Resolution.ORIGINAL_DST,
        resolution=resolution,
        mesh_external=(spec.location or "MESH_EXTERNAL") == "MESH_EXTERNAL",
        export_to=export_scopes(spec.export_to, obj.key.namespace, default),
        selector=selector,
        distribution=traffic_distribution(obj),
        labels=tuple(sorted(obj.labels.items())),
        endpoints=_endpoints(obj, hostname, resolution, looked_up=not selector),
        subject_alt_names=tuple(sorted(spec.subject_alt_names)),
        redis_proxy=asks_for_redis_proxy(obj.annotations),
        created=obj.created,
        source=obj.key,
    )


def _endpoints(
    obj: Object, hostname: Hostname, resolution: Resolution, *, looked_up: bool
) -> tuple[StaticEndpoint, ...]:
    namespace, name = obj.key.namespace, obj.key.name
    dns = resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
    written = (_endpoint(entry, dict(entry.labels or {}), namespace, name) for entry in obj.spec.endpoints)
    found = tuple(
        endpoint
        for endpoint in written
        # DNS looks up names and takes IPs as they are; everything else wants addresses.
        if endpoint is not None
        and (not is_unix(endpoint.address) if dns else is_ip(endpoint.address) or is_unix(endpoint.address))
    )
    if dns and looked_up and not obj.spec.endpoints:
        return (StaticEndpoint(address=str(hostname), namespace=namespace, name=name),)
    return found


def _endpoint(entry: WorkloadEntry, labels: Mapping[str, str], namespace: str, name: str) -> StaticEndpoint | None:
    network = entry.network or labels.get(NETWORK_LABEL, "")
    if not entry.address and not network:
        return None
    return StaticEndpoint(
        address=entry.address.removeprefix("unix://"),
        ports=tuple(sorted((entry.ports or {}).items())),
        labels=tuple(sorted(labels.items())),
        weight=entry.weight or 1,
        locality=entry.locality or "",
        network=network,
        service_account=entry.service_account or "",
        namespace=namespace,
        name=name,
    )
