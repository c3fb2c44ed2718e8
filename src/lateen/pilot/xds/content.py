"""Content that streams share: slices as they were last told, and what one subscription sees of them.

`Library` owns it. A `Feed` mirrors one slice, once, however many streams read it. A `Cohort` is one subscription to
one scope, shared by all streams that have the same one; routing a change is then a set intersection a cohort. Names
of a feed are refcounted by cohorts, so the slice is asked and released once a cohort, not once a stream.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from lateen.pilot.xds.frames import delta_prefix, delta_response, sotw_prefix
from lateen.pilot.xds.references import references
from lateen.pilot.xds.source import Delta, Resource, Slice
from lateen.pilot.xds.state import Subscription, Versions

if TYPE_CHECKING:
    from lateen.pilot.xds.stream import Stream

__all__ = ["Cohort", "Entry", "Feed", "Library", "Touched", "digest_of"]

_DIGEST_BYTES: Final = 8  # of a set of names and versions; for people, and for a state-of-the-world client's memory


class Entry:
    """One resource with what is worked out from it, once for all streams."""

    __slots__ = ("__weakref__", "_delta", "_delta_version", "_references", "_sotw", "resource", "type_url")

    def __init__(self, type_url: str, resource: Resource) -> None:
        self.type_url = type_url
        self.resource = resource
        self._delta = b""
        self._delta_version = ""
        self._sotw = b""
        self._references: tuple[str, ...] | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.resource.body)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the resources that this one makes a proxy ask for."""
        if self._references is None:
            self._references = references(self.type_url, self.resource.body)
        return self._references

    def delta_parts(self, version: str) -> tuple[bytes, bytes]:
        """Return prefix and body for a delta response, under the version that the stream is told."""
        if self._delta_version != version:
            self._delta = delta_prefix(self.resource.name, version, len(self.resource.body))
            self._delta_version = version
        return self._delta, self.resource.body

    def sotw_parts(self) -> tuple[bytes, bytes]:
        self._sotw = self._sotw or sotw_prefix(len(self.resource.body))
        return self._sotw, self.resource.body


class Feed:
    """One slice as the streams were last told: all of it for wildcards, else the names that somebody wants."""

    __slots__ = ("_parents", "_wanted", "_whole", "cohorts", "current", "library", "source")

    def __init__(self, source: Slice, library: Library) -> None:
        self.source = source
        self.library = library
        self.current: dict[str, Entry] = {}
        self.cohorts: dict[Cohort, None] = {}  # in order of arrival
        self._whole = 0  # wildcard cohorts
        self._wanted: dict[str, int] = {}  # name -> cohorts
        self._parents: dict[str, set[str]] | None = None

    def join(self, cohort: Cohort) -> None:
        self.cohorts[cohort] = None
        if cohort.subscription.wildcard:
            self._whole += 1
            if self._whole == 1:
                for resource in self.source.all().values():
                    self._put(resource)
        for name in cohort.subscription.names:
            count = self._wanted.get(name, 0)
            self._wanted[name] = count + 1
            if count == 0:
                resource_or_none = self.source.get(name)
                if resource_or_none is not None:
                    self._put(resource_or_none)

    def leave(self, cohort: Cohort) -> None:
        del self.cohorts[cohort]
        for name in cohort.subscription.names:
            self._wanted[name] -= 1
            if self._wanted[name] == 0:
                del self._wanted[name]
                self.source.release(name)
                if not self._whole:
                    self._drop(name)
        if cohort.subscription.wildcard:
            self._whole -= 1
            if self._whole == 0:
                for name in [n for n in self.current if n not in self._wanted]:
                    self._drop(name)

    def follows(self, name: str) -> bool:
        return bool(self._whole) or name in self._wanted

    def apply(self, delta: Delta) -> None:
        for resource in delta.changed:
            if self.follows(resource.name):
                self._put(resource)
        for name in delta.removed:
            self._drop(name)

    def parents(self, child: str) -> Collection[str]:
        """Return names of the resources here that refer to `child`."""
        if self._parents is None:
            self._parents = {}
            for name, entry in self.current.items():
                for ref in entry.references:
                    self._parents.setdefault(ref, set()).add(name)
        return self._parents.get(child, ())

    def _put(self, resource: Resource) -> None:
        old = self.current.get(resource.name)
        if old is not None and old.resource.version == resource.version:
            return
        self._unlink(old)
        entry = self.library.entry(self.source.type_url, resource)
        self.current[resource.name] = entry
        if self._parents is not None:
            for ref in entry.references:
                self._parents.setdefault(ref, set()).add(resource.name)

    def _drop(self, name: str) -> None:
        self._unlink(self.current.pop(name, None))

    def _unlink(self, old: Entry | None) -> None:
        if old is None or self._parents is None:
            return
        for ref in old.references:
            names = self._parents.get(ref)
            if names is not None:
                names.discard(old.resource.name)
                if not names:
                    del self._parents[ref]


