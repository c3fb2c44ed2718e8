"""What a ServiceEntry must satisfy beyond its shape. Rule ids (SE-..) are those of docs/api/ServiceEntry.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_export_to, check_label_map, check_port, check_selector
from lateen.api.check_redis import check_redis_proxy
from lateen.api.check_workloads import check_entry_ports, check_unix, is_unix
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_partial_wildcard, is_subnet, is_wildcard_domain
from lateen.api.protocol import Protocol, known_protocol, parse_protocol
from lateen.api.service_entry import ServiceEntry
from lateen.api.suggest import listed
from lateen.api.workload_entry import WorkloadEntry

__all__ = ["check_service_entry"]

AUTO_ALLOCATE: Final = "networking.istio.io/enable-autoallocate-ip"
USE_WAYPOINT: Final = "istio.io/use-waypoint"
DYNAMIC_PROTOCOLS: Final = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.TLS})
PROTOCOLS: Final = tuple(protocol.value for protocol in Protocol if protocol is not Protocol.AUTO)


def check_service_entry(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a ServiceEntry."""
    entry: ServiceEntry = obj.spec
    yield from _check_hosts(obj, entry)
    yield from _check_addresses(obj, entry)
    yield from _check_ports(obj, entry)
    if entry.workload_selector is not None and entry.endpoints:  # SE-01
        yield obj.problem("spec.endpoints", "must not stand beside workloadSelector")
    match entry.resolution:
        case "NONE":
            yield from _check_none(obj, entry)
        case "STATIC":
            yield from _check_static(obj, entry)
        case "DNS" | "DNS_ROUND_ROBIN":
            yield from _check_dns(obj, entry)
        case "DYNAMIC_DNS":
            yield from _check_dynamic(obj, entry)
    yield from _check_several_hosts(obj, entry)
    yield from check_export_to(obj, entry.export_to, nobody=True)  # SE-23
    yield from check_selector(obj, entry.workload_selector, "spec.workloadSelector")  # SE-24
    yield from check_redis_proxy(
        obj, [parse_protocol(port.protocol or "", "", port.number or 0, "TCP") for port in entry.ports]
    )


