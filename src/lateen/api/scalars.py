"""Scalars of the API beyond Python's own, and how each is written in YAML.

`Duration` is a `datetime.timedelta` written as Go writes it, `1h30m`, `1.5s`: at least 1ms and whole milliseconds.
`FreeDuration` may be anything from 0s up, to the microsecond. `Bytes` is base64. `Int64` is a number, quoted or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from msgspec import Meta

__all__ = [
    "Bytes",
    "Double",
    "Duration",
    "DurationRule",
    "FreeDuration",
    "Int32",
    "Int64",
    "IntOrString",
    "Mapping",
    "Port",
    "Quoted",
    "UInt32",
    "UInt64",
    "duration_fault",
    "format_duration",
    "parse_duration",
]

MILLISECOND: Final = timedelta(milliseconds=1)
# The largest google.protobuf.Duration is 10,000 years; a signed 64-bit count of nanoseconds, as Go has it, ends here.
MAX_HOURS: Final = 2_562_047


@dataclass(frozen=True, slots=True)
class DurationRule:
    """In `Annotated[timedelta, ...]`: what a duration may be. Free: 0s and fractions of a millisecond too."""

    free: bool = False


@dataclass(frozen=True, slots=True)
class Quoted:
    """In `Annotated[int, ...]`: a quoted number is taken too, as JSON writes 64-bit integers."""


Duration = Annotated[timedelta, DurationRule()]
FreeDuration = Annotated[timedelta, DurationRule(free=True)]
Bytes = bytes
Double = float
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int64 = Annotated[int, Quoted(), Meta(ge=-(2**63), le=2**63 - 1)]
UInt64 = Annotated[int, Quoted(), Meta(ge=0, le=2**63 - 1)]  # Meta takes no bound beyond a signed 64-bit one
Port = Annotated[int, Meta(ge=1, le=65535)]
IntOrString = int | str  # Kubernetes: a port's number or its name

_UNIT_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]{1,19})?(?:\.([0-9]{0,18}))?(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> timedelta:
    """Return what `text` means; raises `ValueError` when it is not a duration, or finer than a microsecond."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return timedelta(0)
    total = 0
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not (part[1] or part[2]):
            break
        unit = _UNIT_NANOSECONDS[part[3]]
        total += int(part[1] or 0) * unit
        if part[2]:
            total += int(part[2]) * unit // 10 ** len(part[2])
        at = part.end()
    if not rest or at < len(rest):
        raise ValueError("must be a duration as in 1.5s or 1h30m")
    if total > MAX_HOURS * _UNIT_NANOSECONDS["h"]:
        raise ValueError(f"must be a duration of at most {MAX_HOURS}h")
    if total % 1_000:
        raise ValueError("must be a duration of whole microseconds")
    return timedelta(microseconds=sign * total // 1_000)


def duration_fault(value: timedelta) -> str | None:
    """Return what is wrong with a duration that must be at least 1ms and whole milliseconds, None when nothing is."""
    if value < MILLISECOND:
        return "must be at least 1ms"
    if value % MILLISECOND:
        return "must be a whole number of milliseconds"
    return None


def format_duration(value: timedelta) -> str:
    """Return a text that `parse_duration` reads back as `value`, in the largest unit that leaves no remainder."""
    microseconds = value // timedelta(microseconds=1)
    if microseconds == 0:
        return "0s"
    for unit in ("h", "m", "s", "ms"):
        size = _UNIT_NANOSECONDS[unit] // 1_000
        if microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{microseconds}us"
