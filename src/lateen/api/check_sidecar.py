"""What a Sidecar must satisfy beyond its shape. Rule ids (SC-..) are those of docs/api/Sidecar.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_port, check_selector
from lateen.api.check_server_tls import check_server_tls
from lateen.api.check_traffic_policy import check_connection_pool
from lateen.api.check_virtual_service import check_destination
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_partial_wildcard, is_unix_address, is_wildcard_domain
from lateen.api.protocol import known_protocol
from lateen.api.sidecar import IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy, Sidecar, SidecarPort

__all__ = ["check_sidecar"]

UNIX: Final = "unix://"
_ENDPOINT_HOSTS: Final = ("", "127.0.0.1", "0.0.0.0", "[::1]", "[::]", "::1", "::")  # noqa: S104  # compared, not bound


def check_sidecar(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Sidecar."""
    sidecar: Sidecar = obj.spec
    yield from check_selector(obj, sidecar.workload_selector, "spec.workloadSelector")  # SC-01
    parts = (sidecar.outbound_traffic_policy, sidecar.inbound_connection_pool)
    if not sidecar.egress and not sidecar.ingress and all(part is None for part in parts):  # SC-02
        yield obj.problem("spec", "must have egress, ingress, outboundTrafficPolicy or inboundConnectionPool")
    numbers: set[int] = set()
    for i, ingress in enumerate(sidecar.ingress):
        path = f"spec.ingress[{i}]"
        if ingress.port.number in numbers:  # SC-07
            yield obj.problem(f"{path}.port.number", f"is given twice, got {ingress.port.number}")
        numbers.add(ingress.port.number)
        yield from _check_ingress(obj, ingress, path)
    yield from _check_egress_together(obj, sidecar.egress)
    for i, egress in enumerate(sidecar.egress):
        yield from _check_egress(obj, egress, f"spec.egress[{i}]")
    if sidecar.inbound_connection_pool is not None:  # SC-12
        yield from check_connection_pool(obj, sidecar.inbound_connection_pool, "spec.inboundConnectionPool")
    if sidecar.outbound_traffic_policy is not None:
        yield from _check_policy(obj, sidecar.outbound_traffic_policy, "spec.outboundTrafficPolicy")


def _check_port_names(obj: Object, port: SidecarPort, path: str) -> Iterator[Problem]:
    if port.target_port:  # SC-04
        yield obj.problem(f"{path}.targetPort", "must not be set")
    if port.name and not is_dns_label(port.name):  # SC-05
        yield obj.problem(f"{path}.name", f'must be a DNS label, got "{port.name}"')
    if port.protocol and known_protocol(port.protocol) is None:  # SC-05
        yield obj.problem(f"{path}.protocol", f'must be a protocol as in HTTP or TCP, got "{port.protocol}"')


# ---------------------------------------------------------------- ingress


def _check_ingress(obj: Object, listener: IstioIngressListener, path: str) -> Iterator[Problem]:
    yield from _check_port_names(obj, listener.port, f"{path}.port")
    yield from check_port(obj, listener.port.number, f"{path}.port.number")  # SC-05
    if listener.bind and not is_ip(listener.bind):  # SC-06
        yield obj.problem(f"{path}.bind", f'must be an IP, got "{listener.bind}"')
    if listener.default_endpoint:
        yield from _check_default_endpoint(obj, listener.default_endpoint, f"{path}.defaultEndpoint")
    protocol = known_protocol(listener.port.protocol)
    tls = listener.tls
    if tls is not None:
        for name, given in (
            ("subjectAltNames", tls.subject_alt_names),
            ("httpsRedirect", tls.https_redirect),
            ("credentialName", tls.credential_name),
            ("credentialNames", tls.credential_names),
            ("tlsCertificates", tls.tls_certificates),
        ):
            if given:  # SC-09
                yield obj.problem(f"{path}.tls.{name}", "must not be set for a sidecar")
        if tls.mode in ("ISTIO_MUTUAL", "AUTO_PASSTHROUGH"):  # SC-10
            yield obj.problem(f"{path}.tls.mode", f"must be SIMPLE or MUTUAL for a sidecar, got {tls.mode}")
        if protocol is None or not protocol.is_tls:  # SC-11
            wanted = "wants a port whose protocol is HTTPS or TLS"
            yield obj.problem(f"{path}.tls", f'{wanted}, got "{listener.port.protocol}"')
        yield from check_server_tls(obj, tls, f"{path}.tls")
    pool = listener.connection_pool
    if pool is not None:
        yield from check_connection_pool(obj, pool, f"{path}.connectionPool")  # SC-12
        if pool.http is not None and protocol is not None and not protocol.is_http:  # SC-13
            yield obj.problem(f"{path}.connectionPool.http", f"has no effect for {protocol.value}", "warning")


def _check_default_endpoint(obj: Object, endpoint: str, path: str) -> Iterator[Problem]:
    """SC-08."""
    if endpoint.startswith(UNIX):
        if not is_unix_address(endpoint.removeprefix(UNIX)):
            yield obj.problem(path, f'must be unix:///absolute/path or unix://@name, got "{endpoint}"')
        return
    host, colon, port = endpoint.rpartition(":")
    number = int(port[:6]) if port.isascii() and port.isdecimal() else 0
    if not colon or host not in _ENDPOINT_HOSTS or not 1 <= number <= 65535:
        wanted = "must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or a Unix address"
        yield obj.problem(path, f'{wanted}, got "{endpoint}"')


