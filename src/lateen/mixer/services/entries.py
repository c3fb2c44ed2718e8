"""What Envoy reports, as attributes: entries of `envoy.service.accesslog.v3.StreamAccessLogsMessage`, HTTP and TCP.

In:  a message, and who reports. Out: attributes of each entry.
Only ends are reported: entries of access logs that Envoy writes meanwhile are left out. Headers are there as far as
the proxy was told to send them. Rules: docs/design/0022-mixer-process.md; tested with bytes of a real Envoy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.timestamp_pb2 import Timestamp

from lateen.errors import BadInput
from lateen.mixer.services.asker import Asking
from lateen.mixer.services.checks import now, query_of, url_path_of
from lateen.mixer.services.peers import common_places, maps_of_peers
from lateen.mixer.services.places import Bag, Filler, Reads

__all__ = ["EntryFiller", "EntryView", "count_entries", "flags_of", "parse_entries"]

_ENDS: Final = frozenset(
    {AccessLogType.NotSet, AccessLogType.DownstreamEnd, AccessLogType.TcpConnectionEnd, AccessLogType.UdpSessionEnd}
)
_METHODS: Final = {number: name for name, number in RequestMethod.items() if number}
NANOS: Final = 1_000_000_000

# Envoy's short names (`%RESPONSE_FLAGS%`), in the order in which it writes them.
_FLAGS: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}


class EntryView:
    """One entry. `http`, `response` and `bytes_of` are messages of its kind, None otherwise."""

    __slots__ = ("asking", "bytes_of", "common", "http", "protocol", "response")
    http: Any
    response: Any
    bytes_of: Any

    def __init__(self, entry: Any, asking: Asking, *, tcp: bool) -> None:
        self.asking = asking
        self.common = entry.common_properties
        if tcp:
            self.protocol, self.http, self.response = "tcp", None, None
            self.bytes_of = entry.connection_properties
        else:
            self.http, self.response, self.bytes_of = entry.request, entry.response, None
            content = self.http.request_headers.get("content-type", "")
            self.protocol = "grpc" if content.startswith("application/grpc") else "http"

    @property
    def client_id(self) -> str:
        return _only_uri(self.common.tls_properties.peer_certificate_properties)

    @property
    def client_certificate(self) -> bool:
        properties = self.common.tls_properties.peer_certificate_properties
        return bool(properties.subject_alt_name or properties.subject)

    @property
    def server_id(self) -> str:
        return _only_uri(self.common.tls_properties.local_certificate_properties)

    @property
    def client_address(self) -> Any:
        # The connection's own end: the other address is what x-forwarded-for says.
        return self.common.downstream_direct_remote_address.socket_address

    @property
    def server_address(self) -> Any:
        return self.common.downstream_local_address.socket_address

    @property
    def origin(self) -> str | None:
        return self.common.downstream_remote_address.socket_address.address or None

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.common.metadata.filter_metadata
        return found


class EntryFiller:
    """Makes attributes of entries, as far as rules with these reads need them."""

    def __init__(self, reads: Reads) -> None:
        reads = tuple(reads)
        self._http: Filler[EntryView] = Filler(_HTTP, _HTTP_MAPS, reads)
        self._tcp: Filler[EntryView] = Filler(_TCP, {}, reads)

    def __call__(self, entry: Any, asking: Asking, *, tcp: bool) -> Bag:
        """Raises `BadInput`."""
        try:
            return (self._tcp if tcp else self._http)(EntryView(entry, asking, tcp=tcp))
        except ValueError as error:
            raise BadInput(f"access log entry: {error}") from error


def parse_entries(data: bytes) -> tuple[list[Any], bool]:
    """Return a message's entries that tell an end, and whether they are of connections. Raises `BadInput`."""
    try:
        message = StreamAccessLogsMessage.FromString(data)
    except Exception as error:  # protobuf's own, whatever the bytes are
        raise BadInput(f"no StreamAccessLogsMessage: {error}") from error
    tcp = message.WhichOneof("log_entries") == "tcp_logs"
    entries = message.tcp_logs.log_entry if tcp else message.http_logs.log_entry
    return [entry for entry in entries if entry.common_properties.access_log_type in _ENDS], tcp


def count_entries(data: bytes) -> int:
    """Return how many entries a message has, without reading them: what is dropped is counted, and costs little."""
    for number, inner in _fields(data):
        if number in (2, 3):  # http_logs, tcp_logs
            return sum(1 for field, _ in _fields(inner) if field == 1)
    return 0


