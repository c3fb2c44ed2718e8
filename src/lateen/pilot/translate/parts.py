"""Small pieces that many messages are made of: durations, wrappers, metadata, the two configuration sources.

In: plain values. Out: fresh protobuf messages; the constants here are read, copied into others, never changed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, ExtensionFilter
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Metadata, RuntimeFractionalPercent
from envoy.config.core.v3.cel_pb2 import CelExpressionConfig
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.wrappers_pb2 import UInt32Value

from lateen.pilot.model.values import ConfigRef
from lateen.pilot.translate.pack import length_delimited, pack, varint_field

__all__ = [
    "ADS",
    "ADS_PATIENT",
    "ZERO",
    "address",
    "cel_filter",
    "config_path",
    "duration",
    "fraction",
    "host_port",
    "is_ip",
    "metadata",
    "metadata_of",
    "regex",
    "runtime_fraction",
    "struct",
    "struct_bytes",
    "uint32",
]

MICROSECOND: Final = timedelta(microseconds=1)
ZERO: Final = Duration()

# Whatever a proxy waits for comes over its one ADS stream. Patient: traffic waits for it, however long.
ADS: Final = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
ADS_PATIENT: Final = ConfigSource(
    ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3, initial_fetch_timeout=ZERO
)


def cel_filter(expression: str, functions: CelExpressionConfig | None = None) -> AccessLogFilter:
    """Return what an expression of Envoy's holds for; `functions` that it has beside the ones that it always has."""
    config: Any = pack(ExpressionFilter(expression=expression, cel_config=functions))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=config)
    )


def duration(value: timedelta) -> Duration:
    """Return a protobuf duration, exact to the microsecond."""
    seconds, rest = divmod(value // MICROSECOND, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def uint32(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def regex(pattern: str) -> RegexMatcher:
    """Return a matcher that must match the whole text (RE2)."""
    return RegexMatcher(regex=pattern)


def fraction(percent: float) -> FractionalPercent:
    """Return a share of requests; four digits behind the point are kept (Istio: "per million")."""
    if percent == 100:
        return FractionalPercent(numerator=100)
    return FractionalPercent(numerator=round(percent * 10_000), denominator=FractionalPercent.MILLION)


def runtime_fraction(percent: float) -> RuntimeFractionalPercent:
    return RuntimeFractionalPercent(default_value=fraction(percent))


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def host_port(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:80` or `[::1]:80`. Raises `ValueError` without a port."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def address(host: str, port: int) -> Address:
    """Return an address: of a Unix socket where `host` is a path or starts with `unix:`, else of TCP."""
    if host.startswith(("/", "@", "unix:")):
        return Address(pipe=Pipe(path=re.sub("^unix:(//)?", "", host)))
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def struct(fields: Mapping[str, Any]) -> Struct:
    """Return a `Struct` of what JSON can say, with its fields sorted by name.

    Written field by field as bytes, because metadata is in every cluster and every endpoint, and building it from
    `Value` messages takes twice as long.
    """
    return Struct.FromString(struct_bytes(fields))


def struct_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return a serialised `Struct`; several of them joined are one struct with all their fields."""
    return _map_bytes({name: _value_bytes(value) for name, value in fields.items()})


def _map_bytes(entries: Mapping[str, bytes]) -> bytes:
    """Return field 1 of a message, a map from text to messages: `Struct.fields`, `Metadata.filter_metadata`."""
    return b"".join(
        [
            length_delimited(1, length_delimited(1, name.encode()) + length_delimited(2, entries[name]))
            for name in sorted(entries)
        ]
    )


def _value_bytes(value: Any) -> bytes:
    # Value{null_value(1), number_value(2), string_value(3), bool_value(4), struct_value(5), list_value(6)}
    if isinstance(value, str):
        return length_delimited(3, value.encode())
    if value is None or isinstance(value, bool):
        return varint_field(1, 0) if value is None else varint_field(4, int(value))
    if isinstance(value, int | float):
        return Value(number_value=value).SerializeToString()
    if isinstance(value, Mapping):
        return length_delimited(5, struct_bytes(value))
    return length_delimited(6, b"".join([length_delimited(1, _value_bytes(item)) for item in value]))


def metadata(**namespaces: Mapping[str, Any]) -> Metadata:
    """Return `filter_metadata` with one struct a namespace: `metadata(istio={"config": ...})`."""
    return metadata_of({name: struct_bytes(fields) for name, fields in namespaces.items()})


def metadata_of(namespaces: Mapping[str, bytes]) -> Metadata:
    """Return `filter_metadata` whose structs are serialised already."""
    return Metadata.FromString(_map_bytes(namespaces))


def config_path(ref: ConfigRef) -> str:
    """Return where a resource is found in Kubernetes' API, which is how Istio's tools name it.

    `/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews`.
    """
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", ref.kind).lower()
    return f"/apis/{ref.group}/{ref.version}/namespaces/{ref.namespace}/{kind}/{ref.name}"
