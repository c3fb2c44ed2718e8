"""What MeshConfig and MeshNetworks must satisfy beyond their shape.

In: a decoded `Object`, as written, before defaults. Out: its faults, in the order of the document. Rule ids (MC-..,
MN-..) are those of docs/api. What only a missing field can break (MC-02, MC-04) cannot: defaults fill it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_duration, check_port, check_subnet
from lateen.api.check_headers import operators_fault
from lateen.api.check_http_route import check_retry
from lateen.api.check_locality import check_locality_lb, check_zone_aware_lb
from lateen.api.check_mesh_proxy import check_proxy
from lateen.api.check_providers import check_providers
from lateen.api.check_traffic_policy import check_connection_pool, check_outlier_detection
from lateen.api.field_names import yaml_name
from lateen.api.mesh import CertificateData, MeshConfig, MeshNetworks, Network
from lateen.api.names import is_dns_label, is_fqdn, is_ip, is_wildcard_domain
from lateen.api.places import join_path
from lateen.api.scalars import format_duration
from lateen.api.suggest import listed, seen

__all__ = ["check_mesh_config", "check_mesh_networks"]

CONNECT_TIMEOUT_LIMIT = timedelta(hours=1)
CURVES = ("P-224", "P-256", "P-384", "P-521", "X25519", "X25519Kyber768Draft00", "X25519MLKEM768")
_INBOUND_RETRY_IGNORED = ("per_try_timeout", "retry_remote_localities", "retry_ignore_previous_hosts")


def check_mesh_config(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a MeshConfig."""
    mesh: MeshConfig = obj.spec
    yield from _check_proxy_ports(obj, mesh)
    yield from _check_timeouts(obj, mesh)
    yield from _check_traffic(obj, mesh)
    yield from _check_inbound_retry(obj, mesh)
    yield from _check_trust(obj, mesh)
    yield from _check_access_log(obj, mesh)
    yield from check_providers(obj, mesh.extension_providers or (), "spec.extensionProviders")
    if mesh.default_config is not None:
        yield from check_proxy(obj, mesh.default_config, "spec.defaultConfig")


