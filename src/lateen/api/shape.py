"""Plain values to API structs: every fault of a value is told, not only the first one.

In:  a `Spec` struct and what YAML or JSON gave for it. Out: an instance of it, or `None`, and the faults by place.
Conventions of structs: `lateen.api.base`. One decoder function is made for each type, once, when it is first needed.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from lateen.api.base import FrozenMap, Spec
from lateen.api.frozen import freeze
from lateen.api.places import Place
from lateen.api.scalars import DurationRule, Quoted, duration_fault, parse_duration
from lateen.api.suggest import listed, nearest, seen

__all__ = ["Faults", "decode_struct", "struct_fields"]

T = TypeVar("T", bound=Spec)

Faults = list[tuple[Place, str]]
_Decode = Callable[[Any, Place, Faults], Any]

_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,20}\Z")
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")
_HINTS: Final = 100  # after so many faults none gets a hint any more: guessing costs a thousand times what telling does
_SHOWN_FIELDS: Final = 12  # how many known fields a message lists when none is near


class _Faulty:
    """What a decoder returns after it told a fault."""


_FAULTY: Final = _Faulty()


@dataclass(frozen=True, slots=True)
class _Field:
    name: str  # of the attribute
    yaml_name: str
    required: bool
    decode: _Decode


def decode_struct(struct: type[T], value: Any, place: Place, faults: Faults) -> T | None:
    """Return `value` as a `struct`; `None` when there was a fault, and then `faults` got every one of them."""
    decoded = _struct_decoder(struct)(value, place, faults)
    return None if decoded is _FAULTY else decoded


@cache  # bounded by the number of structs
def struct_fields(struct: type[Spec]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct; asking msgspec costs much more than asking twice."""
    return msgspec.structs.fields(struct)


# ---------------------------------------------------------------- structs


@cache
def _struct_decoder(struct: type[Spec]) -> _Decode:
    # The fields are looked at when the first value comes, so that a struct may hold its like.
    fields: dict[str, _Field] = {}
    aliases: dict[str, str] = {}
    one_of: list[tuple[str, ...]] = []
    name = _shown_name(struct)

    def prepare() -> None:
        infos = struct_fields(struct)
        yaml_names = {info.name: info.encode_name for info in infos}
        aliases.update((info.name.rstrip("_"), info.encode_name) for info in infos)
        one_of.extend(tuple(yaml_names[member] for member in group) for group in struct.ONE_OF)
        for info in infos:
            fields[info.encode_name] = _Field(info.name, info.encode_name, info.required, _decoder(info.type))

    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if not fields:
            prepare()
        if not isinstance(value, Mapping):
            faults.append((place, f"must be a map ({name}), got {seen(value)}"))
            return _FAULTY
        before = len(faults)
        given: dict[str, Any] = {}
        for key, entry in value.items():
            known = key if key in fields else aliases.get(key) or _camel(key)
            field = fields.get(known)
            if field is None:
                faults.append(((place, key), _unknown(key, name, fields, hint=len(faults) < _HINTS)))
            elif entry is not None:  # null is the same as absent
                if field.name in given:
                    faults.append(((place, key), f"is given twice, as {known} and in the spelling {key}"))
                given[field.name] = field.decode(entry, (place, key), faults)
        for field in fields.values():
            if field.required and field.name not in given:
                faults.append(((place, field.yaml_name), f"is required in {name}"))
        for group in one_of:
            both = [member for member in group if fields[member].name in given]
            if len(both) > 1:
                faults.append(((place, both[1]), f"only one of {listed(group)} may be set, got {' and '.join(both)}"))
        return struct(**given) if len(faults) == before else _FAULTY

    return decode


def _shown_name(struct: type[Spec]) -> str:
    return struct.__name__.removesuffix("Body")


def _camel(key: Any) -> str:
    first, *rest = str(key).split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _unknown(key: Any, name: str, fields: Mapping[str, _Field], *, hint: bool) -> str:
    near = nearest(str(key), fields) if hint else None
    if near is not None:
        return f"is not a field of {name}, did you mean {near}?"
    shown = listed(sorted(fields)[:_SHOWN_FIELDS]) + (", ..." if len(fields) > _SHOWN_FIELDS else "")
    return f"is not a field of {name}, which has {shown}"


