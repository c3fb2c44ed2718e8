"""The tables of a proxy's clusters, routes, endpoints and secrets, and the facts of its bootstrap.

In:  messages of a configuration dump and of `/clusters?format=json` as plain mappings. Out: rows of text.
Columns and the words in them: istioctl's, so that what people learnt there reads the same here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lateen.cli.tables_dump import SecretEntry
from lateen.cli.tables_listeners import address_text, route_match_text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = [
    "CLUSTER_COLUMNS",
    "ENDPOINT_COLUMNS",
    "ROUTE_COLUMNS",
    "SECRET_COLUMNS",
    "bootstrap_rows",
    "cluster_rows",
    "endpoint_rows",
    "hostname_and_port",
    "route_rows",
    "secret_rows",
]

Message = Mapping[str, Any]

CLUSTER_COLUMNS: Final = ("service fqdn", "port", "subset", "direction", "type", "destination rule")
ROUTE_COLUMNS: Final = ("name", "vhost name", "domains", "match", "virtual service")
ENDPOINT_COLUMNS: Final = ("endpoint", "status", "outlier check", "cluster")
SECRET_COLUMNS: Final = ("resource name", "type", "status", "valid cert", "serial number", "not after", "not before")

DOMAINS_SHOWN: Final = 2
_CONFIG_PATH: Final = re.compile(r"/namespaces/([^/]+)/[^/]+/([^/]+)$")
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\s*", re.DOTALL)


def hostname_and_port(cluster: str) -> tuple[str, int | None]:
    """Return hostname and service port of `outbound|9080|v1|reviews.default.svc.cluster.local`; else its name, None."""
    parts = cluster.split("|")
    if len(parts) != 4 or not parts[1].isdecimal():
        return cluster, None
    return parts[3], int(parts[1])


def cluster_rows(clusters: Iterable[Message], *, fqdn: str = "", port: int | None = None, name: str = "") -> list[Any]:
    """Return a row each, in the order given. `fqdn` and `name` are parts of the hostname and of the cluster's name."""
    return [_cluster_row(cluster) for cluster in clusters if _is_wanted(cluster.get("name", ""), fqdn, port, name)]


def _is_wanted(cluster: str, fqdn: str, port: int | None, name: str) -> bool:
    hostname, number = hostname_and_port(cluster)
    return fqdn in hostname and name in cluster and (port is None or number == port)


def _cluster_row(cluster: Message) -> tuple[str, ...]:
    name = cluster.get("name", "")
    discovery = cluster.get("cluster_type", {}).get("name") or cluster.get("type", "STATIC")
    rule = _config_name(cluster)
    parts = name.split("|")
    if len(parts) != 4:
        return (name, "-", "-", "-", discovery, rule)
    direction, port, subset, hostname = parts
    return (hostname or "-", port, subset or "-", direction, discovery, rule)


def _config_name(message: Message) -> str:
    """Return `<name>.<namespace>` of the resource that the metadata names, "" when there is none."""
    path = message.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config", "")
    found = _CONFIG_PATH.search(path)
    return f"{found[2]}.{found[1]}" if found else ""


def route_rows(routes: Iterable[Message], *, fqdn: str = "", name: str = "") -> list[tuple[str, ...]]:
    """Return a row for each route. `name` is the whole name of a route configuration, `fqdn` a part of a domain.

    Equal rows come once: each filter chain of an inbound port has a route configuration of its own, of one name.
    """
    rows = (
        (config.get("name", ""), host.get("name", ""), _domains(host.get("domains", ())), match, rule)
        for config in routes
        if name in ("", config.get("name", ""))
        for host in config.get("virtual_hosts", ())
        if any(fqdn in domain for domain in host.get("domains", ()))
        for match, rule in _matches(host)
    )
    return list(dict.fromkeys(rows))


def _matches(host: Message) -> Iterator[tuple[str, str]]:
    routes = host.get("routes", ())
    if not routes:
        yield ("/*", "404")  # what Envoy answers where no route matches
    for route in routes:
        yield (route_match_text(route.get("match", {})), _config_name(route))


