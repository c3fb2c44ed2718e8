"""The table of a proxy's listeners: one row a filter chain, what it takes and where that goes.

In:  `envoy.config.listener.v3.Listener` messages as plain mappings. Out: rows of (addresses, port, match, destination).
Columns and the words in them: istioctl's, so that what people learnt there reads the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ["LISTENER_COLUMNS", "address_text", "is_wanted_listener", "listener_rows", "match_text", "route_match_text"]

Message = Mapping[str, Any]
Row = tuple[str, str, str, str]

LISTENER_COLUMNS: Final = ("addresses", "port", "match", "destination")

# Sets of application protocols that have a name. Lateen's own sets come first, then those that Istio sends.
_PROTOCOLS: Final[Mapping[frozenset[str], str]] = {
    frozenset({"http/1.1", "h2c"}): "HTTP",
    frozenset({"http/1.0", "http/1.1", "h2c"}): "HTTP",
    frozenset({"istio-http/1.0", "istio-http/1.1", "istio-h2"}): "HTTP TLS",
    frozenset({"http/1.0", "http/1.1", "h2c", "istio-http/1.0", "istio-http/1.1", "istio-h2"}): "HTTP TLS",
    frozenset({"istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"}): "Istio HTTP Plain",
    frozenset({"istio-peer-exchange", "istio"}): "TCP TLS",
    frozenset({"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}): "Istio TLS",
}


def listener_rows(listeners: Iterable[Message], *, port: int | None = None, name: str = "") -> list[Row]:
    """Return the rows, by port and address, chains in Envoy's order. `name` is a part of the listener's name."""
    chosen = [
        (_port(listener.get("address", {})), listener)
        for listener in listeners
        if is_wanted_listener(listener, port=port, name=name)
    ]
    chosen.sort(key=lambda item: (item[0], address_text(item[1].get("address", {}), port=False)))
    return [row for _, listener in chosen for row in _rows(listener)]


def is_wanted_listener(listener: Message, *, port: int | None, name: str) -> bool:
    addresses = _addresses(listener)
    return name in listener.get("name", "") and (port is None or port in map(_port, addresses))


def address_text(address: Message, *, port: bool = True) -> str:
    """Return an `envoy.config.core.v3.Address` as people write it."""
    match address:
        case {"socket_address": {"address": host, **rest}}:
            return f"{host}:{rest.get('port_value', rest.get('named_port', 0))}" if port else str(host)
        case {"pipe": {"path": path}}:
            return f"unix://{path}"
        case {"envoy_internal_address": internal}:
            extra = f"/{internal['endpoint_id']}" if internal.get("endpoint_id") else ""
            return f"envoy://{internal.get('server_listener_name', '')}{extra}"
        case _:
            return "-"


def match_text(match: Message) -> str:
    """Return what a `FilterChainMatch` asks for; `ALL` when it takes everything."""
    parts = []
    if names := match.get("server_names"):
        parts.append(f"SNI: {','.join(names)}")
    if transport := match.get("transport_protocol"):
        parts.append(f"Trans: {transport}")
    if protocols := match.get("application_protocols"):
        parts.append(f"App: {_PROTOCOLS.get(frozenset(protocols), ','.join(protocols))}")
    destination = match.get("destination_port")
    ranges = ",".join(f"{r.get('address_prefix', '')}/{r.get('prefix_len', 0)}" for r in match.get("prefix_ranges", ()))
    if ranges:
        parts.append(f"Addr: {ranges}{f':{destination}' if destination else ''}")
    elif destination:
        parts.append(f"Addr: *:{destination}")
    return "; ".join(parts) or "ALL"


def route_match_text(match: Message) -> str:
    """Return what a `RouteMatch` asks of the path; headers and parameters are not shown."""
    match match:
        case {"prefix": prefix}:
            return f"{prefix}*"
        case {"path_separated_prefix": prefix}:
            return f"PathPrefix:{prefix}"
        case {"path": path}:
            return str(path)
        case {"safe_regex": {"regex": regex}}:
            return f"regex {regex}"
        case _:
            return "-"


def _addresses(listener: Message) -> list[Message]:
    extra = listener.get("additional_addresses", ())
    return [listener.get("address", {}), *(one["address"] for one in extra)]


def _port(address: Message) -> int:
    number: int = address.get("socket_address", {}).get("port_value", 0)
    return number


def _rows(listener: Message) -> Iterator[Row]:
    addresses = _addresses(listener)
    # Each once: a gateway's listener is on one address at several ports, a service's at one port of several addresses.
    shown = ",".join(dict.fromkeys(address_text(address, port=False) for address in addresses))
    ports = ",".join(dict.fromkeys(str(_port(address)) for address in addresses))
    for chain in listener.get("filter_chains", ()):
        yield (shown, ports, match_text(chain.get("filter_chain_match", {})), _destination(chain))
    if default := listener.get("default_filter_chain"):
        # What no other chain takes.
        yield (shown, ports, "ALL", _destination(default))


def _destination(chain: Message) -> str:
    for filter_ in chain.get("filters", ()):
        config = filter_.get("typed_config", {})
        kind = config.get("@type", "").rpartition(".")[2]
        if kind == "HttpConnectionManager":
            return _http_destination(config)
        if kind == "TcpProxy":
            if "cluster" in config:
                return _cluster(config["cluster"])
            weighted = config.get("weighted_clusters", {}).get("clusters", ())
            return _cluster(",".join(f"{entry.get('name')} ({entry.get('weight', 0)})" for entry in weighted))
    return "Non-HTTP/Non-TCP"


def _http_destination(manager: Message) -> str:
    if "rds" in manager:
        return f"Route: {manager['rds'].get('route_config_name', '')}"
    hosts = manager.get("route_config", {}).get("virtual_hosts", ())
    match hosts:
        case [{"domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]:
            return _cluster(cluster)
        case _:
            return f"Inline Route: {'; '.join(_inline(host) for host in hosts)}"


def _inline(host: Message) -> str:
    matches = ", ".join(route_match_text(route.get("match", {})) for route in host.get("routes", ()))
    return f"{','.join(host.get('domains', ()))} {matches}".strip()


def _cluster(name: str) -> str:
    # A name that says itself what it is (PassthroughCluster) is not called a cluster twice.
    return name if "Cluster" in name else f"Cluster: {name}"
