"""Make before break: what must wait for what, in one stream.

Rules, after the xDS protocol's "Eventual consistency considerations":

1. Clusters and endpoints first. What names clusters (`ROUTING`) waits until every *new* cluster was accepted and the
   endpoints of those that need some were accepted, too.
2. Clusters and endpoints leave last: after all changes of `ROUTING` types were accepted, and after routes that accepted
   listeners asked for. While a listener or route stands rejected the proxy goes on with the old one, which may need
   them: they stay until the rejection is gone.
3. Envoy warms a cluster anew when it is updated, waits for its endpoints even if they are what they were, and does not
   ACK the clusters before that (tried with 1.40: without them it takes what it had after 15 s, or never, by the
   cluster's `initial_fetch_timeout`). So endpoints of every cluster that is sent follow at once, not after an ACK.
   Routes need no such thing: a warming listener takes the routes that Envoy has.
4. What filters discover (ECDS) may name clusters, so it comes after them; and before listeners, for those that have
   asked for it already. It leaves after the listeners: one that still has the filter would answer without it.

On a stream that goes on where an earlier one ended, types come one by one: until listeners (clusters) were asked for,
nothing is known of them, and the rules hold as if they had changed.

A client that does not answer, or never asks for endpoints, would hold others back for good: `Patience` ends each wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lateen.pilot.xds.references import CHILD_TYPE
from lateen.pilot.xds.state import UNTOLD, TypeState
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, ROUTING

if TYPE_CHECKING:
    from lateen.pilot.xds.stream import Stream

__all__ = [
    "Patience",
    "children_of",
    "is_removal",
    "lacks_clusters",
    "listeners_are_open",
    "routing_is_open",
    "routing_is_refused",
]


class Patience:
    """How long each kind of wait has lasted, and whether it may go on. Times are the caller's monotonic seconds."""

    __slots__ = ("_limit_seconds", "_since", "wake_at")

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._since: dict[str, float] = {}
        self.wake_at: float | None = None  # when a wait that is going on ends at the latest

    def start_round(self) -> None:
        self.wake_at = None

    def waits(self, kind: str, blocked: bool, now: float) -> bool:
        """Return whether to wait (once more), given that what is waited for is still `blocked`."""
        if not blocked:
            self._since.pop(kind, None)
            return False
        ends = self._since.setdefault(kind, now) + self._limit_seconds
        if now >= ends:
            return False
        self.wake_at = ends if self.wake_at is None else min(self.wake_at, ends)
        return True


def is_removal(state: TypeState, name: str, version: str | None) -> bool:
    """Tell a removal from the news, to one who just asked, that there is no such resource."""
    return version is None and state.behind.get(name) != UNTOLD


def lacks_clusters(stream: Stream) -> bool:
    """Return whether a cluster that the proxy never had is not there yet, or has no endpoints yet (rule 1)."""
    return (
        _not_heard_of(stream, CDS) or _lacks_new(stream, CDS) or _lacks_new(stream, EDS) or _lacks_children(stream, CDS)
    )


def routing_is_open(stream: Stream) -> bool:
    """Return whether a listener or route change is not yet accepted, or accepted listeners lack routes (rule 2)."""
    if _not_heard_of(stream, LDS):
        return True
    for type_url in ROUTING:
        state = stream.types.get(type_url)
        if state is not None and (state.in_flight is not None or (state.behind and stream.unsent(type_url))):
            return True
    return _lacks_children(stream, LDS)


def listeners_are_open(stream: Stream) -> bool:
    """Return whether a listener change is not yet accepted (rule 4)."""
    if _not_heard_of(stream, LDS):
        return True
    state = stream.types.get(LDS)
    return state is not None and (state.in_flight is not None or (bool(state.behind) and bool(stream.unsent(LDS))))


def routing_is_refused(stream: Stream) -> bool:
    """Return whether the proxy keeps an older listener or route because it rejected the newer (rule 2)."""
    return any(type_url in stream.types and stream.types[type_url].rejected for type_url in ROUTING)


def _lacks_new(stream: Stream, type_url: str) -> bool:
    """Return whether something exists that was asked for and that the proxy does not have."""
    state = stream.types.get(type_url)
    if state is None:
        return False
    cohort = stream.cohorts[type_url]
    flying = state.in_flight.versions if state.in_flight else {}
    for name, held in state.behind.items():
        leaving = name in flying and flying[name] is None  # and comes back after that
        if leaving or not held:
            version = cohort.version(name)
            if version is not None and not _refused(state, name, version):
                return True
    return False


def _lacks_children(stream: Stream, parent_type: str) -> bool:
    """Return whether something that accepted resources refer to is still to come; forget what has come."""
    expected = stream.expected.get(parent_type)
    state = stream.types.get(CHILD_TYPE[parent_type])
    if not expected:
        return False
    if state is None:
        # At its start Envoy asks for listeners only after the endpoints came; routes it asks for without delay.
        return parent_type == LDS
    left, lacks = {}, False
    for child, parent in expected.items():
        entry = stream.cohorts[parent_type].entry(parent)
        settled = parent not in stream.types[parent_type].behind  # the client holds what is served now
        if entry is None:
            needed = not settled  # it may come back before it was told to be gone
        elif settled and child not in entry.references:
            needed = False
        else:
            needed = not _has_come(state, child)
            lacks = lacks or needed
        if needed:
            left[child] = parent
    stream.expected[parent_type] = left
    return lacks


def _has_come(state: TypeState, child: str) -> bool:
    return child in state.subscription.names and (child not in state.behind or child in state.rejected)


def _not_heard_of(stream: Stream, type_url: str) -> bool:
    return stream.resumed and type_url not in stream.types and type_url in stream.proxy.slices


def _refused(state: TypeState, name: str, version: str | None) -> bool:
    rejection = state.rejected.get(name)
    return rejection is not None and rejection.version == version


def children_of(stream: Stream, type_url: str, versions: Mapping[str, str | None]) -> dict[str, str]:
    """Return child -> parent for the resources that these (name -> version told) refer to."""
    cohort = stream.cohorts[type_url]
    children = {}
    for name, version in versions.items():
        entry = cohort.entry(name)
        if version is not None and entry is not None:
            for child in entry.references:
                children[child] = name
    return children