# ---------------------------------------------------------------- types


def _decoder(tp: Any, meta: tuple[Any, ...] = ()) -> _Decode:
    """Return the decoder of a type as a struct's field has it; raises `TypeError` for one that none is made for."""
    origin = get_origin(tp)
    if origin is Annotated:
        inner, *more = get_args(tp)
        return _decoder(inner, (*meta, *more))
    if origin in (Union, types.UnionType):
        return _union(tp, meta)
    if origin is Literal:
        return _enum(get_args(tp))
    if origin is tuple:
        return _limited(_list(_decoder(get_args(tp)[0])), meta, "entries")
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        key, entry = get_args(tp)
        return _limited(_map(key is int, _decoder(entry), free=entry is Any), meta, "entries")
    if tp is Any:
        return _free
    if tp is str:
        return _limited(_text, meta, "characters")
    if tp is bool:
        return _bool
    if tp is int:
        return _bounded(_int(quoted=any(isinstance(entry, Quoted) for entry in meta)), meta)
    if tp is float:
        return _bounded(_float, meta)
    if tp is bytes:
        return _bytes
    if tp is timedelta:
        return _duration(next((entry for entry in meta if isinstance(entry, DurationRule)), DurationRule()))
    if isinstance(tp, type) and issubclass(tp, Spec):
        return _struct_decoder(tp)
    raise TypeError(f"no decoder for {tp!r}")


def _union(tp: Any, meta: tuple[Any, ...]) -> _Decode:
    members = [member for member in get_args(tp) if member is not type(None)]
    if len(members) == 1:
        return _decoder(members[0], meta)
    if set(members) == {int, str}:
        return _int_or_text
    raise TypeError(f"no decoder for {tp!r}")


def _enum(names: tuple[str, ...]) -> _Decode:
    known = frozenset(names)

    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if isinstance(value, str) and value in known:
            return value
        near = nearest(value, names) if isinstance(value, str) and len(faults) < _HINTS else None
        hint = f"; did you mean {near}?" if near is not None else ""
        faults.append((place, f"must be one of {listed(names)}, got {seen(value)}{hint}"))
        return _FAULTY

    return decode


def _list(entry: _Decode) -> _Decode:
    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if not isinstance(value, (list, tuple)):
            faults.append((place, f"must be a list, got {seen(value)}"))
            return _FAULTY
        decoded = []
        for position, element in enumerate(value):
            if element is None:
                faults.append(((place, position), "must not be null"))
            else:
                decoded.append(entry(element, (place, position), faults))
        return tuple(decoded)

    return decode


def _map(numbered: bool, entry: _Decode, *, free: bool) -> _Decode:
    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if not isinstance(value, Mapping):
            faults.append((place, f"must be a map, got {seen(value)}"))
            return _FAULTY
        decoded: dict[Any, Any] = {}
        for key, element in value.items():
            below = (place, key)
            if numbered and not isinstance(key, int):
                if not _INTEGER.match(key):
                    faults.append((below, f"must have a whole number for a key, got {seen(key)}"))
                    continue
                key = int(key)
            elif not numbered and not isinstance(key, str):
                faults.append((below, f"must have text for a key, got {seen(key)}"))
                continue
            if element is None and not free:
                faults.append((below, "must not be null"))
            elif key in decoded:
                faults.append((below, f"is given twice, the key {key} before in another spelling"))
            else:
                decoded[key] = entry(element, below, faults)
        return FrozenMap(decoded)

    return decode


# ---------------------------------------------------------------- scalars


def _free(value: Any, place: Place, faults: Faults) -> Any:
    return freeze(value)


def _text(value: Any, place: Place, faults: Faults) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        faults.append((place, f"must be text, got the boolean {seen(value)}; put it in quotes"))
    elif isinstance(value, (int, float)):
        faults.append((place, f"must be text, got the number {seen(value)}; put it in quotes"))
    else:
        faults.append((place, f"must be text, got {seen(value)}"))
    return _FAULTY


def _bool(value: Any, place: Place, faults: Faults) -> Any:
    if isinstance(value, bool):
        return value
    quoted = isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off")
    faults.append((place, f"must be true or false, got {seen(value)}{'; take the quotes away' if quoted else ''}"))
    return _FAULTY


