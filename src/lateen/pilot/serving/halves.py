"""Wait for the other half of a change: a route and the subset it names, written in two files, mean one thing.

Who changes both writes one file after the other, and the control plane may see the first alone. Applied at once it
would send requests to a subset that is not there yet, or no more. Such a change waits, up to `PATIENCE_SECONDS`, for
what makes it whole; all others go on. What is still without its half then is applied as it is, because it is what was
asked for. What was broken before waits for nothing.

Pure bookkeeping; the caller has the clock. A change costs the resources that it ties together, not all that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import structlog

from lateen.api.base import ResourceKey
from lateen.folders.folder import Change
from lateen.pilot.model.ties import NO_TIES, Tie, Ties, givers_of, ties_of

__all__ = ["PATIENCE_SECONDS", "Halves", "WaitingRoom"]

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 2.0  # longer than any tool takes between two files of one apply; short for who made a mistake


class Halves:
    """Who gives and who needs what, of all that is applied."""

    def __init__(self) -> None:
        self._ties: dict[Hashable, Ties] = {}
        self._given: Counter[Tie] = Counter()
        self._needed: dict[Tie, set[Hashable]] = {}

    def take(self, key: Hashable, ties: Ties) -> None:
        """Note that a resource is applied with these ties; `NO_TIES` when it is gone."""
        before = self._ties.pop(key, NO_TIES)
        if ties != NO_TIES:
            self._ties[key] = ties
        for tie in before.needs - ties.needs:
            users = self._needed[tie]
            users.discard(key)
            if not users:
                del self._needed[tie]
        for tie in ties.needs - before.needs:
            self._needed.setdefault(tie, set()).add(key)
        self._given.subtract(before.gives)
        self._given.update(ties.gives)
        for tie in before.gives:
            if not self._given[tie]:
                del self._given[tie]

    def incomplete(self, pending: Mapping[Any, Ties], forced: Iterable[Any] = ()) -> set[Hashable]:
        """Return which of the pending changes (key -> its ties then) would leave a route without what it needs.

        The rest can be applied at once, without them. Those that are `forced` wait no more, whatever they break.
        """
        held: set[Hashable] = set()
        stays = frozenset(forced)
        while True:
            broken = self._broken(pending, held, stays)
            if not broken:
                return held
            held |= broken

    def _broken(
        self, pending: Mapping[Hashable, Ties], held: set[Hashable], forced: frozenset[Hashable]
    ) -> set[Hashable]:
        """Return the changes to hold because of what breaks when all but the `held` ones are applied."""
        ready = {key: ties for key, ties in pending.items() if key not in held}
        delta: Counter[Tie] = Counter()
        for key, ties in ready.items():
            delta.update(ties.gives)
            delta.subtract(self._ties.get(key, NO_TIES).gives)
        guilty: set[Hashable] = set()
        for user, tie in self._looked_at(ready):
            givers = tuple(givers_of(tie))
            if any(self._given[giver] + delta[giver] > 0 for giver in givers):
                continue
            was_there = any(self._given[giver] for giver in givers)
            if not was_there and tie in self._ties.get(user, NO_TIES).needs:
                continue  # broken before: nobody waits for it
            takers = {key for key in ready if was_there and self._ties.get(key, NO_TIES).gives.intersection(givers)}
            # The half that takes away waits; where nothing is taken away, the half that asks.
            guilty |= (takers or ({user} & ready.keys())) - forced
        return guilty

    def _looked_at(self, ready: Mapping[Hashable, Ties]) -> Iterator[tuple[Hashable, Tie]]:
        """Yield (user, what it needs) for all that the ready changes can break."""
        for key, ties in ready.items():
            for tie in sorted(ties.needs):
                yield key, tie
        lost = {tie for key, ties in ready.items() for tie in self._ties.get(key, NO_TIES).gives - ties.gives}
        for tie in sorted(lost):
            for needed in self._covered(tie):
                for user in self._needed[needed]:
                    if user not in ready:
                        yield user, needed

    def _covered(self, given: Tie) -> list[Tie]:
        if not given[1].startswith("*"):
            return [given] if given in self._needed else []
        # A wildcard that goes is rare enough to look at all that is needed.
        return [needed for needed in self._needed if given in givers_of(needed)]


class WaitingRoom:
    """The changes that wait, and until when. `wake_later(seconds)` has `whole` called again after that time."""

    def __init__(self, *, clock: Callable[[], float], wake_later: Callable[[float], object]) -> None:
        self._clock = clock
        self._wake_later = wake_later
        self._halves = Halves()
        self._held: dict[ResourceKey, Change] = {}
        self._until: dict[ResourceKey, float] = {}  # the clock's seconds at which each waits no more

    def runs(self, name: str, ties: Ties) -> None:
        """Note what a running workload gives; `NO_TIES` when it is gone. Workloads wait for nobody."""
        self._halves.take(name, ties)

    def whole(self, new: Iterable[Change], *, at_once: bool = False) -> list[Change]:
        """Return which of the new and the held changes to apply now; with `at_once` all of them."""
        self._held.update((change.key, change) for change in new)
        ties = {key: ties_of(change.obj) if change.obj else NO_TIES for key, change in self._held.items()}
        now = self._clock()
        forced = ties.keys() if at_once else [key for key, until in self._until.items() if until <= now]
        incomplete = self._halves.incomplete(ties, forced)
        for key in ties.keys() & incomplete - self._until.keys():
            log.info("change waits for its other half", change=str(key), seconds=PATIENCE_SECONDS)
            self._until[key] = now + PATIENCE_SECONDS
            self._wake_later(PATIENCE_SECONDS)
        ready = [self._held.pop(key) for key in list(self._held) if key not in incomplete]
        for change in ready:
            self._until.pop(change.key, None)
            self._halves.take(change.key, ties[change.key])
        return ready