def _check_hosts(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    if not entry.hosts:  # SE-02
        yield obj.problem("spec.hosts", "must have at least one entry")
    for i, host in enumerate(entry.hosts):
        path = f"spec.hosts[{i}]"
        if host == "*":  # SE-03
            yield obj.problem(path, '"*" alone would stand for every host')
        elif not is_wildcard_domain(host):  # SE-04
            yield obj.problem(path, f'must be a host name or a wildcard as in *.foo.com, got "{host}"')
        elif is_partial_wildcard(host) and entry.resolution != "DYNAMIC_DNS":  # SE-05
            yield obj.problem(
                path, f'part of a label as wildcard matches little, write *.foo.com, got "{host}"', "warning"
            )


def _check_addresses(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    for i, address in enumerate(entry.addresses):
        path = f"spec.addresses[{i}]"
        if not is_subnet(address):  # SE-06
            yield obj.problem(path, f'must be an IP or a subnet as in 10.0.0.0/8, got "{address}"')
        elif "/" in address and entry.resolution not in ("NONE", "STATIC"):  # SE-07
            yield obj.problem(path, f'must be an IP with resolution {entry.resolution}, got "{address}"')


def _check_ports(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    names: set[str] = set()
    numbers: set[int] = set()
    allocated = entry.resolution != "NONE" and obj.labels.get(AUTO_ALLOCATE) != "false"
    for i, port in enumerate(entry.ports):
        path = f"spec.ports[{i}]"
        if port.name in names:  # SE-08
            yield obj.problem(f"{path}.name", f'is given twice, got "{port.name}"')
        if port.number in numbers:  # SE-08
            yield obj.problem(f"{path}.number", f"is given twice, got {port.number}")
        names.add(port.name)
        numbers.add(port.number)
        yield from check_port(obj, port.number, f"{path}.number")  # SE-09
        if port.target_port:
            yield from check_port(obj, port.target_port, f"{path}.targetPort")
        if not is_dns_label(port.name):  # SE-10
            yield obj.problem(f"{path}.name", f'must be a DNS label, got "{port.name}"')
        if port.protocol and known_protocol(port.protocol) is None:  # SE-10
            yield obj.problem(f"{path}.protocol", f'must be one of {listed(PROTOCOLS)}, got "{port.protocol}"')
        if not entry.addresses and not allocated and port.protocol.upper() in ("", "TCP"):  # SE-11
            message = "without addresses takes all TCP traffic to this port, whatever its destination"
            yield obj.problem(f"{path}.protocol", message, "warning")


# ---------------------------------------------------------------- resolution


def _check_none(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    if entry.endpoints:  # SE-12
        yield obj.problem("spec.endpoints", "must not be set with resolution NONE, which goes where the client dialled")
    if entry.workload_selector is not None:  # SE-13
        yield obj.problem("spec.workloadSelector", "has no effect with resolution NONE", "warning")


def _check_static(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    for i, endpoint in enumerate(entry.endpoints):  # SE-14
        path = f"spec.endpoints[{i}]"
        if not endpoint.address and not endpoint.network:  # WE-01
            yield obj.problem(f"{path}.address", "is required, or network")
        elif is_unix(endpoint.address):
            yield from check_unix(obj, endpoint, path)
            if len(entry.ports) != 1:  # WE-08
                message = f"a Unix socket serves one port, the service has {len(entry.ports)}"
                yield obj.problem(f"{path}.address", message)
        elif endpoint.address and not is_ip(endpoint.address):  # WE-05
            message = f'must be an IP or a Unix address with resolution STATIC, got "{endpoint.address}"'
            yield obj.problem(f"{path}.address", message)
        yield from _check_endpoint(obj, entry, endpoint, path)


def _check_dns(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    if not entry.endpoints:
        for i, host in enumerate(entry.hosts):  # SE-15
            if not is_fqdn(host) and is_wildcard_domain(host):
                wanted = f"cannot be resolved with {entry.resolution}: set endpoints, or name a host without wildcard"
                yield obj.problem(f"spec.hosts[{i}]", f'{wanted}, got "{host}"')
    if entry.resolution == "DNS_ROUND_ROBIN" and len(entry.endpoints) > 1:  # SE-16
        yield obj.problem("spec.endpoints", f"must be at most one with DNS_ROUND_ROBIN, got {len(entry.endpoints)}")
    for i, endpoint in enumerate(entry.endpoints):  # SE-17
        path = f"spec.endpoints[{i}]"
        if not (is_ip(endpoint.address) or is_fqdn(endpoint.address)):
            wanted = f"must be an IP or a host name with resolution {entry.resolution}"
            yield obj.problem(f"{path}.address", f'{wanted}, got "{endpoint.address}"')
        yield from _check_endpoint(obj, entry, endpoint, path)
    protocols = [known_protocol(port.protocol) for port in entry.ports]
    if entry.addresses and len(entry.hosts) > 1 and any(known is not None and known.is_tcp for known in protocols):
        message = "stand for all hosts at once: a TCP connection to them does not say which is meant"  # SE-19
        yield obj.problem("spec.addresses", message, "warning")


def _check_dynamic(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    for i, host in enumerate(entry.hosts):  # SE-20
        if not host.startswith("*"):
            yield obj.problem(f"spec.hosts[{i}]", f'must be a wildcard with resolution DYNAMIC_DNS, got "{host}"')
    for name, given in (("addresses", entry.addresses), ("endpoints", entry.endpoints)):
        if given:
            yield obj.problem(f"spec.{name}", "must not be set with resolution DYNAMIC_DNS")
    for i, port in enumerate(entry.ports):
        if known_protocol(port.protocol) not in DYNAMIC_PROTOCOLS:
            wanted = "must be HTTP, HTTP2, GRPC or TLS with resolution DYNAMIC_DNS: others do not name their host"
            yield obj.problem(f"spec.ports[{i}].protocol", f'{wanted}, got "{port.protocol}"')
    waypoint = obj.labels.get(USE_WAYPOINT, "none")
    if entry.location == "MESH_INTERNAL" and waypoint != "none":  # SE-21
        yield obj.problem("spec.location", "must be MESH_EXTERNAL with DYNAMIC_DNS behind a waypoint")


def _check_endpoint(obj: Object, entry: ServiceEntry, endpoint: WorkloadEntry, path: str) -> Iterator[Problem]:
    yield from check_label_map(obj, endpoint.labels, f"{path}.labels")
    yield from check_entry_ports(obj, endpoint, path)  # SE-18
    known = {port.name for port in entry.ports}
    for name in endpoint.ports:
        if name not in known:  # SE-18, WE-08
            yield obj.problem(
                f"{path}.ports.{name}", f"is not a port of the service, which has {listed(sorted(known))}"
            )


def _check_several_hosts(obj: Object, entry: ServiceEntry) -> Iterator[Problem]:
    """SE-22: with several hosts, requests must say which one they mean."""
    if entry.resolution == "NONE" or len(entry.hosts) < 2:
        return
    for i, port in enumerate(entry.ports):
        known = known_protocol(port.protocol)
        if known is None or not (known.is_http or known.is_tls):
            wanted = f"must be HTTP or TLS where one entry has {len(entry.hosts)} hosts"
            yield obj.problem(f"spec.ports[{i}].protocol", f'{wanted}, got "{port.protocol}"')
