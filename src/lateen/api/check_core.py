"""What a Service of Kubernetes must satisfy beyond its shape, as Kubernetes' own API would have refused it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_label_map, check_port
from lateen.api.check_redis import check_redis_proxy
from lateen.api.core import ServicePort, ServiceSpec
from lateen.api.names import is_dns_label, is_fqdn, is_ip
from lateen.api.protocol import parse_protocol

__all__ = ["check_service"]

EXPORT_TO: Final = "networking.istio.io/exportTo"
HEADLESS: Final = "None"


def check_service(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Service."""
    spec: ServiceSpec = obj.spec
    yield from check_label_map(obj, spec.selector, "spec.selector")
    if spec.type == "ExternalName":
        if not is_fqdn(spec.external_name) or spec.external_name.endswith("."):
            yield obj.problem("spec.externalName", f'must be a host name for ExternalName, got "{spec.external_name}"')
        if spec.cluster_ip:
            yield obj.problem("spec.clusterIP", f'must not be set for ExternalName, got "{spec.cluster_ip}"')
    elif not spec.ports and spec.cluster_ip != HEADLESS:
        yield obj.problem("spec.ports", "must have at least one entry")
    if spec.cluster_ip not in ("", HEADLESS) and not is_ip(spec.cluster_ip):
        yield obj.problem("spec.clusterIP", f'must be an IP, "None" or empty, got "{spec.cluster_ip}"')
    if spec.cluster_ip == HEADLESS and spec.type in ("NodePort", "LoadBalancer"):
        yield obj.problem("spec.clusterIP", f'must not be "None" for {spec.type}')
    yield from _check_ports(obj, spec)
    yield from _check_export(obj)
    spoken = [parse_protocol(port.name, port.app_protocol or "", port.port, port.protocol) for port in spec.ports]
    yield from check_redis_proxy(obj, spoken)


def _check_ports(obj: Object, spec: ServiceSpec) -> Iterator[Problem]:
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    for i, port in enumerate(spec.ports):
        path = f"spec.ports[{i}]"
        yield from check_port(obj, port.port, f"{path}.port")
        if len(spec.ports) > 1 and not port.name:
            yield obj.problem(f"{path}.name", "is required where there are several ports")
        if port.name and (not is_dns_label(port.name) or port.name != port.name.lower()):
            yield obj.problem(f"{path}.name", f'must be a lower-case DNS label, got "{port.name}"')
        if port.name and port.name in names:
            yield obj.problem(f"{path}.name", f'is given twice, got "{port.name}"')
        if (port.protocol, port.port) in numbers:
            yield obj.problem(f"{path}.port", f"is given twice for {port.protocol}, got {port.port}")
        names.add(port.name)
        numbers.add((port.protocol, port.port))
        yield from _check_target(obj, port, f"{path}.targetPort")
        if port.node_port:
            yield from check_port(obj, port.node_port, f"{path}.nodePort")


def _check_target(obj: Object, port: ServicePort, path: str) -> Iterator[Problem]:
    match port.target_port:
        case None:
            return
        case int() as number:
            yield from check_port(obj, number, path)
        case name:
            if len(name) > 15 or not is_dns_label(name) or name.isdecimal():
                wanted = "must be a port's number, or its name of at most 15 letters, digits and hyphens"
                yield obj.problem(path, f'{wanted}, got "{name}"')


def _check_export(obj: Object) -> Iterator[Problem]:
    """The annotation that stands for `exportTo`: `*`, `.`, `~` or names of namespaces."""
    written = obj.annotations.get(EXPORT_TO)
    for entry in written.split(",") if written else ():
        if entry.strip() not in ("*", ".", "~") and not is_dns_label(entry.strip()):
            path = f"metadata.annotations[{EXPORT_TO}]"
            yield obj.problem(path, f'must be "*", ".", "~" or namespaces, with commas between, got "{written}"')
            return
