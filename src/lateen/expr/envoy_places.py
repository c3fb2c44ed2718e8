"""Where Envoy finds the attributes of rules: what stands for each of them in its own expressions.

A table for what is known of any connection, one for connections of bytes, one for requests, one for what is over. An
attribute that is in none of them Envoy's expressions do not know, or know by another meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lateen.expr.envoy_tree import call, constant, has, index, method, select

__all__ = ["ALWAYS", "BY_CERTIFICATE", "HEADERS", "NAMED_HEADERS", "WHY_NOT", "Where", "client_shown", "places"]

JWT: Final = ("envoy.filters.http.jwt_authn", "payload")
PEERS: Final = ("istio.peer", "downstream")
HEADERS: Final = ("request.headers", "response.headers")
_SPIFFE: Final = r"^spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)$"
_ADDRESS: Final = r"^\[?([0-9a-fA-F.:]+?)\]?:[0-9]+$"
_UNKNOWN: Final = "unknown"  # what proxies tell where they know nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where an expression is to run.

    `http`: about a request; otherwise about a connection. `over`: when it is over, for reports. `vouched`: the mesh's
    roots vouch for clients. `namespace`, `kind`: of the proxy, as `context.reporter.kind` tells it.
    `texts`: Envoy's functions of texts can be switched on there.
    """

    http: bool
    namespace: str
    kind: str
    vouched: bool = True
    over: bool = False
    texts: bool = True


def _absent(_: Where) -> Any:
    return select("connection", "lateen_absent")  # an attribute that no Envoy has


def _metadata(namespace: str, key: str) -> Any:
    return index(index(select("metadata", "filter_metadata"), namespace), key)


def _extract(text: Any, pattern: str, group: int) -> Any:
    return call("re.extract", text, constant(string_value=pattern), constant(string_value=f"\\{group}"))


def _client() -> Any:
    return select("connection", "uri_san_peer_certificate")


def _identity(make: Callable[[], Any]) -> Callable[[Where], Any]:
    return lambda where: make() if where.vouched else _absent(where)


def _unless(value: Any, nothing: str) -> Any:
    """Return the value; absent where it is `nothing`."""
    there = call("_!=_", value, constant(string_value=nothing))
    return call("_?_:_", there, value, select("connection", "lateen_absent"))


def _told(place: int) -> Callable[[Where], Any]:
    """Return one part of what the client's proxy tells; the text is `wire.peer_env`'s."""

    def made(_: Where) -> Any:
        return _unless(_extract(_metadata(*PEERS), f"^(?:[^;]*;){{{place}}}([^;]+)", 1), _UNKNOWN)

    return made


def _protocol(where: Where) -> Any:
    if not where.http:
        return constant(string_value="tcp")
    content = constant(string_value="content-type")
    headers = select("request", "headers")
    is_grpc = method(call("_[_]", headers, content), "startsWith", constant(string_value="application/grpc"))
    grpc = call("_&&_", call("@in", content, headers), is_grpc)
    return call("_?_:_", grpc, constant(string_value="grpc"), constant(string_value="http"))


def _header(name: str) -> Callable[[Where], Any]:
    return lambda _: index(select("request", "headers"), name)


def _plain(*names: str) -> Callable[[Where], Any]:
    return lambda _: select(*names)


NAMED_HEADERS: Final[Mapping[str, str]] = {
    "request.id": "x-request-id",
    "request.referer": "referer",
    "request.useragent": "user-agent",
}
_ANYWHERE: Final[Mapping[str, Callable[[Where], Any]]] = {
    "source.principal": _identity(_client),
    "source.namespace": _identity(lambda: _extract(_client(), _SPIFFE, 1)),
    "source.serviceAccount": _identity(lambda: _extract(_client(), _SPIFFE, 2)),
    "destination.ip": lambda _: _extract(select("destination", "address"), _ADDRESS, 1),
    "destination.port": _plain("destination", "port"),
    "destination.namespace": lambda where: constant(string_value=where.namespace),
    "connection.mtls": _plain("connection", "mtls"),
    "connection.requested_server_name": lambda _: _unless(select("connection", "requested_server_name"), ""),
    "context.protocol": _protocol,
    "api.protocol": _protocol,
    "context.reporter.kind": lambda where: constant(string_value=where.kind),
}
# Envoy's own `source.address` of a request is what X-Forwarded-For makes of it.
_TCP: Final[Mapping[str, Callable[[Where], Any]]] = {
    "source.ip": lambda _: _extract(select("source", "address"), _ADDRESS, 1),
    "source.port": _plain("source", "port"),
}
_HTTP: Final[Mapping[str, Callable[[Where], Any]]] = {
    "origin.ip": lambda _: _extract(select("source", "address"), _ADDRESS, 1),
    "source.name": _told(0),
    "source.workload.name": _told(0),
    "source.workload.namespace": _told(1),
    "request.headers": _plain("request", "headers"),
    **{attribute: _header(name) for attribute, name in NAMED_HEADERS.items()},
    "request.path": _plain("request", "path"),
    "request.url_path": _plain("request", "url_path"),
    "request.host": _plain("request", "host"),
    "request.method": _plain("request", "method"),
    "request.scheme": _plain("request", "scheme"),
    "request.time": _plain("request", "time"),
    "request.auth.claims": lambda _: _metadata(*JWT),
}
_OVER: Final[Mapping[str, Callable[[Where], Any]]] = {
    "response.code": _plain("response", "code"),
    "response.headers": _plain("response", "headers"),
}
# Of the above, what no request is without.
ALWAYS: Final = frozenset(
    {
        "destination.port", "destination.namespace", "connection.mtls", "context.protocol", "api.protocol",
        "context.reporter.kind", "source.port", "request.path", "request.url_path", "request.host", "request.method",
        "request.scheme", "request.time",
    }
)  # fmt: skip
BY_CERTIFICATE: Final = ("source.principal", "source.namespace", "source.serviceAccount")
WHY_NOT: Final = {
    "source.ip": "reads source.ip of a request, which Envoy's expressions know only after X-Forwarded-For (origin.ip)",
    "context.time": "reads context.time, which is another at each evaluation",
    "request.query_params": "reads request.query_params: Envoy does not take queries apart",
}


def places(where: Where) -> Mapping[str, Callable[[Where], Any]]:
    """Return what makes the tree of each attribute that is known there."""
    return {**_ANYWHERE, **(_HTTP if where.http else _TCP), **(_OVER if where.http and where.over else {})}


def client_shown() -> Any:
    """Return whether the client showed a certificate that names it."""
    return has(_client())
