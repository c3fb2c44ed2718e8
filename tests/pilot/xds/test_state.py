"""What each request means for one stream and type: rows of tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.rpc.status_pb2 import Status

from lateen.pilot.xds.state import (
    LOST,
    MAX_PROBES,
    UNTOLD,
    InFlight,
    Outcome,
    Rejection,
    Subscription,
    TypeState,
    Verdict,
    after_sending,
    delta_subscription,
    nonce_of,
    on_change,
    on_delta_request,
    on_forgotten,
    on_sotw_request,
    select_unsent,
    sotw_subscription,
)


@dataclass(frozen=True)
class Fixed:
    """Content that is a plain dict: name -> version."""

    versions: Mapping[str, str] = field(default_factory=lambda: {"a": "1", "b": "1"})
    only: frozenset[str] | None = None  # None: a wildcard sees it

    def version(self, name: str) -> str | None:
        return self.versions.get(name)

    def names(self) -> Collection[str]:
        return [name for name in self.versions if self.only is None or name in self.only]


ALL = Subscription(True, frozenset())
AB = Subscription(False, frozenset({"a", "b"}))
CONTENT = Fixed()


def delta(**kwargs: Any) -> Any:
    return DeltaDiscoveryRequest(**kwargs)


def nack(message: str = "bad") -> Any:
    return Status(code=3, message=message)


def step(state: TypeState | None, request: Any, content: Fixed = CONTENT, *, named: bool = False, **kwargs: Any) -> Any:
    """Run one delta request as a stream does: subscription first, then what it means."""
    return on_delta_request(state, request, delta_subscription(state, request, named=named), content, **kwargs)


def sent(state: TypeState, content: Fixed = CONTENT) -> TypeState:
    return after_sending(state, select_unsent(state, content))


FRESH = TypeState(ALL, behind={"a": None, "b": None})
AFTER_1 = sent(FRESH)  # a and b are in flight with nonce 1
SYNCED = step(AFTER_1, delta(response_nonce="1"))[0]


@pytest.mark.parametrize(
    ("state", "request_", "named", "expected"),
    [
        pytest.param(None, delta(), False, ALL, id="no names: all"),
        pytest.param(None, delta(), True, Subscription(False, frozenset()), id="no names of a named type: none"),
        pytest.param(None, delta(resource_names_subscribe=["*"]), False, ALL, id="star"),
        pytest.param(
            None,
            delta(resource_names_subscribe=["*", "x"]),
            False,
            Subscription(True, frozenset({"x"})),
            id="star and a name",
        ),
        pytest.param(None, delta(resource_names_subscribe=["a", "b"]), False, AB, id="names"),
        pytest.param(
            SYNCED,
            delta(resource_names_subscribe=["x"]),
            False,
            Subscription(True, frozenset({"x"})),
            id="a name beside all",
        ),
        pytest.param(
            SYNCED,
            delta(resource_names_unsubscribe=["*"]),
            False,
            Subscription(False, frozenset()),
            id="star taken back",
        ),
        pytest.param(
            TypeState(AB),
            delta(resource_names_subscribe=["c"], resource_names_unsubscribe=["a"]),
            True,
            Subscription(False, frozenset({"b", "c"})),
            id="one added, one dropped",
        ),
        pytest.param(
            TypeState(AB), delta(resource_names_subscribe=["*"]), True, AB, id="star means nothing to a named type"
        ),
    ],
)
def test_delta_subscription(state: TypeState | None, request_: Any, named: bool, expected: Subscription) -> None:
    assert delta_subscription(state, request_, named=named) == expected


@pytest.mark.parametrize(
    ("subscription", "content", "initial", "unsent"),
    [
        pytest.param(ALL, CONTENT, {}, {"a": "1", "b": "1"}, id="holds nothing"),
        pytest.param(ALL, CONTENT, {"a": "1", "b": "1"}, {}, id="comes back with all"),
        pytest.param(ALL, CONTENT, {"a": "1", "b": "0"}, {"b": "1"}, id="one is old"),
        pytest.param(
            ALL, CONTENT, {"a": "1", "b": "1", "gone": "1"}, {"gone": None}, id="one is gone: told as removed"
        ),
        pytest.param(AB, CONTENT, {"a": "1"}, {"b": "1"}, id="names: one is missing"),
        pytest.param(AB, Fixed({"a": "1"}), {"a": "1"}, {"b": None}, id="names: one does not exist"),
        pytest.param(AB, Fixed({"a": "1"}), {"a": "1", "b": None}, {}, id="names: it knows that one does not exist"),
        pytest.param(AB, CONTENT, {"a": "1", "b": "1", "c": "1"}, {}, id="names: what it did not ask for is its own"),
    ],
)
def test_a_first_request_is_told_what_differs(
    subscription: Subscription, content: Fixed, initial: Mapping[str, str | None], unsent: Mapping[str, str | None]
) -> None:
    state, outcome = on_delta_request(None, delta(), subscription, content, initial)
    assert outcome == Outcome(Verdict.FIRST)
    assert select_unsent(state, content) == unsent
    assert state.owes_answer == (not initial)


@pytest.mark.parametrize(
    ("state", "request_", "verdict", "unsent", "in_flight"),
    [
        pytest.param(AFTER_1, delta(response_nonce="1"), Verdict.ACK, {}, False, id="ack"),
        pytest.param(AFTER_1, delta(response_nonce="0"), Verdict.STALE, {"a": "1", "b": "1"}, True, id="unknown nonce"),
        pytest.param(SYNCED, delta(response_nonce="1"), Verdict.STALE, {}, False, id="the same ack twice"),
        pytest.param(
            SYNCED, delta(response_nonce="1", error_detail=nack()), Verdict.STALE, {}, False, id="a nack after the ack"
        ),
        pytest.param(SYNCED, delta(), Verdict.CHANGED, {}, False, id="nothing at all"),
        pytest.param(
            SYNCED,
            delta(resource_names_subscribe=["a"]),
            Verdict.CHANGED,
            {"a": "1"},
            False,
            id="asks again for what it holds",
        ),
        pytest.param(
            SYNCED,
            delta(resource_names_subscribe=["x"]),
            Verdict.CHANGED,
            {"x": None},
            False,
            id="asks for what does not exist",
        ),
        pytest.param(
            AFTER_1,
            delta(response_nonce="1", resource_names_subscribe=["x"]),
            Verdict.ACK,
            {"x": None},
            False,
            id="ack and new name in one",
        ),
        pytest.param(
            AFTER_1,
            delta(response_nonce="0", resource_names_subscribe=["x"]),
            Verdict.STALE,
            {"a": "1", "b": "1", "x": None},
            True,
            id="names count even with a stale nonce",
        ),
    ],
)
def test_what_a_delta_request_means(
    state: TypeState, request_: Any, verdict: Verdict, unsent: Mapping[str, str | None], in_flight: bool
) -> None:
    after, outcome = step(state, request_)
    assert outcome.verdict is verdict
    assert select_unsent(after, CONTENT) == unsent
    assert (after.in_flight is not None) == in_flight


def test_an_ack_tells_what_was_held_before() -> None:
    old = TypeState(ALL, behind={"a": "0"})
    _, outcome = step(sent(old), delta(response_nonce="1"))
    assert outcome == Outcome(Verdict.ACK, accepted={"a": "1"}, held_before={"a": "0"})


def test_names_taken_back_are_forgotten_in_flight_too() -> None:
    state = sent(TypeState(AB, behind={"a": UNTOLD, "b": UNTOLD}))
    state, _ = step(state, delta(resource_names_unsubscribe=["b"]), named=True)
    assert state.in_flight == InFlight("1", {"a": "1"})
    state, outcome = step(state, delta(response_nonce="1"), named=True)
    assert outcome.accepted == {"a": "1"}
    assert not state.behind


def test_a_name_asked_again_while_in_flight_is_sent_again() -> None:
    # The client may have lost it after the response in flight had reached it.
    state, _ = step(AFTER_1, delta(resource_names_subscribe=["a"]))
    state, _ = step(state, delta(response_nonce="1"))
    assert select_unsent(state, CONTENT) == {"a": "1"}


def test_a_wildcard_that_covers_a_dropped_name_says_what_has_become_of_it() -> None:
    state, _ = step(SYNCED, delta(resource_names_subscribe=["a"]))
    state, _ = step(sent(state), delta(response_nonce="2"))
    state, _ = step(state, delta(resource_names_unsubscribe=["a"]))
    assert select_unsent(state, CONTENT) == {"a": "1"}


def test_names_that_become_a_wildcard() -> None:
    state = TypeState(Subscription(False, frozenset({"a"})), owes_answer=False)
    state, _ = step(state, delta(resource_names_subscribe=["*"]))
    assert state.subscription.wildcard
    assert select_unsent(state, CONTENT) == {"b": "1"}


@pytest.mark.parametrize(
    ("state", "before", "now", "unsent"),
    [
        pytest.param(SYNCED, {"a": "1"}, {"a": "2", "b": "1"}, {"a": "2"}, id="changed"),
        pytest.param(SYNCED, {"c": None}, {"a": "1", "b": "1", "c": "1"}, {"c": "1"}, id="new"),
        pytest.param(SYNCED, {"a": "1"}, {"b": "1"}, {"a": None}, id="removed"),
        pytest.param(
            replace(SYNCED, behind={"a": "1"}), {"a": "2"}, {"a": "3", "b": "1"}, {"a": "3"}, id="changed twice"
        ),
        pytest.param(replace(SYNCED, behind={"a": "1"}), {"a": "2"}, {"a": "1", "b": "1"}, {}, id="changed back"),
        pytest.param(replace(SYNCED, behind={"c": None}), {"c": "1"}, {"a": "1", "b": "1"}, {}, id="came and went"),
    ],
)
def test_changes_coalesce(
    state: TypeState, before: Mapping[str, str], now: Mapping[str, str], unsent: Mapping[str, str | None]
) -> None:
    after, _ = on_change(state, before, Fixed(now))
    assert select_unsent(after, Fixed(now)) == unsent


@pytest.mark.parametrize("answer", [delta(response_nonce="2"), delta(response_nonce="2", error_detail=nack())])
def test_a_change_back_while_in_flight(answer: Any) -> None:
    newer = Fixed({"a": "2", "b": "1"})
    state = sent(on_change(SYNCED, {"a": "1"}, newer)[0], newer)
    state, _ = on_change(state, {"a": "2"}, CONTENT)
    state, outcome = step(state, answer)
    # Accepted: the client holds 2 and must get 1 again. Rejected: it has kept 1.
    assert select_unsent(state, CONTENT) == ({"a": "1"} if outcome.verdict is Verdict.ACK else {})


def test_forgotten_names_are_told_again() -> None:
    state = on_forgotten(SYNCED, ["a", "x"], CONTENT)
    assert select_unsent(state, CONTENT) == {"a": "1", "x": None}
    assert state.behind == {"a": LOST, "x": UNTOLD}
    assert on_forgotten(TypeState(AB), ["z"], CONTENT) == TypeState(AB)  # not subscribed to


# --- NACK ---


def test_one_resource_rejected_is_not_sent_again_until_it_changes() -> None:
    newer = Fixed({"a": "2", "b": "1"})
    state = sent(on_change(SYNCED, {"a": "1"}, newer)[0], newer)
    state, outcome = step(state, delta(response_nonce="2", error_detail=nack("no")), newer)
    assert outcome == Outcome(Verdict.NACK, rejected=("a",), error="no")
    assert state.rejected == {"a": Rejection("2", "no")}
    assert select_unsent(state, newer) == {}
    assert nonce_of(state) == "2"

    newest = Fixed({"a": "3", "b": "1"})
    state, recovered = on_change(state, {"a": "2"}, newest)
    assert (select_unsent(state, newest), recovered) == ({"a": "3"}, ())
    state, outcome = step(sent(state, newest), delta(response_nonce="3"), newest)
    assert outcome.recovered == ("a",)
    assert not state.rejected


def test_a_rejection_ends_when_the_content_changes_back() -> None:
    newer = Fixed({"a": "2", "b": "1"})
    state = sent(on_change(SYNCED, {"a": "1"}, newer)[0], newer)
    state, _ = step(state, delta(response_nonce="2", error_detail=nack()), newer)
    state, recovered = on_change(state, {"a": "2"}, CONTENT)
    assert recovered == ("a",)
    assert select_unsent(state, CONTENT) == {}


def isolate(names: list[str], bad: set[str], error: str) -> tuple[TypeState, int]:
    """Answer until the stream is quiet, saying no to whatever holds a bad one. Return the number of responses, too."""
    content = Fixed(dict.fromkeys(names, "1"))
    state = TypeState(ALL, behind=dict.fromkeys(names))
    responses = 0
    while told := select_unsent(state, content):
        state = after_sending(state, told)
        responses += 1
        refused = sorted(bad & set(told))
        detail = nack(error.format(" ".join(refused))) if refused else None
        state, _ = step(state, delta(response_nonce=nonce_of(state), error_detail=detail), content)
    return state, responses


@pytest.mark.parametrize(
    ("count", "bad", "error", "at_most"),
    [
        pytest.param(2, {1}, "something is wrong", 3, id="one of two"),
        pytest.param(1000, {700}, "something is wrong", 22, id="one of many, not named"),
        pytest.param(1000, {700}, "error in {}", 3, id="one of many, named"),
        pytest.param(100, {3, 50, 99}, "error in {}", 8, id="three, named"),
        pytest.param(10, set(range(10)), "something is wrong", 20, id="all of them"),
    ],
)
def test_bad_resources_of_a_response_are_told_apart(count: int, bad: set[int], error: str, at_most: int) -> None:
    names = [f"cluster-{number:04}" for number in range(count)]
    culprits = {names[number] for number in bad}
    state, responses = isolate(names, culprits, error)
    assert set(state.rejected) == culprits
    assert set(state.behind) == culprits  # all others were accepted
    assert responses <= at_most


def test_telling_apart_is_bounded() -> None:
    names = [f"cluster-{number:04}" for number in range(5000)]
    state, responses = isolate(names, set(names), "none of this is known here")
    assert set(state.rejected) == set(names)
    assert responses <= 2 * MAX_PROBES + 1


# --- state of the world ---


def sotw_step(
    state: TypeState | None, request: Any, content: Fixed, *, full: bool, named: bool, digest: str = "d"
) -> Any:
    subscription = sotw_subscription(state, request, named=named)
    return on_sotw_request(state, request, subscription, content, full=full, digest=digest)


def world(**kwargs: Any) -> Any:
    return DiscoveryRequest(**kwargs)


WORLD_1 = sent(TypeState(ALL, behind={"a": UNTOLD, "b": UNTOLD}))
WORLD = sotw_step(WORLD_1, world(response_nonce="1"), CONTENT, full=True, named=False)[0]
NAMES_1 = sent(TypeState(AB, behind={"a": UNTOLD, "b": UNTOLD}))
NAMES = sotw_step(NAMES_1, world(response_nonce="1", resource_names=["a", "b"]), CONTENT, full=False, named=True)[0]


@pytest.mark.parametrize(
    ("state", "request_", "full", "verdict", "unsent", "owes"),
    [
        pytest.param(None, world(), True, Verdict.FIRST, {"a": "1", "b": "1"}, True, id="first, all"),
        pytest.param(None, world(version_info="d"), True, Verdict.FIRST, {}, False, id="comes back up to date"),
        pytest.param(
            None, world(version_info="x", response_nonce="7"), True, Verdict.FIRST, {"a": "1", "b": "1"}, True,
            id="comes back with an older version and another server's nonce",
        ),
        pytest.param(
            None, world(resource_names=["a"]), False, Verdict.FIRST, {"a": "1"}, False, id="first, by name"
        ),
        pytest.param(
            None, world(resource_names=["zz"]), False, Verdict.FIRST, {}, False, id="a name that does not exist"
        ),
        pytest.param(
            None, world(resource_names=["zz"]), True, Verdict.FIRST, {}, True,
            id="a name that does not exist, of a type whose responses are whole",
        ),
        pytest.param(WORLD_1, world(response_nonce="1"), True, Verdict.ACK, {}, False, id="ack"),
        pytest.param(
            WORLD_1, world(response_nonce="0"), True, Verdict.STALE, {"a": "1", "b": "1"}, False, id="stale nonce"
        ),
        pytest.param(WORLD, world(response_nonce="1"), True, Verdict.CHANGED, {}, False, id="the same ack twice"),
        pytest.param(
            NAMES, world(response_nonce="1", resource_names=["a"]), False, Verdict.CHANGED, {}, False,
            id="a name dropped: nothing to send",
        ),
        pytest.param(
            NAMES, world(response_nonce="1"), False, Verdict.CHANGED, {}, False, id="all names dropped"
        ),
        pytest.param(
            NAMES_1, world(response_nonce="1", resource_names=["a"]), False, Verdict.ACK, {}, False,
            id="ack and a name dropped",
        ),
        pytest.param(
            TypeState(Subscription(False, frozenset({"a"})), owes_answer=False),
            world(resource_names=["a", "b"]), False, Verdict.CHANGED, {"b": "1"}, False, id="a name added",
        ),
        pytest.param(
            NAMES_1, world(response_nonce="0", resource_names=["a", "b", "c"]), False, Verdict.STALE,
            {"a": "1", "b": "1"}, False, id="names of a stale request come again with the next ack",
        ),
    ],
)  # fmt: skip
def test_what_a_sotw_request_means(
    state: TypeState | None, request_: Any, full: bool, verdict: Verdict, unsent: Mapping[str, str], owes: bool
) -> None:
    only = frozenset(request_.resource_names) or None
    after, outcome = sotw_step(state, request_, Fixed(only=only), full=full, named=not full)
    assert outcome.verdict is verdict
    assert select_unsent(after, CONTENT) == unsent
    assert after.owes_answer == owes


@pytest.mark.parametrize(
    ("error", "rejected"),
    [
        pytest.param("b: no such thing", ("b",), id="named"),
        pytest.param("no such thing", ("a", "b"), id="not named: all that was new"),
    ],
)
def test_a_sotw_nack_blames_what_it_names(error: str, rejected: tuple[str, ...]) -> None:
    request = world(response_nonce="1", error_detail=nack(error))
    state, outcome = sotw_step(WORLD_1, request, CONTENT, full=True, named=False)
    assert outcome == Outcome(Verdict.NACK, rejected=rejected, error=error)
    assert not state.groups


def test_a_legacy_sotw_wildcard_ends_when_names_come() -> None:
    assert sotw_subscription(WORLD, world(), named=False) is WORLD.subscription
    assert sotw_subscription(WORLD, world(resource_names=["a", "b"]), named=False) == AB
