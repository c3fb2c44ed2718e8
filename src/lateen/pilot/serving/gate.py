"""What of the wanted resources proxies are served: those that Envoy takes, and the last good ones for those it refuses.

Decides; `tasting.py` asks the Envoy. A resource that is refused is *held back*: its last good version stays served, or
it is left out where there never was one. In a route configuration that goes for the bad virtual hosts alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lateen.pilot.taste.book import Book
from lateen.pilot.taste.probe import needs_no_taste
from lateen.pilot.translate.patches.outcome import marks_of
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import RDS, SDS

__all__ = ["Gate", "Held", "Patch", "Place"]

MAX_LAST_GOOD = 1_000  # resources that are held back, of scopes that nobody uses now


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a resource is served: one name in one scope."""

    scope: str  # of a view or a workload, as `scopes.py` names it
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Patch:
    """What is served for one refused resource, as long as neither it nor what was served before changes.

    A route configuration keeps its good virtual hosts; what EnvoyFilters patched is served without the bad patches.
    """

    wanted: str  # version of the refused one
    served: str  # version that the old virtual hosts are from, "" for none
    resource: Resource | None  # None: it cannot be taken apart
    bad: tuple[str, ...] = ()  # names of the virtual hosts that were refused, or of the patches
    words: str = ""  # Envoy's, about the first of them
    suspects: tuple[str, ...] = ()  # paths of resources of the API that the refused routes name


@dataclass(frozen=True, slots=True)
class Held:
    """A resource that is held back."""

    place: Place
    version: str  # of the refused content
    words: str  # Envoy's
    instead: str  # what proxies are served, for people
    suspects: tuple[str, ...] = ()


class Gate:
    """Verdicts, and what stands instead of what was refused."""

    def __init__(self) -> None:
        self.active = False  # something tastes; else everything passes
        self.book = Book()
        self.held: dict[Place, Held] = {}
        self.last_good: dict[Place, Resource] = {}
        self.changed = False  # `held` is not what was told last
        self.on_held: Callable[[Held], None] | None = None
        self._patches: dict[Place, Patch] = {}

    def unjudged(self, type_url: str, resource: Resource) -> bool:
        """Tell whether a resource must be tasted before it may be served."""
        if not self.active or self.book.verdict(resource.version) is not None:
            return False
        if needs_no_taste(type_url, resource):
            self.book.write(resource.version, "")
            return False
        return True

    def unpatched(self, place: Place, wanted: Resource, served: Resource | None) -> bool:
        """Tell whether a refused route configuration, or one that was patched, still has to be taken apart."""
        apart = place.type_url == RDS or marks_of(wanted)
        if not self.active or not apart or not self.book.verdict(wanted.version):
            return False
        patch = self._patches.get(place)
        last = self.last_of(place, served)
        return patch is None or (patch.wanted, patch.served) != (wanted.version, last.version if last else "")

    def last_of(self, place: Place, served: Resource | None) -> Resource | None:
        """Return the last good version: what is served, or what was when the scope was last in use."""
        return served if served is not None else self.last_good.get(place)

    def stands_in(self, place: Place, last: Resource | None) -> bool:
        """Tell whether nothing good of its own stands at a place: only what was left of a refused one, or nothing."""
        patch = self._patches.get(place)
        standing = patch.resource if patch is not None else None
        return last is None or (standing is not None and standing.version == last.version)

    def patch(self, place: Place, patch: Patch) -> None:
        self._patches[place] = patch

    def choose(self, place: Place, wanted: Resource | None, served: Resource | None) -> Resource | None:
        """Return what is served at a place whose wanted content is judged."""
        words = self.book.verdict(wanted.version) if wanted is not None and self.active else ""
        if not words or wanted is None:
            self.free(place)
            return wanted
        patch = self._patches.get(place)
        last = self.last_of(place, served)
        instead, told = last, "the last good version stays" if last is not None else "it is left out"
        suspects: tuple[str, ...] = ()
        if patch is not None and patch.wanted == wanted.version:
            suspects, words = patch.suspects, patch.words or words
        if patch is not None and patch.wanted == wanted.version and patch.resource is not None:
            instead = patch.resource
            told = f"{' and '.join(patch.bad[:3])} stays as it was, or is left out; the rest is served"
            # What is served now is the one that the next patch is made with.
            self._patches[place] = Patch(patch.wanted, instead.version, instead, patch.bad, patch.words, patch.suspects)
        self._hold(Held(place, wanted.version, words, told, suspects), instead)
        return instead

    def _hold(self, held: Held, instead: Resource | None) -> None:
        before = self.held.get(held.place)
        self.held[held.place] = held
        if instead is not None and held.place.type_url != SDS:  # keys are kept nowhere
            self.last_good.pop(held.place, None)
            self.last_good[held.place] = instead
            if len(self.last_good) > MAX_LAST_GOOD:
                del self.last_good[next(iter(self.last_good))]
        if before != held:
            self.changed = True
            if self.on_held is not None:
                self.on_held(held)

    def free(self, place: Place) -> None:
        """Note that nothing is held back at a place any more."""
        self._patches.pop(place, None)
        self.last_good.pop(place, None)
        if self.held.pop(place, None) is not None:
            self.changed = True

    def leave(self, scope: str) -> None:
        """Note that nobody uses a scope now. Its last good resources are kept: it may be used again."""
        for place in [place for place in self.held if place.scope == scope]:
            del self.held[place]
            self._patches.pop(place, None)
            self.changed = True
