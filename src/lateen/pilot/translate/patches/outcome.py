"""What patches did to one resource, kept beside it: which acted, and why others could not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.xds.source import Resource

__all__ = ["Again", "Mark", "Marked", "MarkedResource", "Trace", "marks_of"]


@dataclass(frozen=True, slots=True)
class Mark:
    """The patches that acted on one resource, and those that matched and could not, with the reason."""

    name: str  # of the resource, which may be removed
    touched: tuple[PatchId, ...] = ()
    failed: tuple[tuple[PatchId, str], ...] = ()


class Trace:
    """Gathers a mark while a resource is patched."""

    def __init__(self) -> None:
        self._touched: set[PatchId] = set()
        self._failed: dict[PatchId, str] = {}

    def hit(self, patch: Patch) -> None:
        self._touched.add(patch.id)

    def failed(self, patch: Patch, reason: str) -> None:
        self._failed.setdefault(patch.id, reason)

    def include(self, mark: Mark) -> None:
        """Take over what was noted of a part."""
        self._touched.update(mark.touched)
        self._failed.update(mark.failed)

    def mark(self, name: str) -> Mark | None:
        """Return the mark; None when nothing acted."""
        if not self._touched and not self._failed:
            return None
        return Mark(name, tuple(sorted(self._touched)), tuple(sorted(self._failed.items())))


# Makes a resource again without some patches; None when it is removed then.
Again = Callable[[frozenset[PatchId]], "Resource | None"]


@dataclass(frozen=True, slots=True)
class MarkedResource(Resource):
    """A resource that patches acted on."""

    mark: Mark = Mark("")
    again: Again | None = field(default=None, compare=False, repr=False)


class Marked(tuple[Resource, ...]):
    """The resources of one part, with the marks of all that patches acted on, removed ones included."""

    marks: tuple[Mark, ...]

    def __new__(cls, resources: Iterable[Resource], marks: Iterable[Mark]) -> Marked:
        made = super().__new__(cls, resources)
        made.marks = tuple(marks)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Marked) and self.marks == other.marks and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def marks_of(value: object) -> tuple[Mark, ...]:
    """Return the marks of what one derived value holds: a part, one resource, or nothing."""
    if type(value) is tuple or value is None:
        return ()
    if isinstance(value, Marked):
        return value.marks
    return (value.mark,) if isinstance(value, MarkedResource) else ()