def _fields(data: bytes) -> Any:
    """Yield number and content of the length-delimited fields; ends where the bytes cannot be read on."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 != 2:
            return
        size, position = _varint(data, position)
        if size < 0 or position + size > len(data):
            return
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return -1, len(data)


def flags_of(flags: Any) -> str:
    """Return Envoy's short names, `-` for none."""
    found = [_FLAGS[one.name] for one, _ in flags.ListFields() if one.name in _FLAGS]
    if flags.HasField("unauthorized_details"):
        found.append("UAEX")
    return ",".join(found) or "-"


def _only_uri(properties: Any) -> str:
    uris = [name.uri for name in properties.subject_alt_name if name.uri]
    return uris[0] if len(uris) == 1 else ""


def _text(name: str) -> Callable[[EntryView], str | None]:
    return lambda view: getattr(view.http, name) or None


def _headers(view: EntryView, keys: frozenset[str] | None) -> dict[str, str]:
    headers = view.http.request_headers
    found = dict(headers) if keys is None else {name: headers[name] for name in keys if name in headers}
    for name, value in _named_headers(view):
        if value and (keys is None or name in keys):
            found.setdefault(name, value)
    return found


def _named_headers(view: EntryView) -> tuple[tuple[str, str], ...]:
    """Return headers that Envoy tells in fields of their own."""
    http = view.http
    return (
        (":path", http.path),
        (":method", _METHODS.get(http.request_method, "")),
        (":authority", http.authority),
        ("user-agent", http.user_agent),
        ("referer", http.referer),
        ("x-request-id", http.request_id),
        ("x-forwarded-for", http.forwarded_for),
    )


def _response_headers(view: EntryView, keys: frozenset[str] | None) -> dict[str, str]:
    headers = view.response.response_headers
    return dict(headers) if keys is None else {name: headers[name] for name in keys if name in headers}


def _path(view: EntryView) -> str:
    return str(view.http.path)


def _code(view: EntryView) -> int | None:
    return view.response.response_code.value if view.response.HasField("response_code") else None


def _grpc(name: str) -> Callable[[EntryView], str | None]:
    def value_of(view: EntryView) -> str | None:
        response = view.response
        found: str | None = response.response_trailers.get(name) or response.response_headers.get(name)
        return found

    return value_of


def _end(view: EntryView) -> Timestamp | None:
    common = view.common
    if not common.HasField("start_time"):
        return None
    nanos = common.start_time.nanos + common.duration.nanos
    return Timestamp(seconds=common.start_time.seconds + common.duration.seconds + nanos // NANOS, nanos=nanos % NANOS)


def _flags(view: EntryView) -> str:
    return flags_of(view.common.response_flags)


_COMMON: Final[dict[str, Callable[[EntryView], Any]]] = {
    "connection.requested_server_name": lambda view: view.common.tls_properties.tls_sni_hostname or None,
    "response.flags": _flags,
    "context.proxy_error_code": _flags,
    "context.time": lambda _: now(),
}
_TCP: Final[dict[str, Callable[[EntryView], Any]]] = {
    **{name: value for name, value in common_places().items() if not name.startswith("request.")},
    **_COMMON,
    "connection.id": lambda view: view.common.stream_id or None,
    "connection.event": lambda _: "close",
    "connection.received.bytes": lambda view: view.bytes_of.received_bytes,
    "connection.sent.bytes": lambda view: view.bytes_of.sent_bytes,
    "connection.duration": lambda view: view.common.duration if view.common.HasField("duration") else None,
}
_HTTP: Final[dict[str, Callable[[EntryView], Any]]] = {
    **common_places(),
    **_COMMON,
    "request.id": _text("request_id"),
    "request.path": _path,
    "request.url_path": lambda view: url_path_of(_path(view)),
    "request.host": _text("authority"),
    "request.method": lambda view: _METHODS.get(view.http.request_method),
    "request.scheme": _text("scheme"),
    "request.referer": _text("referer"),
    "request.useragent": _text("user_agent"),
    "request.size": lambda view: view.http.request_body_bytes,
    "request.total_size": lambda view: view.http.request_headers_bytes + view.http.request_body_bytes,
    "request.time": lambda view: view.common.start_time if view.common.HasField("start_time") else None,
    "response.code": _code,
    "response.size": lambda view: view.response.response_body_bytes,
    "response.total_size": lambda view: view.response.response_headers_bytes + view.response.response_body_bytes,
    "response.duration": lambda view: view.common.duration if view.common.HasField("duration") else None,
    "response.time": _end,
    "response.grpc_status": _grpc("grpc-status"),
    "response.grpc_message": _grpc("grpc-message"),
    "api.operation": lambda view: f"{_METHODS.get(view.http.request_method, '')} {url_path_of(_path(view))}",
}
_HTTP_MAPS: Final = {
    **maps_of_peers(),
    "request.headers": _headers,
    "request.query_params": lambda view, _: query_of(view.http.path),
    "response.headers": _response_headers,
}