class Cohort:
    """One subscription to the slices of one scope, and the streams that have it. What `state.Content` asks for."""

    __slots__ = ("_digest", "feeds", "streams", "subscription", "type_url")

    def __init__(self, type_url: str, feeds: tuple[Feed, ...], subscription: Subscription) -> None:
        self.type_url = type_url
        self.feeds = feeds
        self.subscription = subscription
        self.streams: dict[Stream, None] = {}  # in order of arrival
        self._digest: str | None = None

    def entry(self, name: str) -> Entry | None:
        """Return what is served under a name: of several slices that have it, the first one's."""
        for feed in self.feeds:
            entry = feed.current.get(name)
            if entry is not None:
                return entry
        return None

    def version(self, name: str) -> str | None:
        return _version(self.entry(name))

    def names(self) -> Collection[str]:
        if not self.subscription.wildcard:
            return [name for name in self.subscription.names if self.entry(name) is not None]
        if len(self.feeds) == 1:
            return self.feeds[0].current.keys()
        return dict.fromkeys(name for feed in self.feeds for name in feed.current)

    def parents(self, child: str) -> Iterator[str]:
        for feed in self.feeds:
            yield from feed.parents(child)

    def digest(self) -> str:
        """Return a short version of the whole."""
        if self._digest is None:
            self._digest = digest_of((name, self.version(name)) for name in self.names())
        return self._digest

    def changed(self) -> None:
        self._digest = None


@dataclass(frozen=True, slots=True)
class Touched:
    """One cohort that sees a difference."""

    cohort: Cohort
    before: Versions  # of the names that differ
    entries: Mapping[str, Entry | None]  # the same, as they were


class Library:
    """All feeds and cohorts. One owner: the hub."""

    __slots__ = ("_cohorts", "_entries", "_feeds", "_last")

    def __init__(self) -> None:
        self._feeds: dict[Slice, Feed] = {}
        self._cohorts: dict[tuple[object, ...], Cohort] = {}
        self._entries: WeakValueDictionary[tuple[str, str, str], Entry] = WeakValueDictionary()
        self._last: tuple[tuple[str, str, list[str], list[bytes]], bytes] | None = None

    @property
    def feeds(self) -> Collection[Feed]:
        return self._feeds.values()

    @property
    def cohorts(self) -> Collection[Cohort]:
        return self._cohorts.values()

    def entry(self, type_url: str, resource: Resource) -> Entry:
        """Return the one entry of a content, whichever slices it is in."""
        key = (type_url, resource.name, resource.version)
        entry = self._entries.get(key)
        if entry is None:
            entry = Entry(type_url, resource)
            self._entries[key] = entry
        return entry

    def delta_response(self, *, type_url: str, nonce: str, parts: list[bytes], removed: list[str]) -> bytes:
        """Return the bytes of a response: the same object as the last one's when nothing in it differs.

        Streams that are equally far are sent the same; joined anew for each, one change of a large resource would hold
        a copy for every stream. Parts are compared by identity first, so a miss is as cheap as a hit.
        """
        content = (type_url, nonce, removed, parts)
        if self._last is None or self._last[0] != content:
            data = delta_response(type_url=type_url, nonce=nonce, version="", parts=parts, removed=removed)
            self._last = (content, data)
        return self._last[1]

    def enter(self, stream: Stream, type_url: str, slices: Sequence[Slice], subscription: Subscription) -> Cohort:
        """Put a stream into the cohort of its subscription. Leave the old one after, so that nothing is dropped."""
        unique = tuple(dict.fromkeys(slices))
        key = (type_url, unique, subscription.wildcard, subscription.names)
        cohort = self._cohorts.get(key)
        if cohort is None:
            feeds = tuple(self._feed(source) for source in unique)
            cohort = Cohort(type_url, feeds, subscription)
            for feed in feeds:
                feed.join(cohort)
            self._cohorts[key] = cohort
        cohort.streams[stream] = None
        return cohort

    def leave(self, stream: Stream, cohort: Cohort) -> None:
        del cohort.streams[stream]
        if cohort.streams:
            return
        slices = tuple(feed.source for feed in cohort.feeds)
        del self._cohorts[(cohort.type_url, slices, cohort.subscription.wildcard, cohort.subscription.names)]
        for feed in cohort.feeds:
            feed.leave(cohort)
            if not feed.cohorts:
                del self._feeds[feed.source]

    def apply(self, deltas: Iterable[Delta]) -> list[Touched]:
        """Take one batch of changes. Return each cohort that sees a difference, with what it saw before."""
        known = [(self._feeds[delta.slice], delta) for delta in deltas if delta.slice in self._feeds]
        before: dict[Cohort, dict[str, Entry | None]] = {}
        for feed, delta in known:
            names = [resource.name for resource in delta.changed if feed.follows(resource.name)]
            names += [name for name in delta.removed if feed.follows(name)]
            for cohort in feed.cohorts:
                covered = names
                if not cohort.subscription.wildcard:
                    covered = [name for name in names if name in cohort.subscription.names]
                if covered:
                    seen = before.setdefault(cohort, {})
                    for name in covered:
                        seen.setdefault(name, cohort.entry(name))
        for feed, delta in known:
            feed.apply(delta)
        touched = []
        for cohort, seen in before.items():
            entries = {name: entry for name, entry in seen.items() if cohort.version(name) != _version(entry)}
            if entries:
                cohort.changed()
                touched.append(Touched(cohort, {name: _version(entry) for name, entry in entries.items()}, entries))
        return touched

    def _feed(self, source: Slice) -> Feed:
        feed = self._feeds.get(source)
        if feed is None:
            feed = self._feeds[source] = Feed(source, self)
        return feed


def _version(entry: Entry | None) -> str | None:
    return None if entry is None else entry.resource.version


def digest_of(versions: Iterable[tuple[str, str | None]]) -> str:
    """Return a short hash of names and versions; their order does not matter, names without a version do not count."""
    state = blake2b(digest_size=_DIGEST_BYTES)
    for name, version in sorted((n, v) for n, v in versions if v is not None):
        state.update(f"{len(name)}:{name}{len(version)}:{version}".encode())
    return state.hexdigest()
