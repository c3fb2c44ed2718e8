"""What WorkloadEntry, WorkloadGroup and ProxyConfig must satisfy beyond their shapes.

Rule ids (WE-.., WG-.., PC-..) are those of docs/api/WorkloadEntry.md, WorkloadGroup.md and ProxyConfig.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_label_map, check_port, check_selector
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_unix_address
from lateen.api.places import join_path
from lateen.api.proxy_config import ProxyConfig
from lateen.api.workload_entry import WorkloadEntry
from lateen.api.workload_group import ReadinessProbe, WorkloadGroup

__all__ = [
    "check_entry_ports",
    "check_probe",
    "check_proxy_config",
    "check_unix",
    "check_workload_entry",
    "check_workload_group",
    "is_unix",
]

UNIX: Final = "unix://"
_PROBE_HEADER: Final = re.compile(r"[-A-Za-z0-9]+\Z")


def is_unix(address: str) -> bool:
    return address.startswith(UNIX)


def check_workload_entry(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a WorkloadEntry."""
    entry: WorkloadEntry = obj.spec
    if not entry.address:
        if not entry.network:  # WE-01
            yield obj.problem("spec.address", "is required, or network")
        else:  # WE-02
            message = f'stands for everything behind the gateway of network "{entry.network}"'
            yield obj.problem("spec.address", message, "warning")
    elif is_unix(entry.address):
        yield from check_unix(obj, entry, "spec")
    elif not (is_ip(entry.address) or is_fqdn(entry.address)):  # WE-05
        yield obj.problem("spec.address", f'must be an IP, a host name or a Unix address, got "{entry.address}"')
    yield from check_entry_ports(obj, entry, "spec")
    yield from check_label_map(obj, entry.labels, "spec.labels")  # WE-07


def check_unix(obj: Object, entry: WorkloadEntry, path: str) -> Iterator[Problem]:
    """WE-03, WE-04, of an entry whose address is a Unix one."""
    if not is_unix_address(entry.address.removeprefix(UNIX)):
        yield obj.problem(f"{path}.address", f'must be unix:///absolute/path or unix://@name, got "{entry.address}"')
    if entry.ports:
        yield obj.problem(f"{path}.ports", "must not stand beside a Unix address")


def check_entry_ports(obj: Object, entry: WorkloadEntry, path: str) -> Iterator[Problem]:
    """WE-06."""
    for name, number in entry.ports.items():
        place = join_path(f"{path}.ports", name)
        if not is_dns_label(name):
            yield obj.problem(place, f'must have a DNS label for a name, got "{name}"')
        yield from check_port(obj, number, place)


def check_workload_group(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a WorkloadGroup."""
    group: WorkloadGroup = obj.spec
    if group.metadata is not None:  # WG-02
        yield from check_label_map(obj, group.metadata.labels, "spec.metadata.labels")
    if is_unix(group.template.address):  # WG-08
        yield from check_unix(obj, group.template, "spec.template")
    yield from check_entry_ports(obj, group.template, "spec.template")
    yield from check_label_map(obj, group.template.labels, "spec.template.labels")
    if group.probe is not None:
        yield from check_probe(obj, group.probe, "spec.probe")


def check_probe(obj: Object, probe: ReadinessProbe, path: str) -> Iterator[Problem]:
    """WG-04..07. `grpc` is taken, as the API says; Istio's own check of this time refuses what its schema allows."""
    http, tcp = probe.http_get, probe.tcp_socket
    if http is None and tcp is None and probe.exec is None and probe.grpc is None:  # WG-04
        yield obj.problem(path, "must have httpGet, tcpSocket, exec or grpc")
    if http is not None:
        yield from check_port(obj, http.port, f"{path}.httpGet.port")  # WG-05
        if http.scheme not in ("", "HTTP", "HTTPS"):
            yield obj.problem(f"{path}.httpGet.scheme", f'must be HTTP or HTTPS, got "{http.scheme}"')
        if not http.path.isprintable() or " " in http.path:  # it becomes part of a request's first line
            yield obj.problem(f"{path}.httpGet.path", f'must have no blanks or control characters, got "{http.path}"')
        for i, header in enumerate(http.http_headers):  # WG-06
            if not header.value.isprintable():
                place = f"{path}.httpGet.httpHeaders[{i}].value"
                yield obj.problem(place, "must be one line without control characters")
            if not _PROBE_HEADER.match(header.name):
                place = f"{path}.httpGet.httpHeaders[{i}].name"
                yield obj.problem(place, f'must be letters, digits and "-", got "{header.name}"')
    if tcp is not None:  # WG-05
        yield from check_port(obj, tcp.port, f"{path}.tcpSocket.port")
    if probe.exec is not None and not probe.exec.command:  # WG-07
        yield obj.problem(f"{path}.exec.command", "must have at least one entry")
    if probe.grpc is not None:
        yield from check_port(obj, probe.grpc.port, f"{path}.grpc.port")


def check_proxy_config(obj: Object) -> Iterator[Problem]:
    """PC-02; the shape settles the others."""
    config: ProxyConfig = obj.spec
    yield from check_selector(obj, config.selector, "spec.selector")