def _domains(domains: Iterable[str]) -> str:
    """Return the shortest names first, those that differ only in their port once, two at most."""
    hosts = {re.sub(r":\d+$", "", domain) if not domain.startswith("[") else domain for domain in domains}
    shown = sorted(hosts, key=lambda host: (len(host), host))
    # `reviews` says what `reviews.default` and the longer forms say again.
    kept = [host for host in shown if not any(host.startswith(f"{other}.") for other in hosts)]
    more = len(kept) - DOMAINS_SHOWN
    return ", ".join(kept[:DOMAINS_SHOWN]) + (f" + {more} more..." if more > 0 else "")


def endpoint_rows(
    statuses: Iterable[Message], *, fqdn: str = "", port: int | None = None, name: str = ""
) -> list[tuple[str, str, str, str]]:
    """Return a row for each address of each cluster, by address. `port` is the service's, or the endpoint's own."""
    rows = []
    for status in statuses:
        cluster = status.get("name", "")
        hostname, number = hostname_and_port(cluster)
        if fqdn not in hostname or name not in cluster:
            continue
        for host in status.get("host_statuses", ()):
            address = host.get("address", {})
            if port in (None, number, address.get("socket_address", {}).get("port_value")):
                health = host.get("health_status", {})
                outlier = "FAILED" if health.get("failed_outlier_check") else "OK"
                rows.append((address_text(address), _health(health), outlier, cluster))
    return sorted(rows)


def _health(health: Message) -> str:
    if health.get("failed_active_health_check"):
        return "UNHEALTHY"
    return str(health.get("eds_health_status", "UNKNOWN"))


def secret_rows(secrets: Iterable[SecretEntry], now: datetime, *, name: str = "") -> list[tuple[str, ...]]:
    """Return a row for each certificate; a secret that has none is one row. Never shows a key.

    Envoy keeps a secret once for each way that it is asked for it; what is equal is one row.
    """
    return list(dict.fromkeys(row for entry in secrets if name in entry.name for row in _secret_rows(entry, now)))


def _secret_rows(entry: SecretEntry, now: datetime) -> Iterator[tuple[str, ...]]:
    kind, source = "-", {}
    match entry.secret:
        case {"tls_certificate": certificate}:
            kind, source = "Cert Chain", certificate.get("certificate_chain", {})
        case {"validation_context": context}:
            kind, source = "CA", context.get("trusted_ca", {})
    certificates = _certificates(source)
    # Of a chain the leaf counts; of roots every one.
    for certificate in certificates[:1] if kind == "Cert Chain" else certificates:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        valid = "true" if begin <= now <= end else "false"
        serial = f"{certificate.serial_number:032x}"
        yield (entry.name, kind, entry.status, valid, serial, _moment(end), _moment(begin))
    if not certificates:
        yield (entry.name, kind, entry.status, "-", "-", "-", "-")


def _certificates(source: Message) -> list[Certificate]:
    """Return the certificates of an `envoy.config.core.v3.DataSource` that holds its content; of a file none."""
    from cryptography import x509  # only this table needs it

    if "inline_bytes" in source:
        data = base64.b64decode(source["inline_bytes"])
    else:
        data = str(source.get("inline_string", "")).encode()
    found = []
    for pem in _PEM.findall(data):
        try:
            found.append(x509.load_pem_x509_certificate(pem))
        except ValueError:
            continue  # told as a secret without a certificate, which is what it is worth
    return found


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bootstrap_rows(bootstrap: Message) -> list[tuple[str, str]]:
    """Return the facts of a bootstrap that people ask for: (fact, value)."""
    node = bootstrap.get("node", {})
    static = bootstrap.get("static_resources", {})
    version = node.get("user_agent_build_version", {}).get("version", {})
    numbers = ".".join(str(version.get(part, 0)) for part in ("major_number", "minor_number", "patch"))
    rows = [
        ("node", node.get("id", "")),
        ("service cluster", node.get("cluster", "")),
        ("envoy", numbers if version else "-"),
        ("admin", address_text(bootstrap.get("admin", {}).get("address", {}))),
        ("ads", bootstrap.get("dynamic_resources", {}).get("ads_config", {}).get("api_type", "-")),
    ]
    rows += [(f"metadata {key}", _short(value)) for key, value in sorted(node.get("metadata", {}).items())]
    rows += [("static cluster", cluster.get("name", "")) for cluster in static.get("clusters", ())]
    rows += [("static listener", listener.get("name", "")) for listener in static.get("listeners", ())]
    return rows


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_short(value[key])}" for key in sorted(value))
    return ", ".join(_short(item) for item in value) if isinstance(value, list) else str(value)