def _int(*, quoted: bool) -> _Decode:
    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():  # 1e3 is a whole number too
            return int(value)
        number = isinstance(value, str) and _INTEGER.match(value) is not None
        if quoted and number:
            return int(value)
        faults.append((place, f"must be a whole number, got {seen(value)}{'; take the quotes away' if number else ''}"))
        return _FAULTY

    return decode


def _float(value: Any, place: Place, faults: Faults) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    faults.append((place, f"must be a number, got {seen(value)}"))
    return _FAULTY


def _int_or_text(value: Any, place: Place, faults: Faults) -> Any:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    faults.append((place, f"must be a whole number or text, got {seen(value)}"))
    return _FAULTY


def _bytes(value: Any, place: Place, faults: Faults) -> Any:
    if isinstance(value, str):
        try:
            # Wrapped lines are taken, as Go's decoder takes them.
            return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
            pass
    faults.append((place, f"must be base64 text, got {seen(value)}"))
    return _FAULTY


def _duration(rule: DurationRule) -> _Decode:
    def decode(value: Any, place: Place, faults: Faults) -> Any:
        if not isinstance(value, str):
            faults.append((place, f"must be a duration as in 1.5s or 1h30m, got {seen(value)}"))
            return _FAULTY
        try:
            duration = parse_duration(value)
        except ValueError as error:
            faults.append((place, f"{error}, got {seen(value)}"))
            return _FAULTY
        wrong = _negative(duration) if rule.free else duration_fault(duration)
        if wrong is not None:
            faults.append((place, f"{wrong}, got {seen(value)}"))
            return _FAULTY
        return duration

    return decode


def _negative(duration: timedelta) -> str | None:
    return "must not be negative" if duration < timedelta(0) else None


# ---------------------------------------------------------------- msgspec.Meta


def _limited(decode: _Decode, meta: tuple[Any, ...], unit: str) -> _Decode:
    """Add `min_length`, `max_length` and `pattern`."""
    limits = [entry for entry in meta if isinstance(entry, msgspec.Meta)]
    if not limits:
        return decode
    least = max((limit.min_length for limit in limits if limit.min_length is not None), default=0)
    most = min((limit.max_length for limit in limits if limit.max_length is not None), default=math.inf)
    patterns = [re.compile(limit.pattern) for limit in limits if limit.pattern is not None]

    def decode_limited(value: Any, place: Place, faults: Faults) -> Any:
        decoded = decode(value, place, faults)
        if decoded is _FAULTY:
            return decoded
        if not least <= len(decoded) <= most:
            wanted = f"at least {least}" if len(decoded) < least else f"at most {most}"
            faults.append((place, f"must have {wanted} {unit}, got {len(decoded)}"))
            return _FAULTY
        for pattern in patterns:
            if pattern.search(decoded) is None:
                faults.append((place, f"must match {pattern.pattern}, got {seen(decoded)}"))
                return _FAULTY
        return decoded

    return decode_limited


def _bounded(decode: _Decode, meta: tuple[Any, ...]) -> _Decode:
    """Add `ge`, `le`, `gt`, `lt`."""
    limits = [entry for entry in meta if isinstance(entry, msgspec.Meta)]
    if not limits:
        return decode
    least = max((limit.ge for limit in limits if limit.ge is not None), default=-math.inf)
    most = min((limit.le for limit in limits if limit.le is not None), default=math.inf)
    above = max((limit.gt for limit in limits if limit.gt is not None), default=-math.inf)
    below = min((limit.lt for limit in limits if limit.lt is not None), default=math.inf)
    wanted = " and ".join(
        text
        for text, limit in (
            (f"at least {least}", least),
            (f"more than {above}", above),
            (f"at most {most}", most),
            (f"less than {below}", below),
        )
        if math.isfinite(limit)
    )

    def decode_bounded(value: Any, place: Place, faults: Faults) -> Any:
        decoded = decode(value, place, faults)
        if decoded is _FAULTY or (least <= decoded <= most and above < decoded < below):
            return decoded
        faults.append((place, f"must be {wanted}, got {seen(decoded)}"))
        return _FAULTY

    return decode_bounded