def _check_proxy_ports(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    for name, port, lowest in (
        ("proxyListenPort", mesh.proxy_listen_port, 1),
        ("proxyInboundListenPort", mesh.proxy_inbound_listen_port, 1),
        ("proxyHttpPort", mesh.proxy_http_port, 0),  # 0 switches that listener off
    ):
        if port is not None and not lowest <= port <= 65535:
            yield obj.problem(f"spec.{name}", f"must be a port from {lowest} to 65535, got {port}")


def _check_access_log(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    """What Envoy would refuse of a format, with every listener of the mesh."""
    path, written = "spec.accessLogFormat", mesh.access_log_format or ""
    if not written:
        return
    if mesh.access_log_encoding == "JSON":
        try:
            fields = json.loads(written)
        except ValueError as error:
            yield obj.problem(path, f"must be a JSON object with accessLogEncoding JSON: {error}")
            return
        if not isinstance(fields, dict):
            yield obj.problem(path, f"must be a JSON object with accessLogEncoding JSON, got {seen(fields)}")
            return
        texts = list(_texts(fields))
    else:
        texts = [written]
    for text in texts:
        if (fault := operators_fault(text)) is not None:
            yield obj.problem(path, fault)
            return


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _check_timeouts(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    if mesh.connect_timeout is not None and mesh.connect_timeout > CONNECT_TIMEOUT_LIMIT:
        yield obj.problem("spec.connectTimeout", f"must be at most 1h, got {format_duration(mesh.connect_timeout)}")
    if mesh.protocol_detection_timeout:
        yield from check_duration(obj, mesh.protocol_detection_timeout, "spec.protocolDetectionTimeout")


def _check_traffic(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    policy = mesh.default_traffic_policy
    if policy is not None and policy.connection_pool is not None:
        yield from check_connection_pool(obj, policy.connection_pool, "spec.defaultTrafficPolicy.connectionPool")
    if policy is not None and policy.outlier_detection is not None:
        yield from check_outlier_detection(obj, policy.outlier_detection, "spec.defaultTrafficPolicy.outlierDetection")
    if mesh.locality_lb_setting is not None:
        yield from check_locality_lb(obj, mesh.locality_lb_setting, "spec.localityLbSetting")
    if mesh.zone_aware_lb_setting is not None:
        yield from check_zone_aware_lb(obj, mesh.zone_aware_lb_setting, "spec.zoneAwareLbSetting")
    for i, settings in enumerate(mesh.service_settings or ()):
        for j, host in enumerate(settings.hosts):
            if not is_wildcard_domain(host):
                yield obj.problem(
                    f"spec.serviceSettings[{i}].hosts[{j}]",
                    f"must be a host name, or one with a leading *, got {seen(host)}",
                )


def _check_inbound_retry(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    retry = mesh.default_inbound_http_retry_policy
    path = "spec.defaultInboundHttpRetryPolicy"
    if retry is None:
        return
    yield from check_retry(obj, retry, path)
    if retry.attempts == 0 and retry.backoff is not None:
        yield obj.problem(f"{path}.backoff", "means nothing without attempts; set attempts, or drop it")
    for name in _INBOUND_RETRY_IGNORED:
        if getattr(retry, name) is not None:
            yield obj.problem(f"{path}.{yaml_name(retry, name)}", "has no effect on inbound routes", "warning")


def _check_trust(obj: Object, mesh: MeshConfig) -> Iterator[Problem]:
    if mesh.trust_domain is not None:
        yield from _check_trust_domain(obj, mesh.trust_domain, "spec.trustDomain")
    for i, alias in enumerate(mesh.trust_domain_aliases or ()):
        yield from _check_trust_domain(obj, alias, f"spec.trustDomainAliases[{i}]")
    for i, root in enumerate(mesh.ca_certificates or ()):
        if root.pem is None and root.spiffe_bundle_url is None:
            yield obj.problem(f"spec.caCertificates[{i}]", "needs pem or spiffeBundleUrl")
        yield from _check_bundle(obj, root, f"spec.caCertificates[{i}]")
    if mesh.mesh_mtls is not None and mesh.mesh_mtls.ecdh_curves:
        yield obj.problem("spec.meshMTLS.ecdhCurves", "cannot be chosen for mutual TLS inside the mesh")
    curves = (mesh.tls_defaults.ecdh_curves if mesh.tls_defaults is not None else None) or ()
    for i, curve in enumerate(curves):
        place = f"spec.tlsDefaults.ecdhCurves[{i}]"
        if curve not in CURVES:
            yield obj.problem(place, f"unknown curve {seen(curve)}; known are {listed(CURVES)}", "warning")
        elif curve in curves[:i]:
            yield obj.problem(place, f"is given twice, got {seen(curve)}", "warning")


def _check_bundle(obj: Object, root: CertificateData, path: str) -> Iterator[Problem]:
    for i, domain in enumerate(root.trust_domains):
        yield from _check_trust_domain(obj, domain, f"{path}.trustDomains[{i}]")
    if root.spiffe_bundle_url is None:
        if root.endpoint is not None:
            yield obj.problem(f"{path}.endpoint", "means nothing without spiffeBundleUrl")
        return
    if not root.spiffe_bundle_url.startswith("https://"):
        text = f"is not fetched: https wanted, got {seen(root.spiffe_bundle_url)}"
        yield obj.problem(f"{path}.spiffeBundleUrl", text, "warning")
    if not root.trust_domains:
        text = "is not fetched: trustDomains must say whose identities it is believed for"
        yield obj.problem(f"{path}.spiffeBundleUrl", text, "warning")
    spiffe_id = root.endpoint.spiffe_id if root.endpoint is not None else None
    if spiffe_id is not None:
        domain = spiffe_id.removeprefix("spiffe://").partition("/")[0]
        if not spiffe_id.startswith("spiffe://") or domain not in root.trust_domains:
            yield obj.problem(
                f"{path}.endpoint.spiffeId", f"must be a SPIFFE ID of one of trustDomains, got {seen(spiffe_id)}"
            )
        if root.endpoint is not None and not root.endpoint.pem:
            yield obj.problem(f"{path}.endpoint.pem", "is required: what the endpoint is first verified by")


def _check_trust_domain(obj: Object, domain: str, path: str) -> Iterator[Problem]:
    if not all(is_dns_label(label) for label in domain.removesuffix(".").split(".")):
        yield obj.problem(path, f"must be DNS labels joined by dots, got {seen(domain)}")


# ---------------------------------------------------------------- MeshNetworks


def check_mesh_networks(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a MeshNetworks."""
    networks: MeshNetworks = obj.spec
    for name, network in networks.networks.items():
        yield from _check_network(obj, network, join_path("spec.networks", name))


def _check_network(obj: Object, network: Network, path: str) -> Iterator[Problem]:
    for i, endpoints in enumerate(network.endpoints):
        place = f"{path}.endpoints[{i}]"
        if endpoints.from_cidr is None and endpoints.from_registry is None:
            yield obj.problem(place, "needs fromCidr or fromRegistry")
        if endpoints.from_cidr is not None:
            yield from check_subnet(obj, endpoints.from_cidr, f"{place}.fromCidr")
        if endpoints.from_registry is not None and not is_dns_label(endpoints.from_registry):
            yield obj.problem(f"{place}.fromRegistry", f"must be a DNS label, got {seen(endpoints.from_registry)}")
    for i, gateway in enumerate(network.gateways):
        place = f"{path}.gateways[{i}]"
        if gateway.registry_service_name is None and gateway.address is None:
            yield obj.problem(place, "needs registryServiceName or address")
        if gateway.registry_service_name is not None and not is_fqdn(gateway.registry_service_name):
            yield obj.problem(
                f"{place}.registryServiceName", f"must be a host name, got {seen(gateway.registry_service_name)}"
            )
        if gateway.address is not None and not is_ip(gateway.address) and not is_fqdn(gateway.address):
            yield obj.problem(f"{place}.address", f"must be an IP address or a host name, got {seen(gateway.address)}")
        yield from check_port(obj, gateway.port, f"{place}.port")
