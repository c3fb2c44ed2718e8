"""What is wrong with a resource given all others: what it refers to and is not there, and who goes before it.

One derived value a resource, so that a change is looked at by those it concerns, and by nobody else. A finding names a
field; its line is found when it is told, because a resource may move within its file without being another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lateen.api.base import Level, Object, Problem, ResourceKey
from lateen.flow import Derived

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    field: str  # `spec.http[0].route[0].destination.subset`
    message: str
    level: Level = "error"

    def of(self, obj: Object) -> Problem:
        """Return the finding at its place in `obj` as it is written now."""
        return obj.problem(self.field, self.message, self.level)


class Findings:
    """Follows the findings of every resource of the kinds it is given; `problems` is what stands now."""

    def __init__(self, by_kind: Mapping[str, Derived[ResourceKey, tuple[Finding, ...]]]) -> None:
        self._by_kind = by_kind
        self._followed: set[ResourceKey] = set()
        self._found: dict[ResourceKey, tuple[Finding, ...]] = {}
        for derived in by_kind.values():
            derived.graph.on_change(derived, self._changed)

    def follow(self, key: ResourceKey, *, exists: bool) -> None:
        """Take a resource that came, changed or went. Call it after the batch that did so."""
        derived = self._by_kind.get(key.kind)
        if derived is None:
            return
        if exists and key not in self._followed:
            self._followed.add(key)
            self._keep(key, derived.live(key, ()))
        elif not exists and key in self._followed:
            self._followed.discard(key)
            derived.release(key)
            self._keep(key, ())

    def problems(self, object_of: Callable[[ResourceKey], Object | None]) -> list[Problem]:
        """Return all findings as problems of the resources as they are written now."""
        return [
            finding.of(obj)
            for key, findings in self._found.items()
            if (obj := object_of(key)) is not None
            for finding in findings
        ]

    def _changed(self, changes: list[tuple[ResourceKey, tuple[Finding, ...] | None, tuple[Finding, ...]]]) -> None:
        for key, _, findings in changes:
            self._keep(key, findings)

    def _keep(self, key: ResourceKey, findings: tuple[Finding, ...]) -> None:
        if findings:
            self._found[key] = findings
        else:
            self._found.pop(key, None)
