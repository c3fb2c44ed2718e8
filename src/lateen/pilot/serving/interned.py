"""Distinct things, made once each and shared by all that need them, for as long as somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

import msgspec

__all__ = ["Interned"]


class Interned:
    """Makes each distinct thing once. Nothing is kept that nobody uses."""

    def __init__(self) -> None:
        self._made: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        self.made = 0
        self._encode = msgspec.msgpack.Encoder(enc_hook=_plain, order="deterministic").encode

    def __call__(self, build: Callable[[Any], Any], argument: Any) -> Any:
        """Return `build(argument)`, the same object for an equal argument."""
        return self.keyed(build.__qualname__, argument, build, argument)

    def keyed(self, name: str, key_of: Any, build: Callable[[Any], Any], argument: Any) -> Any:
        """Return `build(argument)`, the same object for an equal name and an equal `key_of`, which stand for it."""
        key = blake2b(name.encode() + b"\\0" + self._encode(key_of), digest_size=20).digest()
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = build(argument)
            self.made += 1
        return found


def _plain(value: Any) -> Any:
    """Spell for msgpack what it does not know: subclasses of timedelta, mappings, sets."""
    total = getattr(value, "total_seconds", None)
    if total is not None:
        return total()
    if isinstance(value, Iterable):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a translation's input")
