"""Header mutations of a VirtualService: names, and values with Envoy's `%OPERATORS%`.

Rule ids (VS-27..31) are those of docs/api/VirtualService.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.format_syntax import operator_fault
from lateen.api.places import join_path
from lateen.api.virtual_service import HeaderOperations, Headers, HTTPRoute

__all__ = ["check_headers", "format_fault", "host_writes", "is_claim_key", "is_whole_claim_key", "operators_fault"]

AUTHORITY: Final = ":authority"
_HOST_KEYS: Final = frozenset({"host", AUTHORITY})
_CLAIMS: Final = "@request.auth.claims"
_CLAIM_PATH: Final = re.compile(r"(\.[^.\[\]]+)+|(\[[^\[\]]+\])+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OPERATOR: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_LENGTH: Final = re.compile(r":[0-9]{1,9}")
_CLOSE: Final = re.compile(r"\)(?=%|:[0-9]+%)")


def is_claim_key(name: str) -> bool:
    """True for a key that means a claim of a JWT, not a header."""
    return name.lower().startswith((f"{_CLAIMS}.", f"{_CLAIMS}["))


def is_whole_claim_key(name: str) -> bool:
    """True for a claim's key that names a claim in one of the two ways, dots or brackets."""
    return _CLAIM_PATH.fullmatch(name[len(_CLAIMS) :]) is not None


def check_headers(obj: Object, headers: Headers | None, path: str) -> Iterator[Problem]:
    """Yield the faults of `headers` of a rule or of a destination."""
    if headers is None:
        return
    if headers.request is not None:
        yield from _check_operations(obj, headers.request, f"{path}.request", authority=True)
    if headers.response is not None:
        yield from _check_operations(obj, headers.response, f"{path}.response", authority=False)


def host_writes(route: HTTPRoute) -> list[str]:
    """Return the fields of a rule that write the upstream request's host, below the rule; more than one is a fault."""
    found = ["rewrite.authority"] if route.rewrite is not None and route.rewrite.authority else []
    request = route.headers.request if route.headers is not None else None
    if request is not None:
        for name, values in (("set", request.set), ("add", request.add)):
            found.extend(join_path(f"headers.request.{name}", key) for key in values if key.lower() in _HOST_KEYS)
    return found


def _check_operations(obj: Object, operations: HeaderOperations, path: str, *, authority: bool) -> Iterator[Problem]:
    for name, values in (("set", operations.set), ("add", operations.add)):
        for key, value in values.items():
            place = join_path(f"{path}.{name}", key)
            if authority:
                if not key or (key.startswith(":") and key.lower() != AUTHORITY):  # VS-27
                    yield obj.problem(place, f'must be a header, host or :authority, got "{key}"')
            else:
                yield from _check_plain_name(obj, key, place)
            fault = format_fault(value)
            if fault is not None:  # VS-29, VS-30
                yield obj.problem(place, fault)
    for i, key in enumerate(operations.remove):
        yield from _check_plain_name(obj, key, f"{path}.remove[{i}]")


def _check_plain_name(obj: Object, key: str, path: str) -> Iterator[Problem]:
    if not key or key.startswith(":") or key.lower() == "host":  # VS-28
        yield obj.problem(path, f'must be a header other than the host and pseudo headers, got "{key}"')


def format_fault(value: str) -> str | None:
    """Return what is wrong with a header's value, None when nothing is."""
    control = _CONTROL.search(value)
    if control is not None:
        return f"must not hold control characters, got 0x{ord(control[0]):02x} at {control.start()}"
    return operators_fault(value)


def operators_fault(value: str) -> str | None:
    """Return what is wrong with the `%OPERATORS%` of a text, None when nothing is."""
    at = value.find("%")
    while at >= 0:
        if value.startswith("%%", at):
            at = value.find("%", at + 2)
            continue
        end, fault = _operator(value, at)
        if fault is not None:
            return f'{fault}, got "{value[at : at + 40]}"; a percent sign itself is %%'
        at = value.find("%", end)
    return None


def _operator(value: str, start: int) -> tuple[int, str | None]:
    """Read `%NAME%`, `%NAME(argument)%` or `%NAME(argument):10%`; return where it ends, or what is wrong."""
    name = _OPERATOR.match(value, start + 1)
    if name is None:
        return start, f'has a "%" at {start} that begins no operator'
    at = name.end()
    argument = None
    if value.startswith("(", at):
        close = _CLOSE.search(value, at)  # an argument may have brackets of its own
        if close is None:
            return start, f'has a "(" at {at} without ")"'
        argument = value[at + 1 : close.start()]
        if argument.startswith("[") and not _is_text_list(argument):
            return start, f"must have a list of texts for an argument at {at}"
        at = close.start() + 1
    if length := _LENGTH.match(value, at):
        at = length.end()
    if not value.startswith("%", at):
        return start, f'has a "%" at {start} that no other one ends'
    return at + 1, operator_fault(name[0], argument, length=length is not None)


def _is_text_list(argument: str) -> bool:
    try:
        entries = json.loads(argument)
    except ValueError:
        return False
    return isinstance(entries, list) and bool(entries) and all(isinstance(entry, str) for entry in entries)
