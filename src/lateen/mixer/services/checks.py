"""What Envoy asks of external authorization, as attributes: `envoy.service.auth.v3.CheckRequest`, HTTP and network.

In:  the request, and who asks. Out: attributes; those of a connection have no `request.*`.
Rules: docs/design/0022-mixer-process.md; tested with bytes of a real Envoy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.timestamp_pb2 import Timestamp

from lateen.errors import BadInput
from lateen.mixer.services.asker import Asking
from lateen.mixer.services.peers import common_places, maps_of_peers
from lateen.mixer.services.places import Bag, Filler, Reads

__all__ = ["CheckFiller", "CheckView", "now", "query_of", "url_path_of"]

MAX_QUERY_PARAMS: Final = 256


class CheckView:
    """One question. Made for each; holds the message and reads of it what is asked for."""

    __slots__ = ("_attributes", "asking", "connection", "http", "origin", "protocol")

    def __init__(self, request: Any, asking: Asking, origin: str | None, connection: str | None) -> None:
        self._attributes = attributes = request.attributes
        self.asking = asking
        self.origin = origin
        self.connection = connection
        self.http = attributes.request.http
        if attributes.request.HasField("http"):
            content = self.http.headers.get("content-type", "")
            self.protocol = "grpc" if content.startswith("application/grpc") else "http"
        else:
            self.protocol = "tcp"

    @property
    def client_id(self) -> str:
        return str(self._attributes.source.principal)

    @property
    def client_certificate(self) -> bool:
        return bool(self._attributes.source.principal)

    @property
    def server_id(self) -> str:
        return str(self._attributes.destination.principal)

    @property
    def client_address(self) -> Any:
        return self._attributes.source.address.socket_address

    @property
    def server_address(self) -> Any:
        return self._attributes.destination.address.socket_address

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._attributes.metadata_context.filter_metadata
        return found

    @property
    def time(self) -> Any:
        return self._attributes.request.time if self._attributes.request.HasField("time") else None

    @property
    def server_name(self) -> str | None:
        return self._attributes.tls_session.sni or None


class CheckFiller:
    """Makes attributes of questions, as far as rules with these reads need them."""

    def __init__(self, reads: Reads) -> None:
        reads = tuple(reads)
        self._http: Filler[CheckView] = Filler(_HTTP, _HTTP_MAPS, reads)
        self._tcp: Filler[CheckView] = Filler(_CONNECTION, {}, reads)

    def __call__(self, data: bytes, asking: Asking, origin: str | None, connection: str | None) -> tuple[Bag, bool]:
        """Return the attributes, and whether it is about a connection. Raises `BadInput`."""
        try:
            request = CheckRequest.FromString(data)
        except Exception as error:  # protobuf's own, whatever the bytes are
            raise BadInput(f"no CheckRequest: {error}") from error
        if not request.HasField("attributes"):
            raise BadInput("a CheckRequest without attributes")
        view = CheckView(request, asking, origin, connection)
        try:
            if view.protocol == "tcp":
                return self._tcp(view), True
            return self._http(view), False
        except ValueError as error:
            raise BadInput(f"CheckRequest: {error}") from error


def now() -> Timestamp:
    """Return the time as expressions take it."""
    found = Timestamp()
    found.GetCurrentTime()
    return found


def url_path_of(path: str) -> str:
    """Return a path without query and fragment."""
    return path.partition("?")[0].partition("#")[0]


def query_of(path: str) -> dict[str, str]:
    """Return the query, decoded; of repeated names the first. Raises `ValueError` for too many."""
    query = path.partition("?")[2].partition("#")[0]
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_PARAMS):
        found.setdefault(name, value)
    return found


def _header(name: str) -> Callable[[CheckView], str | None]:
    return lambda view: view.http.headers.get(name)


def _headers(view: CheckView, keys: frozenset[str] | None) -> dict[str, str]:
    headers = view.http.headers
    if keys is None:
        return dict(headers)
    return {name: headers[name] for name in keys if name in headers}


def _size(view: CheckView) -> int | None:
    text = view.http.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _query(view: CheckView, _: frozenset[str] | None) -> dict[str, str]:
    return query_of(view.http.path)


_CONNECTION: Final[dict[str, Callable[[CheckView], Any]]] = {
    **{name: value for name, value in common_places().items() if not name.startswith("request.")},
    "connection.id": lambda view: view.connection,
    "connection.requested_server_name": lambda view: view.server_name,
    "context.time": lambda _: now(),
}
_HTTP: Final[dict[str, Callable[[CheckView], Any]]] = {
    **common_places(),
    **_CONNECTION,
    "request.id": _header("x-request-id"),
    "request.path": lambda view: view.http.path,
    "request.url_path": lambda view: url_path_of(view.http.path),
    "request.host": lambda view: view.http.host or None,
    "request.method": lambda view: view.http.method or None,
    "request.scheme": lambda view: view.http.scheme or None,
    "request.referer": _header("referer"),
    "request.useragent": _header("user-agent"),
    "request.size": _size,
    "request.time": lambda view: view.time,
    "api.operation": lambda view: f"{view.http.method} {url_path_of(view.http.path)}",
}
_HTTP_MAPS: Final = {**maps_of_peers(), "request.headers": _headers, "request.query_params": _query}
