"""What is known of issuers' keys, and when each is to be fetched. Decides; `jwks.py` fetches.

A set that came well-formed replaces what was known, whatever is in it: an issuer that publishes no key any more has
none. Anything else (nobody answers, another status, no JWK set) is a failure, and then what was known is kept, for
`keep` from when it was fetched, and not longer: after that no token of the issuer is taken. There is no other key to
fall back to.

Times are seconds of the wall clock, passed in: they are written to a file and mean something after a restart. A clock
that was set back makes keys younger, never older than it says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from lateen.errors import BadInput
from lateen.pilot.model.jwks import JwksSource, KeySet, parse_key_set

__all__ = ["Book", "Note", "Saved", "State", "Times"]

RETRY_SECONDS: Final = 2.0  # after the first failure; doubles with each further one
RETRY_LIMIT_SECONDS: Final = 300.0
JITTER: Final = 0.1  # of each wait: sources that came together do not stay together

State = Literal["fresh", "kept", "none"]  # fetched when last tried | kept from an earlier time | no key is had


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How often keys are renewed, and how long they are kept when that fails."""

    refresh_seconds: float = 20 * 60
    keep_seconds: float = 6 * 3600


@dataclass(frozen=True, slots=True)
class Saved:
    """Keys as they are kept on disk."""

    kind: str
    url: str
    keys: str
    fetched: float


@dataclass(frozen=True, slots=True)
class Note:
    """What people are to be told of a source."""

    message: str
    level: Literal["error", "warning"]


@dataclass(slots=True)
class _Entry:
    keys: str = ""  # "" also for a set without a usable key
    fetched: float | None = None  # when a set came last; None: never, or it is too old
    due: float = 0.0
    failures: int = 0  # in a row
    error: str = ""
    faults: tuple[str, ...] = ()
    busy: bool = False


@dataclass
class Book:
    """The sources that rules name. Every method that changes keys returns the sources whose keys are others now."""

    times: Times
    rng: random.Random = field(default_factory=random.Random)
    _entries: dict[JwksSource, _Entry] = field(default_factory=dict)
    _left: dict[JwksSource, Saved] = field(default_factory=dict)  # read from disk, not asked for yet

    def remember(self, saved: Iterable[Saved], now: float) -> None:
        """Take what an earlier run knew. What is too old, or no JWK set, is forgotten."""
        for one in saved:
            if one.kind not in ("uri", "issuer") or not 0 <= now - one.fetched <= self.times.keep_seconds:
                continue
            try:
                keys = parse_key_set(one.keys.encode()).text
            except BadInput:
                continue
            source = JwksSource("uri" if one.kind == "uri" else "issuer", one.url)
            self._left[source] = Saved(one.kind, one.url, keys, one.fetched)

    def want(self, sources: Iterable[JwksSource], now: float) -> set[JwksSource]:
        """Take the sources that rules name now: new ones are due at once, others are forgotten."""
        wanted = set(sources)
        changed = {source for source in self._entries.keys() - wanted if self._entries[source].keys}
        for source in self._entries.keys() - wanted:
            del self._entries[source]
        for source in wanted - self._entries.keys():
            entry = self._entries[source] = _Entry(due=now)
            left = self._left.pop(source, None)
            if left is not None and now - left.fetched <= self.times.keep_seconds:
                entry.keys, entry.fetched = left.keys, left.fetched
                changed.add(source)
        return changed

    def due(self, now: float) -> list[JwksSource]:
        """Return what is to be fetched now, longest due first; each counts as being fetched from now on."""
        found = sorted(
            (entry.due, source) for source, entry in self._entries.items() if entry.due <= now and not entry.busy
        )
        for _, source in found:
            self._entries[source].busy = True
        return [source for _, source in found]

    def succeeded(self, source: JwksSource, found: KeySet, now: float) -> set[JwksSource]:
        """Take a set that came."""
        entry = self._entries.get(source)
        if entry is None:
            return set()
        before, entry.keys = entry.keys, found.text
        entry.fetched, entry.faults, entry.failures, entry.error, entry.busy = now, found.faults, 0, "", False
        entry.due = now + self._spread(self.times.refresh_seconds)
        return {source} if before != entry.keys else set()

    def failed(self, source: JwksSource, error: str, now: float) -> None:
        """Note that nothing usable came."""
        entry = self._entries.get(source)
        if entry is None:
            return
        wait = min(RETRY_SECONDS * 2 ** min(entry.failures, 20), RETRY_LIMIT_SECONDS, self.times.refresh_seconds)
        entry.failures, entry.error, entry.busy = entry.failures + 1, error, False
        entry.due = now + self._spread(wait)

    def expire(self, now: float) -> set[JwksSource]:
        """Forget keys that were fetched too long ago."""
        changed = set()
        for source, entry in self._entries.items():
            if entry.fetched is None:
                continue
            entry.fetched = min(entry.fetched, now)
            if now - entry.fetched > self.times.keep_seconds:
                entry.fetched = None
                if entry.keys:
                    entry.keys = ""
                    changed.add(source)
        return changed

    def wake_at(self) -> float | None:
        """Return when something is due or too old next; None: nothing ever, as it stands."""
        moments = [entry.due for entry in self._entries.values() if not entry.busy]
        moments += [
            entry.fetched + self.times.keep_seconds + 0.001
            for entry in self._entries.values()
            if entry.fetched is not None
        ]
        return min(moments, default=None)

    def keys(self, sources: Iterable[JwksSource]) -> dict[JwksSource, str]:
        """Return the keys of sources, "" for one without."""
        return {source: entry.keys if (entry := self._entries.get(source)) else "" for source in sources}

    def saved(self) -> list[Saved]:
        """Return what is worth keeping over a restart."""
        return [
            Saved(source.kind, source.url, entry.keys, entry.fetched)
            for source, entry in sorted(self._entries.items())
            if entry.keys and entry.fetched is not None
        ]

    def states(self) -> Mapping[JwksSource, State]:
        """Return how it stands with each source; one that is being fetched for the first time is "none"."""
        return {source: _state(entry) for source, entry in self._entries.items()}

    def notes(self) -> Iterator[tuple[JwksSource, Note]]:
        """Yield what people are to be told of sources."""
        for source in self._entries:
            for note in self.notes_of(source):
                yield source, note

    def notes_of(self, source: JwksSource) -> tuple[Note, ...]:
        """Return what people are to be told of one source."""
        entry = self._entries.get(source)
        return tuple(self._notes(entry)) if entry is not None else ()

    def _notes(self, entry: _Entry) -> Iterator[Note]:
        if entry.error and entry.keys and entry.fetched is not None:
            until = datetime.fromtimestamp(entry.fetched + self.times.keep_seconds, UTC)
            yield Note(
                f"keys are not renewed: {entry.error}; those known are kept until {until:%d %b %H:%M} UTC", "warning"
            )
        elif entry.error:
            yield Note(f"no keys are had, so every token is refused: {entry.error}", "error")
        elif entry.fetched is not None and not entry.keys:
            yield Note("the set holds no usable key, so every token is refused", "error")
        for fault in entry.faults:
            yield Note(f"of the set that was fetched, {fault}", "warning")

    def _spread(self, seconds: float) -> float:
        return seconds * self.rng.uniform(1 - JITTER, 1)


def _state(entry: _Entry) -> State:
    if not entry.keys:
        return "none"
    return "kept" if entry.error else "fresh"
