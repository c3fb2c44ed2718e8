"""Which patch acts where, as it changes: counted when a part of a slice changes, never gathered from all of them.

A `Keeper` belongs to one scope and is told by its slices what stands in each part; the `Ledger` adds all scopes up. A
patch that is for a proxy in use and acts nowhere is `idle`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from lateen.pilot.model.envoy_filters import Patch, PatchId
from lateen.pilot.translate.patches.outcome import Mark, marks_of
from lateen.pilot.xds.type_urls import short_name

__all__ = ["Keeper", "Ledger"]

_AT_START = "BOOTSTRAP"  # acts before there is anything to count


class Ledger:
    """Sums over all scopes in use."""

    def __init__(self) -> None:
        self.idle: dict[PatchId, int] = {}  # how many scopes have it for nothing
        self.failures: Counter[tuple[PatchId, str]] = Counter()  # (patch, reason) -> resources
        self._places: Counter[PatchId] = Counter()
        self._selected: Counter[PatchId] = Counter()

    def add(self, marks: Iterable[Mark], sign: int) -> None:
        for mark in marks:
            for patch in mark.touched:
                self._places[patch] += sign
                self._judge(patch)
            for failure in mark.failed:
                self.failures[failure] += sign
                if not self.failures[failure]:
                    del self.failures[failure]

    def select(self, patches: Iterable[Patch], sign: int) -> None:
        for patch in patches:
            if patch.apply_to != _AT_START:
                self._selected[patch.id] += sign
                self._judge(patch.id)

    def _judge(self, patch: PatchId) -> None:
        selected, places = self._selected[patch], self._places[patch]
        if not selected:
            del self._selected[patch]
        if not places:
            del self._places[patch]
        if selected and not places:
            self.idle[patch] = selected
        else:
            self.idle.pop(patch, None)


class Keeper:
    """The marks of one scope."""

    def __init__(self, ledger: Ledger) -> None:
        self.selected: tuple[Patch, ...] = ()
        self.counts: Counter[tuple[PatchId, str]] = Counter()  # (patch, "CDS") -> resources
        self._ledger = ledger
        self._parts: dict[tuple[str, Hashable], tuple[Mark, ...]] = {}

    def put(self, type_url: str, part: Hashable, value: object) -> None:
        """Note what a slice holds in one part now: resources, one resource, or nothing."""
        marks = marks_of(value)
        if marks or self._parts:
            before = self._parts.pop((type_url, part), ())
            if marks:
                self._parts[type_url, part] = marks
            self._add(type_url, before, -1)
            self._add(type_url, marks, 1)

    def select(self, patches: tuple[Patch, ...]) -> None:
        """Note which patches are for the scope's proxies."""
        before, self.selected = self.selected, patches
        self._ledger.select(patches, 1)
        self._ledger.select(before, -1)

    def close(self) -> None:
        """Take everything back: the scope is used no more."""
        for (type_url, _), marks in self._parts.items():
            self._add(type_url, marks, -1)
        self._parts.clear()
        self.select(())

    def mark(self, type_url: str, name: str) -> Mark | None:
        """Return the mark of one resource; looks through those that have some."""
        for (marked_type, _), marks in self._parts.items():
            for mark in marks if marked_type == type_url else ():
                if mark.name == name:
                    return mark
        return None

    def _add(self, type_url: str, marks: tuple[Mark, ...], sign: int) -> None:
        word = short_name(type_url)
        for mark in marks:
            for patch in mark.touched:
                self.counts[patch, word] += sign
                if not self.counts[patch, word]:
                    del self.counts[patch, word]
        self._ledger.add(marks, sign)
