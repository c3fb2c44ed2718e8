"""Turn resources and registrations into service rows.

Rules: /docs/api/Service.md (Istio's conversion of Services); of ServiceEntries: `lateen.pilot.registry.entries`.
Pure: one resource in, its rows out, sorted by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lateen.api.base import Object
from lateen.api.protocol import parse_protocol
from lateen.pilot.model.values import Hostname, Resolution
from lateen.pilot.registry.entries import entry_rows, traffic_distribution
from lateen.pilot.registry.values import (
    EVERYWHERE,
    Registry,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    asks_for_redis_proxy,
    export_scopes,
)

__all__ = [
    "CLUSTER_DOMAIN",
    "IMPLIED_LABEL",
    "SERVICE_KINDS",
    "implied_rows",
    "merge_implied",
    "service_hostname",
    "service_rows",
]

HEADLESS = "None"  # a clusterIP
CLUSTER_DOMAIN = "cluster.local"
SERVICE_KINDS = frozenset({"Service", "ServiceEntry"})
EXPORT_ANNOTATION = "networking.istio.io/exportTo"
# The selector of a service that only running workloads name. The slash-less name cannot be a label of a user's.
IMPLIED_LABEL = "@service"


def service_hostname(name: str, namespace: str) -> Hostname:
    """Return the FQDN of a Service."""
    return Hostname(f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}")


def service_rows(obj: Object, default: tuple[str, ...] = (EVERYWHERE,)) -> Iterator[tuple[ServiceKey, Service]]:
    """Yield the rows of one resource; none for kinds that are no service. `default` is the mesh's exportTo."""
    if obj.key.kind == "Service":
        service = _from_service(obj, default)
        yield ServiceKey(service.hostname, Registry.SERVICE, obj.key.namespace, obj.key.name), service
    elif obj.key.kind == "ServiceEntry":
        yield from entry_rows(obj, default)


def implied_rows(workload: Workload, default: tuple[str, ...] = (EVERYWHERE,)) -> Iterator[tuple[ServiceKey, Service]]:
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
            export_to=export_scopes(default, workload.namespace),
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
        export_to=first.export_to,
        selector=first.selector,
    )


def _from_service(obj: Object, default: tuple[str, ...]) -> Service:
    spec = obj.spec
    external = spec.type == "ExternalName"
    given = (spec.cluster_ip, *spec.cluster_ips) if not external else ()
    headless = HEADLESS in given
    written = "" if headless else next((address for address in given if "." in address), "")
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
        addresses=(written,) if written else (),
        external_ips=tuple(address for address in spec.external_ips if "." in address),
        wants_vip=not headless and not external and not written,
        resolution=Resolution.ORIGINAL_DST if headless else Resolution.EDS,
        export_to=export_scopes(obj.annotations.get(EXPORT_ANNOTATION, "").split(","), obj.key.namespace, default),
        selector=tuple(sorted((spec.selector or {}).items())),
        alias_of=Hostname(spec.external_name.rstrip(".").lower()) if external and spec.external_name else None,
        publish_not_ready=bool(spec.publish_not_ready_addresses),
        session_affinity=spec.session_affinity == "ClientIP",
        distribution=traffic_distribution(obj),
        node_local=spec.internal_traffic_policy == "Local",
        redis_proxy=asks_for_redis_proxy(obj.annotations),
        created=obj.created,
        source=obj.key,
    )
