"""What one stream holds of one type, and what each request means for it. No I/O, no clock.

A state remembers only where the client may *differ* from the content it is served (`behind`); whatever is not in there
it holds as the content is. So a client that is up to date costs next to nothing, however many resources it has, and a
slow one costs the names that changed meanwhile. Rules: the xDS protocol, v3, "Four variants" and "ACK and NACK".

`on_delta_request` and `on_sotw_request` take one request; `on_change` takes one batch of changed content;
`select_unsent` says what the client must still be told, and `after_sending` that it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Protocol

from lateen.wire.texts import tamed

__all__ = [
    "LOST",
    "MAX_PROBES",
    "UNTOLD",
    "WILDCARD",
    "Content",
    "InFlight",
    "Outcome",
    "Rejection",
    "Subscription",
    "TypeState",
    "Verdict",
    "after_sending",
    "delta_subscription",
    "on_change",
    "on_delta_request",
    "on_forgotten",
    "on_new_content",
    "on_sotw_request",
    "select_unsent",
    "sotw_subscription",
]

WILDCARD: Final = "*"
UNTOLD: Final = ""  # held version of a name that the client asked for and was told nothing about yet
LOST: Final = "?"  # held version of a name that the client has, or had, and must be told again whatever it is
# Responses spent on finding which resources of a rejected response are the bad ones; then the rest is rejected as a
# whole. One bad resource among n takes about 2 log2(n) of them, less when the error names it.
MAX_PROBES: Final = 64

Versions = Mapping[str, str | None]  # name -> version; None: the client knows that there is none
_NO_VERSIONS: Final[Versions] = MappingProxyType({})


def _no_versions() -> Versions:
    return _NO_VERSIONS  # one for all: most states have nothing to remember


class Content(Protocol):
    """What one subscription is served, as of now."""

    def version(self, name: str) -> str | None: ...

    def names(self) -> Collection[str]:
        """Names that exist and that the subscription covers."""


class Verdict(Enum):
    FIRST = "first request of its type"
    ACK = "the response in flight was accepted"
    NACK = "the response in flight was rejected"
    STALE = "about a response that is not in flight"
    CHANGED = "names were added or taken away, nothing else"


@dataclass(frozen=True, slots=True)
class Subscription:
    wildcard: bool
    names: frozenset[str]

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names


@dataclass(frozen=True, slots=True)
class InFlight:
    """The response that has no answer yet: what it said about each name the client was behind with."""

    nonce: str
    versions: Versions


@dataclass(frozen=True, slots=True)
class Rejection:
    version: str | None  # the content that was refused; another one is tried
    error: str  # the client's words


_NO_REJECTIONS: Final[Mapping[str, Rejection]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TypeState:
    """One stream, one type. Build it with a first request."""

    subscription: Subscription
    behind: Versions = field(
        default_factory=_no_versions
    )  # name -> version held, where that may differ from the content
    in_flight: InFlight | None = None
    serial: int = 0  # responses sent so far; the nonce is made of it
    owes_answer: bool = True  # the client waits for a response even if it has nothing in it
    rejected: Mapping[str, Rejection] = field(default_factory=lambda: _NO_REJECTIONS)
    groups: tuple[frozenset[str], ...] = ()  # parts of a rejected response, to be tried one after the other
    probes: int = 0  # responses spent on the groups


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request told."""

    verdict: Verdict
    accepted: Versions = field(default_factory=_no_versions)  # of an ACK
    held_before: Versions = field(default_factory=_no_versions)  # of the accepted names at least
    rejected: tuple[str, ...] = ()  # sorted; names that stand rejected since this request
    error: str = ""
    recovered: tuple[str, ...] = ()  # sorted; names that stood rejected and no longer do


def delta_subscription(state: TypeState | None, request: Any, *, named: bool) -> Subscription:
    """Return the subscription after a `DeltaDiscoveryRequest`.

    A first request without names is a wildcard, unless the type is one that is always `named`.
    """
    added, dropped = request.resource_names_subscribe, request.resource_names_unsubscribe
    if state is None:
        return Subscription(
            wildcard=not named and (not added or WILDCARD in added), names=frozenset(added) - {WILDCARD}
        )
    if not added and not dropped:
        return state.subscription
    wildcard = state.subscription.wildcard
    if not named:
        wildcard = (wildcard and WILDCARD not in dropped) or WILDCARD in added
    return Subscription(wildcard, (state.subscription.names.difference(dropped) | set(added)) - {WILDCARD})


