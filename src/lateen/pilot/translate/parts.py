"""Small pieces that many messages are made of: durations, wrappers, metadata, the two configuration sources.

In: plain values. Out: fresh protobuf messages; the constants here are read, copied into others, never changed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Metadata, RuntimeFractionalPercent
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from google.protobuf.wrappers_pb2 import UInt32Value

from lateen.pilot.model.values import ConfigRef

__all__ = [
    "ADS",
    "ADS_PATIENT",
    "ZERO",
    "address",
    "config_path",
    "duration",
    "fraction",
    "host_port",
    "is_ip",
    "metadata",
    "regex",
    "runtime_fraction",
    "struct",
    "uint32",
]

MICROSECOND: Final = timedelta(microseconds=1)
ZERO: Final = Duration()

# Whatever a proxy waits for comes over its one ADS stream. Patient: traffic waits for it, however long.
ADS: Final = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
ADS_PATIENT: Final = ConfigSource(
    ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3, initial_fetch_timeout=ZERO
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
    """Return a `Struct` of what JSON can say."""
    return Struct(fields={key: _value(fields[key]) for key in fields})


def _value(value: Any) -> Value:
    match value:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case str():
            return Value(string_value=value)
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=value)
        case Mapping():
            return Value(struct_value=struct(value))
        case _:
            return Value(list_value=ListValue(values=[_value(item) for item in value]))


def metadata(**namespaces: Mapping[str, Any]) -> Metadata:
    """Return `filter_metadata` with one struct a namespace: `metadata(istio={"config": ...})`."""
    return Metadata(filter_metadata={name: struct(fields) for name, fields in namespaces.items()})


def config_path(ref: ConfigRef) -> str:
    """Return where a resource is found in Kubernetes' API, which is how Istio's tools name it.

    `/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews`.
    """
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", ref.kind).lower()
    return f"/apis/{ref.group}/{ref.version}/namespaces/{ref.namespace}/{kind}/{ref.name}"
