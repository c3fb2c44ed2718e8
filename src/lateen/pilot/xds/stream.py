"""One stream: where each type of one proxy stands, and the bytes to send next. No I/O; the hub owns it.

In:  requests (parsed), changes of shared content, the time. Out: whole responses, at most one in flight a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lateen.errors import BadInput
from lateen.pilot.xds import order
from lateen.pilot.xds.absent import ABSENT_VERSION, absent_parts
from lateen.pilot.xds.content import Cohort, Entry, Library, Touched, digest_of
from lateen.pilot.xds.frames import delta_response, sotw_response
from lateen.pilot.xds.references import CHILD_TYPE
from lateen.pilot.xds.source import NodeInfo, Proxy
from lateen.pilot.xds.state import (
    LOST,
    Outcome,
    Subscription,
    TypeState,
    Verdict,
    Versions,
    after_sending,
    delta_subscription,
    nonce_of,
    on_change,
    on_delta_request,
    on_forgotten,
    on_new_content,
    on_sotw_request,
    select_unsent,
    sotw_subscription,
)
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, FULL_STATE, KNOWN, LDS, NAMED, ROUTING, rank

__all__ = ["Response", "Stream", "StreamLimits", "empty_response"]

# Between the version of endpoints and that of their cluster in what a delta client is told: see `_told_version`.
_OF_CLUSTER: Final = "+"
_EVERYTHING: Final = Subscription(wildcard=True, names=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    patience_seconds: float = 5.0  # the longest that make-before-break holds anything back
    response_bytes: int = 8 << 20  # a larger change goes as several responses, one after the other (delta only)
    names: int = 20_000  # explicit names of one type


@dataclass(frozen=True, slots=True)
class Response:
    type_url: str
    resources: int
    removed: int
    data: bytes = field(repr=False)


class Stream:
    """One open stream. `types` and `cohorts` have the same keys: what the client has asked for."""

    __slots__ = (
        "_children",
        "_leaving",
        "_library",
        "_limits",
        "_patience",
        "_sorted",
        "cohorts",
        "expected",
        "node",
        "proxy",
        "resumed",
        "sotw",
        "types",
    )

    def __init__(self, *, library: Library, proxy: Proxy, node: NodeInfo, sotw: bool, limits: StreamLimits) -> None:
        self.proxy = proxy
        self.node = node
        self.sotw = sotw
        self.resumed = False  # the client holds something from an earlier stream (delta)
        self.types: dict[str, TypeState] = {}
        self.cohorts: dict[str, Cohort] = {}
        # By type: resources that accepted ones refer to and that have not been accepted yet (child -> parent).
        self.expected: dict[str, dict[str, str]] = {}
        # By type: the same, of the response in flight.
        self._children: dict[str, dict[str, str]] = {}
        # Clusters that are no longer served, but that a state-of-the-world client is not to lose yet.
        self._leaving: dict[str, Entry] = {}
        self._library = library
        self._limits = limits
        self._patience = order.Patience(limits.patience_seconds)
        self._sorted: tuple[str, ...] = ()

    @property
    def wake_at(self) -> float | None:
        """When to ask for `next_responses` again even if nothing happens; monotonic seconds."""
        return self._patience.wake_at

    def serves(self, type_url: str) -> bool:
        return type_url in KNOWN or type_url in self.proxy.slices

    def receive(self, request: Any) -> Outcome:
        """Take one request of a type that is served. Raises `BadInput` when it asks for too much."""
        type_url: str = request.type_url
        state = self.types.get(type_url)
        subscribe = sotw_subscription if self.sotw else delta_subscription
        subscription = subscribe(state, request, named=type_url in NAMED)
        if len(subscription.names) > self._limits.names:
            raise BadInput(
                f"{len(subscription.names)} names of {type_url} in one stream, at most {self._limits.names} wanted"
            )
        if state is None or subscription is not state.subscription:
            self._enter(type_url, subscription)
        cohort = self.cohorts[type_url]
        if self.sotw:
            full = type_url in FULL_STATE
            # Looked at in a first request only; a digest goes over all names.
            digest = cohort.digest() if state is None and request.version_info else "-"
            state, outcome = on_sotw_request(state, request, cohort.subscription, cohort, full=full, digest=digest)
        else:
            initial = self._initial(type_url, request.initial_resource_versions) if state is None else {}
            state, outcome = on_delta_request(state, request, cohort.subscription, cohort, initial)
        self.types[type_url] = state
        if outcome.verdict is Verdict.ACK and type_url in CHILD_TYPE:
            self._after_parents(type_url, outcome)
        elif outcome.verdict is Verdict.FIRST and not self.sotw and request.initial_resource_versions:
            self.resumed = True
            if type_url == LDS:
                self.expected[LDS] = order.children_of(self, LDS, request.initial_resource_versions)
        return outcome

    def change(self, change: Touched) -> tuple[str, ...]:
        """Take changes of one of this stream's cohorts. Return names whose rejection is over."""
        type_url = change.cohort.type_url
        self._keep_leaving(type_url, change.cohort, change.entries)
        self.types[type_url], recovered = on_change(self.types[type_url], change.before, change.cohort)
        return recovered

    def rescope(self) -> dict[str, tuple[str, ...]]:
        """Read the proxy's slices again. Return names whose rejection is over, by type."""
        recovered = {}
        for type_url, state in self.types.items():
            old = self.cohorts[type_url]
            new = self._library.enter(self, type_url, self.proxy.slices.get(type_url, ()), state.subscription)
            if new is old:
                continue
            both = set(old.feeds) & set(new.feeds)
            names = {name for feed in {*old.feeds, *new.feeds} - both for name in feed.current}
            self._keep_leaving(type_url, new, {name: old.entry(name) for name in names})
            self.types[type_url], over = on_new_content(state, names, old, new)
            self.cohorts[type_url] = new
            self._library.leave(self, old)
            if over:
                recovered[type_url] = over
        return recovered

    def close(self) -> None:
        for cohort in self.cohorts.values():
            self._library.leave(self, cohort)
        self.cohorts.clear()
        self.types.clear()

    def unsent(self, type_url: str) -> dict[str, str | None]:
        """Return what the client must be told of a type, in whatever order; name -> version."""
        unsent = select_unsent(self.types[type_url], self.cohorts[type_url])
        if self.sotw and type_url not in FULL_STATE:
            # State of the world has no word for a removal here.
            return {name: version for name, version in unsent.items() if version is not None}
        return unsent

    def next_responses(self, now: float) -> list[Response]:
        """Return all that may be sent now, in order, and count it as sent."""
        self._patience.start_round()
        responses = []
        for type_url in self._sorted:
            state = self.types[type_url]
            if state.in_flight is None and (state.behind or state.owes_answer):
                told = self._select(type_url, state, now)
                if told is not None:
                    responses.append(self._respond(type_url, told))
        return responses

    def held(self, type_url: str) -> dict[str, str]:
        """Return the versions that the client is known to hold, by name. Takes time; for status."""
        state, cohort = self.types[type_url], self.cohorts[type_url]
        versions = {name: state.behind.get(name, cohort.version(name)) for name in {*cohort.names(), *state.behind}}
        return {name: version for name, version in versions.items() if version}

    def digest(self, type_url: str) -> str:
        """Return a digest over what the client holds."""
        if not self.types[type_url].behind:
            return self.cohorts[type_url].digest()
        return digest_of(self.held(type_url).items())

    def _enter(self, type_url: str, subscription: Subscription) -> None:
        old = self.cohorts.get(type_url)
        new = self._library.enter(self, type_url, self.proxy.slices.get(type_url, ()), subscription)
        self.cohorts[type_url] = new
        if old is None:
            self._sorted = tuple(sorted((*self._sorted, type_url), key=rank))
        elif old is not new:
            self._library.leave(self, old)

    def _keep_leaving(self, type_url: str, content: Cohort, before: Mapping[str, Entry | None]) -> None:
        """Keep clusters that left the content while a whole response must still hold them."""
        if self.sotw and type_url == CDS:
            for name, entry in before.items():
                if entry is not None and content.entry(name) is None and self.types[CDS].subscription.covers(name):
                    self._leaving.setdefault(name, entry)

    def _after_sending_parents(self, type_url: str, told: Versions) -> None:
        """Have the endpoints told again that go with these clusters (rule 3 of `order`)."""
        children = self._children[type_url] = order.children_of(self, type_url, told)
        if type_url == CDS and EDS in self.types:
            self.types[EDS] = on_forgotten(self.types[EDS], children, self.cohorts[EDS])

    def _after_parents(self, type_url: str, outcome: Outcome) -> None:
        """Note what accepted clusters (listeners) still lack: rules 1 and 2 of `order`."""
        old = self.expected.get(type_url, {})
        accepted = outcome.accepted
        if type_url == CDS:  # an updated cluster serves on with the endpoints it had, if it had some
            lacking = set(old.values())
            accepted = {n: v for n, v in accepted.items() if n in lacking or not outcome.held_before.get(n)}
        rest = {child: parent for child, parent in old.items() if parent not in outcome.accepted}
        new = {child: parent for child, parent in self._children.pop(type_url).items() if parent in accepted}
        self.expected[type_url] = {**rest, **new}

    def _select(self, type_url: str, state: TypeState, now: float) -> dict[str, str | None] | None:
        """Return what to tell of one type now; None to send nothing."""
        unsent = self.unsent(type_url) if state.behind else {}
        waits = self._patience.waits
        if type_url in ROUTING:
            if unsent and waits("clusters", order.lacks_clusters(self), now):
                return None
            if type_url == ECDS and unsent:
                changes = {n: v for n, v in unsent.items() if not order.is_removal(state, n, v)}
                if not changes and waits("listeners", order.listeners_are_open(self), now):
                    return {} if state.owes_answer else None
                unsent = changes or unsent
        elif type_url in (CDS, EDS) and unsent:
            changes = {n: v for n, v in unsent.items() if not order.is_removal(state, n, v)}
            if changes:
                unsent = changes
            elif order.routing_is_refused(self) or waits("routes", order.routing_is_open(self), now):
                return {} if state.owes_answer else None
            elif self.sotw and waits("names", not state.subscription.wildcard, now):
                # It drops the name itself as soon as it needs it no more, which it alone knows.
                return {} if state.owes_answer else None
        if unsent or state.owes_answer:
            return unsent
        return None

    def _respond(self, type_url: str, told: dict[str, str | None]) -> Response:
        cohort = self.cohorts[type_url]
        whole = self.sotw and type_url in FULL_STATE
        entries = self._whole(cohort, told) if whole else self._fitting(cohort, told)
        before = self.types[type_url]
        state = self.types[type_url] = after_sending(before, told)
        if type_url in CHILD_TYPE:
            self._after_sending_parents(type_url, told)
        parts: list[bytes] = []
        if self.sotw:
            for entry in entries:
                parts += entry.sotw_parts()
            version = cohort.digest()
            if type_url == CDS and self._leaving:
                version += "-"  # a client that comes back with it is still to lose some
            data = sotw_response(type_url=type_url, nonce=nonce_of(state), version=version, parts=parts)
            return Response(type_url, len(entries), 0, data)
        for entry in entries:
            parts += entry.delta_parts(self._told_version(type_url, entry))
        removed: list[str] = []
        for name, told_version in told.items():
            if told_version is None:
                absent = None if order.is_removal(before, name, None) else absent_parts(type_url, name)
                if absent is None:
                    removed.append(name)
                else:
                    parts += absent
        data = self._library.delta_response(type_url=type_url, nonce=nonce_of(state), parts=parts, removed=removed)
        return Response(type_url, len(parts) // 2, len(removed), data)

    def _whole(self, cohort: Cohort, told: Versions) -> list[Entry]:
        """Return all entries of a subscription, and those that leave it later."""
        entries = [entry for name in cohort.names() if (entry := cohort.entry(name)) is not None]
        if cohort.type_url == CDS and self._leaving:
            covers = cohort.subscription.covers
            self._leaving = {
                name: entry
                for name, entry in self._leaving.items()
                if covers(name) and cohort.entry(name) is None and name not in told
            }
            entries += self._leaving.values()
        return entries

    def _fitting(self, cohort: Cohort, told: dict[str, str | None]) -> list[Entry]:
        """Return the entries of what is told; cut `told` where a response would become too large."""
        entries: list[Entry] = []
        size_bytes = 0
        for name in list(told):
            entry = cohort.entry(name)
            if entry is None:
                continue
            size_bytes += entry.size_bytes
            if entries and size_bytes > self._limits.response_bytes:
                del told[name]
            else:
                entries.append(entry)
        return entries

    def _told_version(self, type_url: str, entry: Entry) -> str:
        """Return the version of a resource as this client is told.

        Endpoints get that of the cluster they are for beside their own: a client that comes back with endpoints that
        it was sent before its cluster changed shows so that the cluster still waits for them, even to a control plane
        which never saw that.
        """
        if type_url != EDS:
            return entry.resource.version
        suffix = self._cluster_versions(entry.resource.name)
        return f"{entry.resource.version}{_OF_CLUSTER}{suffix}" if suffix else entry.resource.version

    def _initial(self, type_url: str, versions: Mapping[str, str]) -> dict[str, str | None]:
        """Return what a client says it holds, without endpoints that it needs again. None: knows that there is none."""
        if type_url != EDS or not versions:
            return {name: None if version == ABSENT_VERSION else version for name, version in versions.items()}
        # While a cluster warms Envoy says nothing of clusters, on a new stream neither: then it is to have the one
        # that is current, and needs endpoints unless it has got them with just that one.
        silent = CDS not in self.types
        if silent:
            self.cohorts[CDS] = self._library.enter(self, CDS, self.proxy.slices.get(CDS, ()), _EVERYTHING)
        initial: dict[str, str | None] = {}
        for name, told in versions.items():
            version, _, suffix = told.partition(_OF_CLUSTER)
            initial[name] = version if suffix == self._cluster_versions(name) else LOST
        if silent:
            self._library.leave(self, self.cohorts.pop(CDS))
        return initial

    def _cluster_versions(self, endpoints: str) -> str:
        """Return a word for the versions that the client has of the clusters which use these endpoints."""
        state, cohort = self.types.get(CDS), self.cohorts.get(CDS)
        if cohort is None:
            return ""
        flying: Versions = state.in_flight.versions if state is not None and state.in_flight else {}
        behind: Versions = state.behind if state is not None else {}
        versions = {}
        for name in cohort.parents(endpoints):
            held = flying[name] if name in flying else behind.get(name, cohort.version(name))
            if held:
                versions[name] = held
        if len(versions) == 1:
            return next(iter(versions.values()))
        return digest_of(versions.items()) if versions else ""


def empty_response(type_url: str, *, sotw: bool) -> bytes:
    """Return the answer to a request for a type that is not served: nothing, so that the client stops waiting.

    Its nonce never names a response in flight, so an ACK of it changes nothing.
    """
    if sotw:
        return sotw_response(type_url=type_url, nonce="0", version="0", parts=())
    return delta_response(type_url=type_url, nonce="0", version="", parts=(), removed=())