def sotw_subscription(state: TypeState | None, request: Any, *, named: bool) -> Subscription:
    """Return the subscription after a `DiscoveryRequest`, which holds all names each time."""
    asked = request.resource_names
    if named:
        wildcard = False
    elif state is None:
        wildcard = not asked or WILDCARD in asked
    else:  # a legacy wildcard, without names, goes on as one
        wildcard = WILDCARD in asked or (not asked and state.subscription.wildcard and not state.subscription.names)
    new = Subscription(wildcard, frozenset(asked) - {WILDCARD})
    return state.subscription if state is not None and state.subscription == new else new


def on_delta_request(
    state: TypeState | None,
    request: Any,
    subscription: Subscription,
    content: Content,
    initial: Versions = _NO_VERSIONS,
) -> tuple[TypeState, Outcome]:
    """Take one `DeltaDiscoveryRequest`.

    `subscription` is what `delta_subscription` made of it, `content` what that subscription is served, `initial` what
    the client holds from an earlier stream (its `initial_resource_versions`); used in a first request only.
    """
    if state is None:
        state = TypeState(subscription, behind=_first_behind(subscription, content, initial), owes_answer=not initial)
        return state, Outcome(Verdict.FIRST)
    before = state.subscription
    state, outcome = _on_answer(state, request, subscription, content, split=True)
    asked = [name for name in request.resource_names_subscribe if name != WILDCARD]
    dropped = [n for n in request.resource_names_unsubscribe if n in before.names and n not in subscription.names]
    if asked:
        # Also for names it is subscribed to already: asking again means that it has lost them.
        state = _with_held(state, dict.fromkeys(asked, UNTOLD))
    if dropped and subscription.wildcard:
        # "If the wildcard subscription still matches, the server must say what has become of the resource."
        state = _with_held(state, dict.fromkeys(dropped, UNTOLD))
    if subscription.wildcard and not before.wildcard:
        fresh = {name: None for name in content.names() if name not in before.names}
        state = replace(state, behind={**fresh, **state.behind}, owes_answer=True)
    if outcome.verdict is Verdict.STALE and not request.response_nonce:
        outcome = replace(outcome, verdict=Verdict.CHANGED)
    return state, outcome


def on_sotw_request(
    state: TypeState | None, request: Any, subscription: Subscription, content: Content, *, full: bool, digest: str
) -> tuple[TypeState, Outcome]:
    """Take one `DiscoveryRequest`.

    `full`: responses of this type hold the whole subscription. `digest` is the version of that whole; a client that
    comes back with it holds everything already.
    """
    if state is None:
        known = request.version_info == digest
        behind: Versions = _NO_VERSIONS
        if not known:
            behind = dict.fromkeys(content.names(), UNTOLD)
        return TypeState(subscription, behind=behind, owes_answer=full and not known), Outcome(Verdict.FIRST)
    if request.response_nonce and request.response_nonce != nonce_of(state):
        return state, Outcome(Verdict.STALE)  # the answer to what is in flight will hold the names
    before = state.subscription
    state, outcome = _on_answer(state, request, subscription, content, split=False)
    added = subscription.names - before.names
    if added:
        told = {name: UNTOLD for name in added if content.version(name) is not None}
        state = replace(state, behind={**state.behind, **told}, owes_answer=state.owes_answer or full)
    if subscription.wildcard and not before.wildcard:
        fresh = dict.fromkeys(content.names(), UNTOLD)
        state = replace(state, behind={**fresh, **state.behind}, owes_answer=full)
    if outcome.verdict is Verdict.STALE:
        outcome = replace(outcome, verdict=Verdict.CHANGED)
    return state, outcome


