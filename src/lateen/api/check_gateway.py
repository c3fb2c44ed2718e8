"""What a Gateway must satisfy beyond its shape. Rule ids (GW-..) are those of docs/api/Gateway.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_label_map, check_port
from lateen.api.check_server_tls import check_server_tls
from lateen.api.gateway import Gateway, Port, Server
from lateen.api.names import is_dns_label, is_ip, is_partial_wildcard, is_unix_address, is_wildcard_domain
from lateen.api.protocol import Protocol, known_protocol
from lateen.api.suggest import listed

__all__ = ["check_gateway"]

UNIX: Final = "unix://"
PROTOCOLS: Final = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "REDIS", "MYSQL", "TCP", "TLS")


def check_gateway(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Gateway."""
    gateway: Gateway = obj.spec
    if not is_dns_label(obj.key.name):  # GW-01
        yield obj.problem("metadata.name", f'must be a DNS label, got "{obj.key.name}"')
    yield from check_label_map(obj, gateway.selector, "spec.selector")
    if not gateway.servers:  # GW-02
        yield obj.problem("spec.servers", "must have at least one entry")
    names: set[str] = set()
    for i, server in enumerate(gateway.servers):
        path = f"spec.servers[{i}]"
        if server.port.name in names:  # GW-03
            yield obj.problem(f"{path}.port.name", f'is given twice, got "{server.port.name}"')
        names.add(server.port.name)
        yield from _check_server(obj, server, path)


def _check_server(obj: Object, server: Server, path: str) -> Iterator[Problem]:
    if not server.hosts:  # GW-05
        yield obj.problem(f"{path}.hosts", "must have at least one entry")
    for i, host in enumerate(server.hosts):
        yield from _check_host(obj, host, f"{path}.hosts[{i}]")
    yield from _check_port(obj, server.port, server.bind, f"{path}.port")
    if server.bind.startswith(UNIX):
        if not is_unix_address(server.bind.removeprefix(UNIX)):  # GW-13
            wanted = "must be unix:///absolute/path or unix://@name"
            yield obj.problem(f"{path}.bind", f'{wanted}, got "{server.bind}"')
    elif server.bind and not is_ip(server.bind):  # GW-14
        yield obj.problem(f"{path}.bind", f'must be an IP or a Unix address, got "{server.bind}"')
    yield from _check_tls(obj, server, path)


def _check_host(obj: Object, written: str, path: str) -> Iterator[Problem]:
    namespace, slash, host = written.rpartition("/")
    if slash and namespace not in ("*", ".") and not is_dns_label(namespace):  # GW-08
        yield obj.problem(path, f'must be namespace/host; namespace is a name, "*" or ".", got "{written}"')
    if host == "*" or is_ip(host):
        return
    if "." not in host:  # GW-06
        yield obj.problem(path, f'must have a dot: short names are not expanded here, got "{written}"')
    elif not is_wildcard_domain(host) or is_partial_wildcard(host):  # GW-07
        yield obj.problem(path, f'must be a host name or a wildcard as in *.foo.com, got "{written}"')


def _check_port(obj: Object, port: Port, bind: str, path: str) -> Iterator[Problem]:
    if not port.name:  # GW-09
        yield obj.problem(f"{path}.name", "must not be empty")
    if port.protocol.upper() not in PROTOCOLS:  # GW-10
        yield obj.problem(f"{path}.protocol", f'must be one of {listed(PROTOCOLS)}, got "{port.protocol}"')
    if bind.startswith(UNIX):
        if port.number:  # GW-13
            yield obj.problem(f"{path}.number", f"must be 0 with a Unix bind, got {port.number}")
    else:  # GW-11
        yield from check_port(obj, port.number, f"{path}.number")
    if port.target_port:  # GW-12
        yield obj.problem(f"{path}.targetPort", "must not be set: the gateway's Service says it")


def _check_tls(obj: Object, server: Server, path: str) -> Iterator[Problem]:
    protocol = known_protocol(server.port.protocol)
    if protocol is None:
        return
    tls = server.tls
    if tls is None:
        if protocol.is_tls:  # GW-15
            yield obj.problem(f"{path}.tls", f"is required for {protocol.value}")
        return
    if protocol.is_http and protocol is not Protocol.HTTP_PROXY:
        if tls.mode not in ("PASSTHROUGH", "AUTO_PASSTHROUGH"):  # GW-16
            wanted = f"{protocol.value} is not encrypted: use HTTPS, or httpsRedirect alone"
            yield obj.problem(f"{path}.tls.mode", f"{wanted}, got {tls.mode}")
        for name, value in (
            ("serverCertificate", tls.server_certificate),
            ("privateKey", tls.private_key),
            ("caCertificates", tls.ca_certificates),
        ):
            if value:  # GW-16
                yield obj.problem(f"{path}.tls.{name}", f"means nothing for {protocol.value}, which is not encrypted")
    elif not protocol.is_tls:  # GW-17
        yield obj.problem(f"{path}.tls", f"must not be set for {protocol.value}")
    if tls.https_redirect and not protocol.is_http:  # GW-04
        yield obj.problem(f"{path}.tls.httpsRedirect", f"has no effect for {protocol.value}", "warning")
    if protocol.is_tls:
        yield from check_server_tls(obj, tls, f"{path}.tls")
