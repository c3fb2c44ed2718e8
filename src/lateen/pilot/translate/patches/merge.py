"""Merge one message into another as an EnvoyFilter's MERGE means it.

Rules, docs/api/EnvoyFilter.md "MERGE": scalars replace, messages and maps go inside, lists append (or replace); a
duration or a wrapped number is one value and replaces. An `Any` of the same type is opened, one of another type is
replaced, but not in a filter: there it is a fault. A field written out with its default value clears what was there.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from lateen.pilot.translate.patches.parse import ANY, TYPED_STRUCTS, Parsed, Zeros
from lateen.pilot.translate.patches.types import message_class

__all__ = ["Mismatch", "merged"]

M = TypeVar("M", bound=Message)

_ONE_VALUE: Final = frozenset(
    f"google.protobuf.{name}"
    for name in (
        "Duration",
        "Timestamp",
        "FieldMask",
        "BoolValue",
        "BytesValue",
        "DoubleValue",
        "FloatValue",
        "Int32Value",
        "Int64Value",
        "StringValue",
        "UInt32Value",
        "UInt64Value",
    )
)
_FILTERS: Final = frozenset(
    {
        "envoy.config.listener.v3.Filter",
        "envoy.config.listener.v3.ListenerFilter",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    }
)
_TRANSPORT_SOCKET: Final = "envoy.config.core.v3.TransportSocket"


class Mismatch(Exception):
    """A filter's configuration is of another type than the patch's."""


def merged(base: M, patch: Parsed, *, replace_lists: bool) -> M:
    """Return `base` with `patch` merged in; neither is changed. Raises `Mismatch`."""
    result = type(base)()
    result.CopyFrom(base)
    _merge(result, patch.message, patch.zeros, replace_lists)
    return result


def _merge(target: Any, source: Any, zeros: Zeros, replace_lists: bool) -> None:
    if source.DESCRIPTOR.full_name == _TRANSPORT_SOCKET and target.name and target.name != source.name:
        target.CopyFrom(source)
        return
    for field, value in source.ListFields():
        name, kind = field.name, field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _merge_map(getattr(target, name), value, kind.fields_by_name["value"].message_type, replace_lists)
        elif field.is_repeated:
            if replace_lists:
                target.ClearField(name)
            getattr(target, name).extend(value)
        elif kind is None:
            setattr(target, name, value)
        else:
            inside = zeros.get(name)
            _merge_message(target, name, value, inside if isinstance(inside, dict) else {}, replace_lists)
    for name, inside in zeros.items():
        if inside is True:
            target.ClearField(name)


def _merge_message(target: Any, name: str, value: Any, zeros: Zeros, replace_lists: bool) -> None:
    full_name = value.DESCRIPTOR.full_name
    # Read before asking for the part: that may clear another member of its one-of.
    held = target.HasField(name)
    part = getattr(target, name)
    if not held or full_name in _ONE_VALUE:
        part.CopyFrom(value)
    elif full_name == ANY:
        if not _merge_any(part, value, zeros, replace_lists):
            if target.DESCRIPTOR.full_name in _FILTERS:
                raise Mismatch(f"holds {_type_in(part)}, the patch {_type_in(value)}")
            part.CopyFrom(value)
    else:
        _merge(part, value, zeros, replace_lists)


def _merge_map(target: Any, source: Any, kind: Any, replace_lists: bool) -> None:
    for key in source:
        if kind is None:
            target[key] = source[key]
        elif key not in target or kind.full_name in _ONE_VALUE:
            target[key].CopyFrom(source[key])
        elif kind.full_name == ANY:
            if not _merge_any(target[key], source[key], {}, replace_lists):
                target[key].CopyFrom(source[key])
        else:
            _merge(target[key], source[key], {}, replace_lists)


def _merge_any(target: AnyMessage, source: AnyMessage, zeros: Zeros, replace_lists: bool) -> bool:
    """Merge what is inside, and tell whether that could be done."""
    if _type_in(target) != _type_in(source):
        return False
    kind = message_class(target.type_url.rpartition("/")[2])
    if kind is None or target.type_url != source.type_url:
        return False
    inner = kind.FromString(target.value)
    _merge(inner, kind.FromString(source.value), zeros, replace_lists)
    target.value = inner.SerializeToString(deterministic=True)
    return True


def _type_in(packed: AnyMessage) -> str:
    """Return the name of the message inside, also of one inside a TypedStruct."""
    name = packed.type_url.rpartition("/")[2]
    if name in TYPED_STRUCTS:
        kind = message_class(name)
        assert kind is not None
        return str(kind.FromString(packed.value).type_url.rpartition("/")[2])  # type: ignore[attr-defined]
    return name
