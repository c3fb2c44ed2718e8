"""Put one element into a list as a patch's operation says.

Rules: docs/api/EnvoyFilter.md "Operations". What names no target means the whole list: before it is its front, after it
its end. The first element that matches counts, but a removal takes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["changed_list"]

T = TypeVar("T")


def changed_list(
    elements: Sequence[T], operation: str, new: T | None, *, named: bool, matches: Callable[[T], bool]
) -> list[T] | None:
    """Return the list after one operation, None when it does not apply: nothing matches, or a target must be named."""
    items = list(elements)
    if operation == "REMOVE":
        rest = [item for item in items if not matches(item)]
        return rest if named and len(rest) < len(items) else None
    assert new is not None, operation
    if operation == "ADD" or (operation == "INSERT_AFTER" and not named):
        return [*items, new]
    if operation == "INSERT_FIRST" or (operation == "INSERT_BEFORE" and not named):
        return [new, *items]
    at = next((index for index, item in enumerate(items) if matches(item)), None) if named else None
    if at is None:
        return None
    if operation == "REPLACE":
        items[at] = new
    else:
        items.insert(at + (operation == "INSERT_AFTER"), new)
    return items