def on_change(state: TypeState, before: Versions, content: Content) -> tuple[TypeState, tuple[str, ...]]:
    """Take one batch: `before` holds the versions that changed names had. Return the names that recovered, too.

    Names that the subscription does not cover must have been left out. What changes back before it was sent is
    never sent.
    """
    if not state.behind and not state.in_flight:
        return replace(state, behind=before), ()  # shared by all streams that were up to date
    behind = dict(state.behind)
    flying = state.in_flight.versions if state.in_flight else _NO_VERSIONS
    settled = []
    for name, version in before.items():
        held = behind.setdefault(name, version)
        if name not in flying and held == content.version(name):
            del behind[name]
            settled.append(name)
    state, recovered = _without_rejections(replace(state, behind=behind), settled)
    return state, recovered


def on_new_content(
    state: TypeState, names: Iterable[str], before: Content, content: Content
) -> tuple[TypeState, tuple[str, ...]]:
    """Take another content for the same subscription; `names` are those that may differ between the two."""
    changed = {
        name: before.version(name)
        for name in names
        if state.subscription.covers(name) and before.version(name) != content.version(name)
    }
    return on_change(state, changed, content) if changed else (state, ())


def on_forgotten(state: TypeState, names: Iterable[str], content: Content) -> TypeState:
    """Note that the client needs these names told again, whatever it was told before."""
    flying = state.in_flight.versions if state.in_flight else _NO_VERSIONS
    lost = {}
    for name in names:
        if state.subscription.covers(name):
            held = flying[name] if name in flying else state.behind.get(name, content.version(name))
            lost[name] = LOST if held else UNTOLD
    return _with_held(state, lost) if lost else state


def select_unsent(state: TypeState, content: Content) -> dict[str, str | None]:
    """Return what the client must be told next: name -> version, None for a removal.

    Leaves out what was rejected and has not changed since. While a rejected response is being taken apart, returns one
    part only. Does not look at what is in flight: the caller sends one response at a time.
    """
    rejected = state.rejected
    unsent = {}
    for name, held in state.behind.items():
        version = content.version(name)
        if version == held:
            continue
        if rejected and name in rejected and rejected[name].version == version:
            continue
        unsent[name] = version
    for group in state.groups:
        part = {name: unsent[name] for name in unsent if name in group}
        if part:
            return part
    return unsent


def after_sending(state: TypeState, told: Versions) -> TypeState:
    """Return the state with one more response in flight that told these names."""
    serial = state.serial + 1
    sent = replace(state, serial=serial, owes_answer=False)
    return replace(sent, in_flight=InFlight(nonce_of(sent), told), groups=_groups_after(state.groups, told))


def nonce_of(state: TypeState) -> str:
    """Return the nonce of the last response; it is unique in its stream and type, which is all the protocol asks."""
    return f"{state.serial:x}" if state.serial else ""


def _first_behind(subscription: Subscription, content: Content, initial: Versions) -> Versions:
    behind: dict[str, str | None] = {}
    if subscription.wildcard:
        for name in content.names():
            held = initial.get(name)
            if held != content.version(name):
                behind[name] = held
        for name, held in initial.items():
            if held != content.version(name):
                behind[name] = held
    for name in subscription.names:
        held = initial.get(name, UNTOLD)
        if held != content.version(name):
            behind[name] = held
    return behind


def _on_answer(
    state: TypeState, request: Any, subscription: Subscription, content: Content, *, split: bool
) -> tuple[TypeState, Outcome]:
    """Apply the ACK or NACK in a request, if it is one, and its subscription."""
    answered = state.in_flight
    if subscription is not state.subscription:
        state = _with_subscription(state, subscription)
    if answered is None or not request.response_nonce or request.response_nonce != answered.nonce:
        return state, Outcome(Verdict.STALE)
    assert state.in_flight is not None
    told = state.in_flight.versions
    state = replace(state, in_flight=None)
    if request.HasField("error_detail"):
        return _on_nack(state, told, tamed(request.error_detail.message), content, split=split)
    return _on_ack(state, told, content)


