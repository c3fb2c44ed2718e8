"""A map that cannot change and can be hashed, so that values which hold it can be keys of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

__all__ = ["EMPTY", "FrozenMap", "freeze"]

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(dict[K, V]):
    """A dict without the ways to change it. Equal to any dict of the same content; order does not count."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # dict says None, because a dict can change
        return hash(frozenset(self.items()))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a decoded map cannot be changed; make a new one")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenMap, (dict(self),))


EMPTY: Mapping[Any, Any] = FrozenMap()


def freeze(value: Any) -> Any:
    """Return a plain value with its maps frozen and its lists made tuples, all the way down."""
    if isinstance(value, Mapping):
        return FrozenMap((key, freeze(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(freeze(entry) for entry in value)
    return value
