"""And, or and not, for Envoy's two sorts of RBAC matchers: permissions (what is asked for) and principals (who asks).

There is one `always` and one `never` of each sort, told apart by identity: to compare messages costs more than to build
them. Envoy refuses sets that are empty, so nothing in here builds one: `one_of` of nothing never matches, `all_of` of
nothing always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal

__all__ = ["PERMISSIONS", "PRINCIPALS", "Logic"]

M = TypeVar("M", Permission, Principal)


class Logic(Generic[M]):
    """The connectives of one sort of matcher."""

    def __init__(self, kind: type[M], *, plural: str, member: str) -> None:
        self._kind = kind
        self._set = kind.Set
        self._plural = plural  # of the fields `and_...` and `or_...`
        self._member = member  # of what a set holds, and of the field `not_...`
        self.always: Final[M] = kind(any=True)
        self.never: Final[M] = kind(**{f"not_{member}": self.always})

    def all_of(self, parts: Sequence[M]) -> M:
        """Return what matches when all parts do."""
        needed = [part for part in parts if part is not self.always]
        if len(needed) < 2:
            return needed[0] if needed else self.always
        return self._kind(**{f"and_{self._plural}": self._set(**{self._plural: needed})})

    def one_of(self, parts: Sequence[M]) -> M:
        """Return what matches when one part does."""
        if any(part is self.always for part in parts):
            return self.always
        possible = [part for part in parts if part is not self.never]
        if len(possible) < 2:
            return possible[0] if possible else self.never
        return self._kind(**{f"or_{self._plural}": self._set(**{self._plural: possible})})

    def negated(self, part: M) -> M:
        """Return what matches when `part` does not."""
        if part is self.never:
            return self.always
        if part is self.always:
            return self.never
        return self._kind(**{f"not_{self._member}": part})


PERMISSIONS: Final = Logic(Permission, plural="rules", member="rule")
PRINCIPALS: Final = Logic(Principal, plural="ids", member="id")