def _with_held(state: TypeState, held: Versions) -> TypeState:
    """Note what is held of names, against all that was told or is being told."""
    in_flight = state.in_flight
    if in_flight and not held.keys().isdisjoint(in_flight.versions):
        # What is in flight may have reached the client before it lost the resource: its ACK says nothing of these.
        rest = {name: version for name, version in in_flight.versions.items() if name not in held}
        in_flight = InFlight(in_flight.nonce, rest)
    return replace(state, behind={**state.behind, **held}, in_flight=in_flight)


def _with_subscription(state: TypeState, subscription: Subscription) -> TypeState:
    """Drop all that is known of names which are no longer subscribed to."""
    in_flight = state.in_flight
    if in_flight:
        kept = {name: v for name, v in in_flight.versions.items() if subscription.covers(name)}
        in_flight = InFlight(in_flight.nonce, kept)
    return replace(
        state,
        subscription=subscription,
        behind={name: held for name, held in state.behind.items() if subscription.covers(name)},
        rejected={name: r for name, r in state.rejected.items() if subscription.covers(name)},
        in_flight=in_flight,
    )


def _on_ack(state: TypeState, told: Versions, content: Content) -> tuple[TypeState, Outcome]:
    held_before = state.behind
    behind = dict(state.behind)
    for name, version in told.items():
        if version == content.version(name):
            behind.pop(name, None)
        else:
            behind[name] = version
    state = replace(state, behind=behind or _NO_VERSIONS, probes=state.probes if state.groups else 0)
    state, recovered = _without_rejections(state, told)
    return state, Outcome(Verdict.ACK, accepted=told, held_before=held_before, recovered=recovered)


def _on_nack(
    state: TypeState, told: Versions, error: str, content: Content, *, split: bool
) -> tuple[TypeState, Outcome]:
    # What changed back while it was in flight is settled: the client kept what it had.
    behind = {name: held for name, held in state.behind.items() if held != content.version(name)}
    state = replace(state, behind=behind)
    if split and len(told) > 1 and state.probes < MAX_PROBES:
        groups = _split(list(told), error) + state.groups
        return replace(state, groups=groups, probes=state.probes + 1), Outcome(Verdict.NACK, error=error)
    names: Iterable[str] = told
    if not split and any(_mentions(error, name) for name in (*told, *state.rejected)):
        # A whole response is not taken apart: its client applies what it finds good and says what it did not. What
        # it rejected before is in there again, and in its words.
        names = [name for name in told if _mentions(error, name)]
        state, _ = _on_ack(state, {name: version for name, version in told.items() if name not in names}, content)
        behind = dict(state.behind)
    rejected = {**state.rejected, **{name: Rejection(told[name], error) for name in names if name in behind}}
    state = replace(state, rejected=rejected, probes=state.probes if state.groups else 0)
    return state, Outcome(Verdict.NACK, error=error, rejected=tuple(sorted(names)))


def _split(names: Sequence[str], error: str) -> tuple[frozenset[str], ...]:
    """Part the names of a rejected response; the part with the better hope first.

    Envoy names what it does not like, but in words, so that is a hint for the order and decides nothing.
    """
    suspects = [name for name in names if _mentions(error, name)]
    if suspects and len(suspects) < len(names):
        first = frozenset(names).difference(suspects)
        return first, frozenset(suspects)
    half = len(names) // 2
    return frozenset(names[:half]), frozenset(names[half:])


def _mentions(error: str, name: str) -> bool:
    """Return whether an error names a resource, not just a longer word that holds its name."""
    return name in error and re.search(rf"(?<![\w|.-]){re.escape(name)}(?![\w|-])", error) is not None


def _groups_after(groups: tuple[frozenset[str], ...], told: Versions) -> tuple[frozenset[str], ...]:
    if not groups:
        return ()
    if all(group.isdisjoint(told) for group in groups):
        return ()  # nothing in them had to be told any more
    rest = (group.difference(told) for group in groups)
    return tuple(group for group in rest if group)


def _without_rejections(state: TypeState, names: Iterable[str]) -> tuple[TypeState, tuple[str, ...]]:
    if not state.rejected:
        return state, ()
    recovered = tuple(sorted(name for name in names if name in state.rejected))
    if not recovered:
        return state, ()
    return replace(state, rejected={n: r for n, r in state.rejected.items() if n not in recovered}), recovered
