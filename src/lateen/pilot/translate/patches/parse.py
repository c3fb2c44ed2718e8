"""Read a patch's value: Envoy's JSON, field by field, so that a fault is told at its own place.

In:  plain values as decoded from YAML, the message's class. Out: the message, and the fields that are written out with
their default value (proto3 keeps no trace of those, but a merge shall obey them).
Rules: protobuf's JSON mapping. Both spellings of a field count. An `Any` names its type by `@type`; a type that
xds-protos lacks travels as `xds.type.v3.TypedStruct`, which Envoy opens itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from xds.type.v3.typed_struct_pb2 import TypedStruct

from lateen.api.places import join_path
from lateen.api.suggest import nearest
from lateen.pilot.translate.pack import TYPE_PREFIX
from lateen.pilot.translate.patches.types import message_class

__all__ = ["ANY", "TYPED_STRUCTS", "Parsed", "ValueFault", "Zeros", "parse_value"]

M = TypeVar("M", bound=Message)

ANY: Final = "google.protobuf.Any"
TYPED_STRUCTS: Final = frozenset({"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"})
MAX_DEPTH: Final = 64

# A field that is written with its default value is True; one that holds such fields has theirs.
Zeros = dict[str, Any]


class ValueFault(Exception):
    """What a value is not, and where: `path` below the value."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Parsed:
    """A value that was read. The message is shared: never change it."""

    message: Any
    zeros: Zeros = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()  # (path, type) of what is passed on unread


def parse_value(value: Any, kind: type[M], path: str) -> Parsed:
    """Return `value` as a `kind`. Raises `ValueFault`."""
    message = kind()
    zeros: Zeros = {}
    reader = _Reader()
    reader.read(message, value, path, zeros)
    return Parsed(message, zeros, tuple(reader.unknown))