# ---------------------------------------------------------------- egress


def _check_egress_together(obj: Object, listeners: Sequence[IstioEgressListener]) -> Iterator[Problem]:
    numbers: set[int] = set()
    binds: set[str] = set()
    catch_all = False
    for i, listener in enumerate(listeners):
        path = f"spec.egress[{i}]"
        if listener.port is None:  # SC-14
            if catch_all:
                yield obj.problem(path, "must have a port: another listener without one is there already")
            elif i != len(listeners) - 1:
                yield obj.problem(path, "must be the last one, because it has no port and takes all that is left")
            catch_all = True
        elif listener.port.number:
            if listener.port.number in numbers:  # SC-17
                yield obj.problem(f"{path}.port.number", f"is given twice, got {listener.port.number}")
            numbers.add(listener.port.number)
        elif listener.bind:
            if listener.bind in binds:  # SC-17
                yield obj.problem(f"{path}.bind", f'is given twice, got "{listener.bind}"')
            binds.add(listener.bind)


def _check_egress(obj: Object, listener: IstioEgressListener, path: str) -> Iterator[Problem]:
    unix = listener.bind.startswith(UNIX)
    if listener.port is None:
        if listener.bind:
            yield obj.problem(f"{path}.bind", "wants a port")
    else:
        yield from _check_port_names(obj, listener.port, f"{path}.port")
        if listener.port.number == 0:  # SC-15
            if not unix:
                yield obj.problem(f"{path}.port.number", "must be a port from 1 to 65535; 0 wants a Unix bind")
            elif listener.capture_mode == "IPTABLES":
                yield obj.problem(f"{path}.captureMode", "must not be IPTABLES with a Unix bind")
        else:  # SC-16
            yield from check_port(obj, listener.port.number, f"{path}.port.number")
    if unix:
        if not is_unix_address(listener.bind.removeprefix(UNIX)):  # SC-15
            yield obj.problem(f"{path}.bind", f'must be unix:///absolute/path or unix://@name, got "{listener.bind}"')
    elif listener.bind and not is_ip(listener.bind):  # SC-16
        yield obj.problem(f"{path}.bind", f'must be an IP or a Unix address, got "{listener.bind}"')
    if not listener.hosts:  # SC-18
        yield obj.problem(f"{path}.hosts", "must have at least one entry")
    for i, host in enumerate(listener.hosts):
        yield from _check_host(obj, host, f"{path}.hosts[{i}]")
    yield from _check_doubled(obj, listener.hosts, f"{path}.hosts")


def _check_host(obj: Object, written: str, path: str) -> Iterator[Problem]:
    """SC-19."""
    namespace, slash, host = written.partition("/")
    if not slash:
        yield obj.problem(path, f'must be namespace/host, as in ./* or prod/db.prod.svc.cluster.local, got "{written}"')
        return
    bare = namespace.removeprefix("~") if namespace != "~" else namespace
    if bare not in ("*", ".", "~") and not is_dns_label(bare):
        yield obj.problem(path, f'must begin with a namespace, "*", "." or "~", got "{written}"')
    if host == "*":
        return
    if "." not in host or not is_wildcard_domain(host) or is_partial_wildcard(host):
        wanted = 'must end in a full host name, a wildcard as in *.foo.com, or "*"'
        yield obj.problem(path, f'{wanted}, got "{written}"')


def _check_doubled(obj: Object, hosts: Sequence[str], path: str) -> Iterator[Problem]:
    """SC-20."""
    before: set[str] = set()
    whole = {host.partition("/")[0] for host in hosts if host.endswith("/*") and not host.startswith("~")}
    for i, host in enumerate(hosts):
        if host.startswith("~"):
            continue
        namespace, _, name = host.partition("/")
        if host in before:
            yield obj.problem(f"{path}[{i}]", f'is given twice, got "{host}"', "warning")
        elif name != "*" and namespace in whole:
            yield obj.problem(f"{path}[{i}]", f'is covered by "{namespace}/*", got "{host}"', "warning")
        elif "*" in whole and namespace != "*":
            yield obj.problem(f"{path}[{i}]", f'is covered by "*/*", got "{host}"', "warning")
        before.add(host)


def _check_policy(obj: Object, policy: OutboundTrafficPolicy, path: str) -> Iterator[Problem]:
    if policy.mode == "ALLOW_ANY_DYNAMIC_DNS":  # SC-21
        yield obj.problem(f"{path}.mode", "ALLOW_ANY_DYNAMIC_DNS is for MeshConfig only; use ALLOW_ANY")
    proxy = policy.egress_proxy
    if proxy is None:
        return
    if policy.mode != "ALLOW_ANY":  # SC-22
        yield obj.problem(f"{path}.egressProxy", f"wants mode ALLOW_ANY, got {policy.mode}")
    if not is_fqdn(proxy.host):
        yield obj.problem(f"{path}.egressProxy.host", f'must be a full host name, got "{proxy.host}"')
    if proxy.port is None:
        yield obj.problem(f"{path}.egressProxy.port", "is required")
    yield from check_destination(obj, proxy, f"{path}.egressProxy")
