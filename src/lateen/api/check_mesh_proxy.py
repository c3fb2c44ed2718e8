"""What the proxy's part of the mesh's settings must satisfy beyond its shape (`defaultConfig`).

Judged as written: a field that is not set gets its default and so breaks nothing. Rule ids (PX-) are those of docs/api.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_port
from lateen.api.check_traffic_policy import check_client_tls
from lateen.api.field_names import yaml_name
from lateen.api.mesh_proxy import ConnectionSettings, MeshProxyConfig, PrivateKeyProvider, ProxyTracing
from lateen.api.names import is_fqdn, is_ip, is_port
from lateen.api.scalars import format_duration
from lateen.api.suggest import seen

__all__ = ["check_proxy"]

WINDOW_BYTES_LEAST = 65535  # RFC 9113 section 6.9.2: a connection starts with it
HOST_IP = "$(HOST_IP)"


def check_proxy(obj: Object, proxy: MeshProxyConfig, path: str) -> Iterator[Problem]:
    """Yield every fault of a proxy's settings that stand at `path`."""
    for name, text in (
        ("configPath", proxy.config_path),
        ("binaryPath", proxy.binary_path),
        ("serviceCluster", proxy.service_cluster),
    ):
        if text == "":
            yield obj.problem(f"{path}.{name}", "must not be empty")
    yield from _check_drain(obj, proxy, path)
    yield from _check_addresses(obj, proxy, path)
    for name, port in (("proxyAdminPort", proxy.proxy_admin_port), ("statusPort", proxy.status_port)):
        if port is not None:
            yield from check_port(obj, port, f"{path}.{name}")
    if proxy.control_plane_auth_policy == "INHERIT":
        yield obj.problem(f"{path}.controlPlaneAuthPolicy", "must be NONE or MUTUAL_TLS, got 'INHERIT'")
    if proxy.concurrency is not None and proxy.concurrency < 0:
        yield obj.problem(f"{path}.concurrency", f"must not be negative, got {proxy.concurrency}")
    if proxy.tracing is not None:
        yield from _check_tracing(obj, proxy.tracing, f"{path}.tracing")
    if "ISTIO_META_DNS_AUTO_ALLOCATE" in (proxy.proxy_metadata or {}):
        yield obj.problem(
            f"{path}.proxyMetadata.ISTIO_META_DNS_AUTO_ALLOCATE",
            "is deprecated: virtual IPs are handed out without it",
            "warning",
        )
    if proxy.private_key_provider is not None:
        yield from _check_private_key(obj, proxy.private_key_provider, f"{path}.privateKeyProvider")
    if proxy.connection_settings is not None:
        yield from _check_connections(obj, proxy.connection_settings, f"{path}.connectionSettings")


def _check_drain(obj: Object, proxy: MeshProxyConfig, path: str) -> Iterator[Problem]:
    drain = proxy.drain_duration
    if drain is not None and (drain < timedelta(seconds=1) or drain % timedelta(seconds=1)):
        yield obj.problem(f"{path}.drainDuration", f"must be whole seconds, at least 1s, got {format_duration(drain)}")


def _check_addresses(obj: Object, proxy: MeshProxyConfig, path: str) -> Iterator[Problem]:
    if proxy.discovery_address is not None and not is_host_port(proxy.discovery_address):
        yield obj.problem(f"{path}.discoveryAddress", f"must be host:port, got {seen(proxy.discovery_address)}")
    metrics, logs = proxy.envoy_metrics_service, proxy.envoy_access_log_service
    for name, address in (
        ("statsdUdpAddress", proxy.statsd_udp_address),
        ("envoyMetricsServiceAddress", proxy.envoy_metrics_service_address),
        ("envoyMetricsService.address", metrics and metrics.address),
        ("envoyAccessLogService.address", logs and logs.address),
    ):
        if address and not is_host_port(address):
            yield obj.problem(f"{path}.{name}", f"must be host:port, got {seen(address)}")


def _check_tracing(obj: Object, tracing: ProxyTracing, path: str) -> Iterator[Problem]:
    if tracing.lightstep is not None and not tracing.lightstep.access_token:
        yield obj.problem(f"{path}.lightstep.accessToken", "must not be empty")
    for name, tracer in (("lightstep", tracing.lightstep), ("zipkin", tracing.zipkin), ("datadog", tracing.datadog)):
        address = (tracer.address or "").replace(HOST_IP, "127.0.0.1") if tracer is not None else None
        if address is not None and not is_host_port(address):
            yield obj.problem(f"{path}.{name}.address", f"must be host:port, got {seen(address)}")
    if tracing.tls_settings is not None:
        yield from check_client_tls(obj, tracing.tls_settings, f"{path}.tlsSettings")


def _check_private_key(obj: Object, provider: PrivateKeyProvider, path: str) -> Iterator[Problem]:
    given = [
        (name, found) for name, found in (("cryptomb", provider.cryptomb), ("qat", provider.qat)) if found is not None
    ]
    if not given:
        yield obj.problem(path, "needs cryptomb or qat")
    for name, found in given:
        if not found.poll_delay:
            yield obj.problem(f"{path}.{name}.pollDelay", "is required")


def _check_connections(obj: Object, settings: ConnectionSettings, path: str) -> Iterator[Problem]:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        place = f"{path}.{yaml_name(settings, name)}"
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if name.endswith("_window_size"):
            if value < WINDOW_BYTES_LEAST:
                yield obj.problem(place, f"must be at least {WINDOW_BYTES_LEAST}, got {value}")
        elif name.endswith("_buffer_limit_bytes"):
            if value < 0:
                yield obj.problem(place, f"must not be negative, got {value}")
        elif value <= 0:
            yield obj.problem(place, f"must be more than 0, got {value}")


def is_host_port(text: str) -> bool:
    """`host:port`: a name or an IP address (version 6 in brackets), and a port."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    known = is_ip(host[1:-1]) if bracketed else is_fqdn(host) or (is_ip(host) and ":" not in host)
    return bool(colon) and known and port.isascii() and port.isdecimal() and len(port) <= 5 and is_port(int(port))