class _Reader:
    """Fills messages, and notes the types that it does not know."""

    def __init__(self) -> None:
        self.unknown: list[tuple[str, str]] = []

    def read(self, message: Message, value: Any, path: str, zeros: Zeros) -> None:
        self._fill(message, value, path, zeros, 0)

    def _fill(self, message: Message, value: Any, path: str, zeros: Zeros, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueFault(path, f"is nested deeper than {MAX_DEPTH}")
        descriptor = message.DESCRIPTOR
        if not isinstance(value, Mapping):
            raise ValueFault(path, f"must be a map, a {descriptor.full_name}, got {_shown(value)}")
        fields = _fields(descriptor)
        seen: set[str] = set()
        for key, entry in value.items():
            place = join_path(path, str(key))
            found = fields.get(key)
            if found is None:
                near = nearest(str(key), [each.name for each in descriptor.fields])
                hint = f", did you mean {near}?" if near is not None else ""
                raise ValueFault(place, f"is not a field of {descriptor.full_name}{hint}")
            if entry is None and (
                found.message_type is None or found.message_type.full_name != "google.protobuf.Value"
            ):
                continue
            if found.name in seen:
                raise ValueFault(place, "is written twice, in two spellings")
            seen.add(found.name)
            group = found.containing_oneof
            if group is not None and len(group.fields) > 1 and (other := message.WhichOneof(group.name)) is not None:
                raise ValueFault(place, f"cannot stand beside {other}: only one of them is in force")
            self._set(message, found, entry, place, zeros, depth)

    def _set(self, message: Message, found: FieldDescriptor, entry: Any, place: str, zeros: Zeros, depth: int) -> None:
        kind = found.message_type
        if kind is not None and kind.GetOptions().map_entry:
            self._set_map(message, found, entry, place, depth)
        elif found.is_repeated:
            if not isinstance(entry, (list, tuple)):
                raise ValueFault(place, f"must be a list, got {_shown(entry)}")
            if kind is None or _is_leaf(kind):
                _set_leaf(message, found, entry, place)
                return
            for position, element in enumerate(entry):
                self._fill_one(getattr(message, found.name).add(), element, join_path(place, position), {}, depth)
        elif kind is None:
            _set_leaf(message, found, entry, place)
            if not found.has_presence and getattr(message, found.name) == found.default_value:
                zeros[found.name] = True
        elif _is_leaf(kind):
            _set_leaf(message, found, entry, place)
        else:
            inside: Zeros = {}
            part = getattr(message, found.name)
            part.SetInParent()
            self._fill_one(part, entry, place, inside, depth)
            if inside:
                zeros[found.name] = inside

    def _fill_one(self, part: Message, entry: Any, place: str, zeros: Zeros, depth: int) -> None:
        if part.DESCRIPTOR.full_name == ANY:
            self._fill_any(part, entry, place, zeros, depth + 1)
        else:
            self._fill(part, entry, place, zeros, depth + 1)

    def _set_map(self, message: Message, found: FieldDescriptor, entry: Any, place: str, depth: int) -> None:
        if not isinstance(entry, Mapping):
            raise ValueFault(place, f"must be a map, got {_shown(entry)}")
        entry_kind: Any = found.message_type
        kind = entry_kind.fields_by_name["value"].message_type
        key_kind = entry_kind.fields_by_name["key"]
        if kind is None or _is_leaf(kind) or key_kind.type != FieldDescriptor.TYPE_STRING:
            _set_leaf(message, found, entry, place)
            return
        for key, element in entry.items():
            self._fill_one(getattr(message, found.name)[str(key)], element, join_path(place, str(key)), {}, depth)

    def _fill_any(self, part: Any, value: Any, path: str, zeros: Zeros, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueFault(path, f"is nested deeper than {MAX_DEPTH}")
        if not isinstance(value, Mapping):
            raise ValueFault(path, f'must be a map with "@type", got {_shown(value)}')
        url = value.get("@type")
        if not isinstance(url, str) or "/" not in url:
            raise ValueFault(join_path(path, "@type"), f'must be "{TYPE_PREFIX}<message>", got {_shown(url)}')
        rest = {key: entry for key, entry in value.items() if key != "@type"}
        name = url.rpartition("/")[2]
        kind = message_class(name)
        if name in TYPED_STRUCTS:
            self._fill_typed_struct(part, rest, path, zeros, depth)
        elif kind is None:
            self.unknown.append((join_path(path, "@type"), name))
            _pack(part, TypedStruct(type_url=TYPE_PREFIX + name, value=_struct(rest, path)))
        elif _is_leaf(kind.DESCRIPTOR):
            try:
                json_format.ParseDict(_thawed(value), part)
            except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
                raise ValueFault(path, f"must be a {name}, got {_shown(value)}") from error
        else:
            message = kind()
            self._fill(message, rest, path, zeros, depth)
            _pack(part, message)

    def _fill_typed_struct(
        self, part: AnyMessage, value: Mapping[str, Any], path: str, zeros: Zeros, depth: int
    ) -> None:
        """Take a TypedStruct for the message that it stands for where that is known, and as it is where it is not.

        Also as it is where the known message has no such field: Envoy may be newer than what is known here.
        """
        for key in value:
            if key not in ("type_url", "typeUrl", "value"):
                raise ValueFault(
                    join_path(path, str(key)), "is not a field of TypedStruct, which has type_url and value"
                )
        url = value.get("type_url") or value.get("typeUrl")
        if not isinstance(url, str) or not url:
            raise ValueFault(join_path(path, "type_url"), f"must name a message, got {_shown(url)}")
        content = value.get("value") or {}
        below = join_path(path, "value")
        kind = message_class(url.rpartition("/")[2])
        if kind is not None and not _is_leaf(kind.DESCRIPTOR):
            message, inside = kind(), Zeros()
            try:
                self._fill(message, content, below, inside, depth)
            except ValueFault:
                pass
            else:
                zeros.update(inside)
                _pack(part, message)
                return
        _pack(part, TypedStruct(type_url=TYPE_PREFIX + url.rpartition("/")[2], value=_struct(content, below)))


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return {name: found for found in descriptor.fields for name in (found.name, found.json_name)}


def _is_leaf(kind: Any) -> bool:
    """Tell whether a message has a JSON form of its own, such as "5s" for a duration."""
    return bool(kind.full_name.startswith("google.protobuf.")) and kind.full_name != ANY


def _set_leaf(message: Message, found: FieldDescriptor, entry: Any, place: str) -> None:
    try:
        json_format.ParseDict({found.json_name: _thawed(entry)}, message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise ValueFault(place, f"must be {_wanted(found)}, got {_shown(entry)}{_hint(found, entry)}") from error


def _struct(value: Any, path: str) -> Struct:
    if not isinstance(value, Mapping):
        raise ValueFault(path, f"must be a map, got {_shown(value)}")
    try:
        return json_format.ParseDict(_thawed(value), Struct())
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise ValueFault(path, f"holds what JSON cannot say: {error}") from error


def _pack(part: AnyMessage, message: Message) -> None:
    part.type_url = TYPE_PREFIX + message.DESCRIPTOR.full_name
    part.value = message.SerializeToString(deterministic=True)


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_thawed(entry) for entry in value]
    return value


_KINDS: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number of 32 bits, not negative",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number of 64 bits, not negative",
}
_WELL_KNOWN: Final = {
    "google.protobuf.Duration": 'a duration in seconds, such as "1.5s"',
    "google.protobuf.Timestamp": 'a time such as "2026-01-31T12:00:00Z"',
    "google.protobuf.FieldMask": "field names with commas between",
    "google.protobuf.Struct": "a map",
    "google.protobuf.ListValue": "a list",
    "google.protobuf.Empty": "{}",
}


def _wanted(found: FieldDescriptor) -> str:
    """Return what a field takes, in words."""
    kind = found.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return f"a map of {_wanted(kind.fields_by_name['value'])}"
    if kind is not None and kind.full_name.endswith("Value") and "value" in kind.fields_by_name:
        wanted = _wanted(kind.fields_by_name["value"])
    elif kind is not None:
        wanted = _WELL_KNOWN.get(kind.full_name, f"a {kind.full_name}")
    elif found.enum_type is not None:
        wanted = f"a {found.enum_type.full_name.rpartition('.')[2]}"
    elif found.type == FieldDescriptor.TYPE_BYTES:
        wanted = "bytes in base64"
    else:
        wanted = _KINDS[found.cpp_type]
    return f"a list of {wanted}" if found.is_repeated else wanted


def _hint(found: FieldDescriptor, entry: Any) -> str:
    if found.enum_type is None or not isinstance(entry, str):
        return ""
    near = nearest(entry, [value.name for value in found.enum_type.values])
    return f", did you mean {near}?" if near is not None else ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a map"
    return "a list" if isinstance(value, (list, tuple)) else str(value)
