"""Lists that a value is looked up in: texts, texts in any case, patterns, networks.

In:  what a rule or a file says. Out: a `ValueList`. Looking up costs the same however long the list is, but for
     patterns, which are tried one by one, each in linear time (RE2, the expression library's).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Protocol

from lateen.expr import library
from lateen.expr.errors import ExpressionError

__all__ = ["ListError", "ValueList", "build_list"]

MOST_ENTRIES: Final = 1_000_000
MOST_PATTERNS: Final = 1_000


class ListError(ValueError):
    """An entry that cannot be used, and where it stands, from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class ValueList(Protocol):
    def __contains__(self, value: object) -> bool: ...
    def __len__(self) -> int: ...


def build_list(kind: str, entries: Iterable[str]) -> ValueList:
    """Return the list. `kind` is a ListCheck's `type`. Raises: ListError."""
    listed = list(entries)
    most = MOST_PATTERNS if kind == "REGEX" else MOST_ENTRIES
    if len(listed) > most:
        raise ListError(f"at most {most} entries are allowed, got {len(listed)}", most)
    match kind:
        case "STRINGS":
            return frozenset(listed)
        case "CASE_INSENSITIVE_STRINGS":
            return _AnyCase(listed)
        case "REGEX":
            return _Patterns(listed)
    return _Networks(listed)


class _AnyCase:
    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = frozenset(entry.casefold() for entry in entries)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value.casefold() in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class _Patterns:
    """A value is in the list when one of its patterns matches all of it."""

    def __init__(self, entries: list[str]) -> None:
        self._compiled: list[Any] = []
        for position, entry in enumerate(entries):
            try:
                self._compiled.append(library.prepare_pattern(entry))
            except ExpressionError as error:
                raise ListError(
                    f"must be a regular expression (RE2): {error.message}, got {entry!r}", position
                ) from None

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and any(library.pattern_matches(one, value) for one in self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


class _Networks:
    """Networks by their length: one look for each length that occurs."""

    def __init__(self, entries: list[str]) -> None:
        self._by_length: dict[tuple[int, int], set[int]] = {}
        self._count = len(entries)
        for position, entry in enumerate(entries):
            try:
                network = ip_network(entry.strip(), strict=False)
            except ValueError:
                raise ListError(f"must be an IP address or a network, 10.0.0.0/8, got {entry!r}", position) from None
            size = network.max_prefixlen
            key = (size, network.prefixlen)
            self._by_length.setdefault(key, set()).add(int(network.network_address) >> (size - network.prefixlen))

    def __contains__(self, value: object) -> bool:
        try:
            address: IPv4Address | IPv6Address = ip_address(value)  # type: ignore[arg-type]  # it says what it takes
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number, size = int(address), address.max_prefixlen
        return any(
            number >> (size - length) in networks
            for (bits, length), networks in self._by_length.items()
            if bits == size
        )

    def __len__(self) -> int:
        return self._count
