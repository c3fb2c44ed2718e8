"""Turn resources and registrations into service rows.

Rules: /docs/api/Service.md and ServiceEntry.md (Istio's conversion of Services and ServiceEntries).
Pure: one resource in, its rows out, sorted by key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from lateen.api.base import Object
from lateen.api.protocol import parse_protocol
from lateen.pilot.model.values import Hostname, Resolution
from lateen.pilot.registry.values import (
    EVERYWHERE,
    Registry,
    Service,
    ServiceKey,
    ServicePort,
    StaticEndpoint,
    Workload,
)

__all__ = [
    "CLUSTER_DOMAIN",
    "IMPLIED_LABEL",
    "implied_rows",
    "merge_implied",
    "service_hostname",
    "service_rows",
    "static_endpoint",
]

CLUSTER_DOMAIN = "cluster.local"
EXPORT_ANNOTATION = "networking.istio.io/exportTo"
AUTO_ALLOCATE_LABEL = "networking.istio.io/enable-autoallocate-ip"
# The selector of a service that only running workloads name. The slash-less name cannot be a label of a user's.
IMPLIED_LABEL = "@service"

_RESOLUTIONS = {
    "NONE": Resolution.ORIGINAL_DST,
    "STATIC": Resolution.EDS,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
}


def service_hostname(name: str, namespace: str) -> Hostname:
    """Return the FQDN of a Service."""
    return Hostname(f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}")


def service_rows(obj: Object) -> Iterator[tuple[ServiceKey, Service]]:
    """Yield the rows of one resource; none for kinds that are no service."""
    if obj.key.kind == "Service":
        service = _from_service(obj)
        yield ServiceKey(service.hostname, Registry.SERVICE, obj.key.namespace, obj.key.name), service
    elif obj.key.kind == "ServiceEntry" and obj.spec.resolution != "DYNAMIC_DNS":
        for host in sorted({host.lower() for host in obj.spec.hosts}):
            service = _from_entry(obj, Hostname(host))
            yield ServiceKey(service.hostname, Registry.SERVICE_ENTRY, obj.key.namespace, obj.key.name), service


def implied_rows(workload: Workload) -> Iterator[tuple[ServiceKey, Service]]:
    """Yield the row of the service that a running workload names, for when no resource describes it."""
    if not workload.service:
        return
    hostname = service_hostname(workload.service, workload.namespace)
    yield (
        ServiceKey(hostname, Registry.IMPLIED, workload.namespace, workload.name),
        Service(
            hostname=hostname,
            name=workload.service,
            namespace=workload.namespace,
            registry=Registry.IMPLIED,
            ports=tuple(
                ServicePort(name, number, parse_protocol(name, "", number, "TCP"), number)
                for name, number, _ in workload.ports
            ),
            wants_vip=True,
            selector=((IMPLIED_LABEL, workload.service),),
        ),
    )


def merge_implied(services: Iterable[Service]) -> Service:
    """Combine the rows that several workloads of one service imply: the union of their ports, first name wins."""
    rows = list(services)
    ports: dict[int, ServicePort] = {}
    for row in rows:
        for port in row.ports:
            ports.setdefault(port.number, port)
    first = rows[0]
    return Service(
        hostname=first.hostname,
        name=first.name,
        namespace=first.namespace,
        registry=Registry.IMPLIED,
        ports=tuple(ports[number] for number in sorted(ports)),
        wants_vip=True,
        selector=first.selector,
    )


def _from_service(obj: Object) -> Service:
    spec = obj.spec
    external = spec.type == "ExternalName"
    headless = spec.cluster_ip == "None"
    written = "" if headless or external else spec.cluster_ip or ""
    return Service(
        hostname=service_hostname(obj.key.name, obj.key.namespace),
        name=obj.key.name,
        namespace=obj.key.namespace,
        registry=Registry.SERVICE,
        ports=tuple(
            ServicePort(
                port.name or "",
                port.port,
                parse_protocol(port.name or "", port.app_protocol or "", port.port, port.protocol or "TCP"),
                port.target_port,
            )
            for port in spec.ports
        ),
        address=written,
        addresses=(written,) if written else (),
        wants_vip=not headless and not external and not written,
        resolution=Resolution.ORIGINAL_DST if headless else Resolution.EDS,
        export_to=_export_to(obj.annotations.get(EXPORT_ANNOTATION, "").split(","), obj.key.namespace),
        selector=tuple(sorted((spec.selector or {}).items())),
        alias_of=Hostname(spec.external_name.rstrip(".").lower()) if external and spec.external_name else None,
        publish_not_ready=bool(spec.publish_not_ready_addresses),
        created=obj.created,
        source=obj.key,
    )


def _from_entry(obj: Object, hostname: Hostname) -> Service:
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
    resolution = _RESOLUTIONS.get(spec.resolution or "NONE", Resolution.ORIGINAL_DST)
    addresses = tuple(address.removesuffix("/32") for address in spec.addresses)
    selector = tuple(sorted(spec.workload_selector.labels.items())) if spec.workload_selector else ()
    dns = resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
    endpoints = tuple(
        endpoint
        for entry in spec.endpoints
        if (endpoint := static_endpoint(entry, obj.key.namespace, obj.key.name))
        and (dns or _is_ip(endpoint.address) or endpoint.address.startswith("/"))
    )
    if dns and not endpoints and not selector:
        endpoints = (StaticEndpoint(address=str(hostname), namespace=obj.key.namespace, name=obj.key.name),)
    auto = obj.labels.get(AUTO_ALLOCATE_LABEL) != "false" and "*" not in hostname
    return Service(
        hostname=hostname,
        name=str(hostname),
        namespace=obj.key.namespace,
        registry=Registry.SERVICE_ENTRY,
        ports=ports,
        address=addresses[0] if addresses else "",
        addresses=addresses,
        # Without an address of its own, and with endpoints of its own, a host can only be told apart by one of ours.
        wants_vip=auto and not addresses and resolution is not Resolution.ORIGINAL_DST,
        resolution=resolution,
        mesh_external=(spec.location or "MESH_EXTERNAL") == "MESH_EXTERNAL",
        export_to=_export_to(spec.export_to, obj.key.namespace),
        selector=selector,
        endpoints=endpoints,
        subject_alt_names=tuple(sorted(spec.subject_alt_names)),
        created=obj.created,
        source=obj.key,
    )


def static_endpoint(entry: object, namespace: str, name: str) -> StaticEndpoint | None:
    """Return the endpoint that a WorkloadEntry (or one inside a ServiceEntry) writes down, None without an address."""
    address = getattr(entry, "address", None) or ""
    if not address:
        return None
    return StaticEndpoint(
        address=address.removeprefix("unix://"),
        ports=tuple(sorted((getattr(entry, "ports", None) or {}).items())),
        labels=tuple(sorted((getattr(entry, "labels", None) or {}).items())),
        weight=getattr(entry, "weight", None) or 1,
        locality=getattr(entry, "locality", None) or "",
        service_account=getattr(entry, "service_account", None) or "",
        namespace=namespace,
        name=name,
    )


def _export_to(entries: Iterable[str], namespace: str) -> tuple[str, ...]:
    scopes = {namespace if entry == "." else entry for raw in entries if (entry := raw.strip())}
    # "~" is nobody, and stands alone; nothing written is everybody.
    return tuple(sorted(scopes - {"~"})) if scopes else (EVERYWHERE,)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
