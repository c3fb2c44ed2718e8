"""Which changes wait for their other half, and which do not."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.model.ties import NO_TIES, Tie, Ties, givers_of, service_tie, ties_of
from lateen.pilot.serving.halves import PATIENCE_SECONDS, Halves, WaitingRoom

A = service_tie("a.default.svc.cluster.local")
V1, V2 = (("subset", A[1], name) for name in ("v1", "v2"))


def ties(*, needs: tuple[Tie, ...] = (), gives: tuple[Tie, ...] = ()) -> Ties:
    return Ties(frozenset(needs), frozenset(gives))


TO_V1, TO_V2, TO_BOTH = ties(needs=(A, V1)), ties(needs=(A, V2)), ties(needs=(A, V1, V2))
SUBSET_V1, SUBSET_V2, SUBSETS = ties(gives=(V1,)), ties(gives=(V2,)), ties(gives=(V1, V2))


@pytest.mark.parametrize(
    ("applied", "pending", "held"),
    [
        pytest.param({"dr": SUBSET_V1}, {"vs": TO_V1}, set(), id="a route to what is there goes at once"),
        pytest.param({}, {"vs": TO_V1}, {"vs"}, id="a new route waits for its subset"),
        pytest.param({}, {"dr": SUBSETS}, set(), id="a subset waits for nobody"),
        pytest.param({}, {"vs": TO_V1, "dr": SUBSET_V1}, set(), id="both halves together go at once"),
        pytest.param({"dr": SUBSET_V1, "vs": TO_V1}, {"vs": TO_V2}, {"vs"}, id="another subset is waited for"),
        pytest.param({"dr": SUBSET_V1, "vs": TO_V1}, {"dr": SUBSET_V2}, {"dr"}, id="a subset in use does not leave"),
        pytest.param({"dr": SUBSET_V1, "vs": TO_V1}, {"dr": NO_TIES}, {"dr"}, id="nor does its whole rule"),
        pytest.param(
            {"dr": SUBSET_V1, "vs": TO_V1}, {"dr": SUBSET_V2, "vs": TO_V2}, set(), id="one subset for another, at once"
        ),
        pytest.param({"dr": SUBSETS, "vs": TO_BOTH}, {"vs": TO_V1, "dr": SUBSET_V1}, set(), id="less of both"),
        pytest.param(
            {"dr": SUBSETS, "vs": TO_BOTH}, {"dr": SUBSET_V2, "vs": TO_BOTH}, {"dr"}, id="the one that takes away waits"
        ),
        pytest.param({"vs": TO_V1}, {"vs": TO_V1}, set(), id="what was broken before waits for nothing"),
        pytest.param({"vs": TO_V1, "dr": SUBSET_V2}, {"dr": NO_TIES}, set(), id="a subset that nobody uses leaves"),
        pytest.param(
            {"dr": SUBSET_V1, "dr2": SUBSET_V1, "vs": TO_V1}, {"dr": NO_TIES}, set(), id="somebody else gives it too"
        ),
        pytest.param(
            {"dr": SUBSET_V1, "dr2": SUBSET_V1, "vs": TO_V1},
            {"dr": NO_TIES, "dr2": NO_TIES},
            {"dr", "dr2"},
            id="of two that give it the last ones stay",
        ),
        pytest.param(
            {"dr": SUBSET_V1, "vs": TO_V1},
            {"dr": NO_TIES, "vs": TO_V2, "other": TO_V1},
            {"dr", "vs", "other"} - {"other"},
            id="a held route still needs what it needed",
        ),
        pytest.param(
            {"dr": ties(gives=(("subset", "*.default.svc.cluster.local", "v1"),)), "vs": TO_V1},
            {"dr": NO_TIES},
            {"dr"},
            id="a wildcard gives it",
        ),
    ],
)
def test_what_waits(applied: Mapping[str, Ties], pending: Mapping[str, Ties], held: set[str]) -> None:
    halves = Halves()
    halves.take("service", ties(gives=(A,)))
    for key, value in applied.items():
        halves.take(key, value)
    assert halves.incomplete(pending) == held


def test_what_is_forced_holds_nothing_up() -> None:
    halves = Halves()
    halves.take("service", ties(gives=(A,)))
    assert halves.incomplete({"vs": TO_V1, "other": TO_V2}, forced=["vs"]) == {"other"}


def test_ties_of_resources() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: shop}
spec:
  hosts: [a]
  gateways: [edge, other/edge, mesh]
  http:
  - match: [{uri: {prefix: /x}}]
    delegate: {name: part}
  - route:
    - {destination: {host: a, subset: v1}, weight: 1}
    - {destination: {host: B.other.svc.cluster.local}, weight: 1}
    mirrors: [{destination: {host: m}}]
  tcp:
  - match: [{port: 1}]
    route: [{destination: {host: t, subset: s}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec: {host: a, subsets: [{name: v1}, {name: v2}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec: {http: [{route: [{destination: {host: a}}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec: {hosts: ["*.Example.com"], ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {ports: [{port: 80}]}
"""
    decoded = decode_documents(text.encode(), "x.yaml")
    assert [problem for problem in decoded.problems if problem.level == "error"] == []
    root, rule, part, gateway, entry, service = (ties_of(obj) for obj in decoded.objects)
    a, b, m, t = ("a.shop", "b.other", "m.shop", "t.shop")
    full = ".svc.cluster.local"
    assert root == ties(
        needs=(
            *(service_tie(name + full) for name in (a, b, m, t)),
            ("subset", a + full, "v1"),
            ("subset", t + full, "s"),
            ("gateway", "shop/edge"),
            ("gateway", "other/edge"),
            ("rules", "shop/part"),
        )
    )
    assert rule == ties(gives=(("subset", a + full, "v1"), ("subset", a + full, "v2")))
    assert part == ties(needs=(service_tie(a + full),), gives=(("rules", "shop/part"),))
    assert gateway == ties(gives=(("gateway", "shop/edge"),))
    assert entry == ties(gives=(service_tie("*.example.com"),))
    assert service == ties(gives=(service_tie(a + full),))


def test_wildcards_that_give() -> None:
    assert list(givers_of(("subset", "a.b.c", "v1"))) == [
        ("subset", "a.b.c", "v1"),
        ("subset", "*.b.c", "v1"),
        ("subset", "*.c", "v1"),
        ("subset", "*", "v1"),
    ]
    assert list(givers_of(("gateway", "a/b.c"))) == [("gateway", "a/b.c")]


def test_bookkeeping_forgets_what_is_gone() -> None:
    """Random histories: what is held by an instance that saw it all is what one that saw only the end holds."""
    dice = random.Random(7)
    names = [service_tie(f"{letter}.x") for letter in "abc"] + [("subset", "a.x", "v1"), ("subset", "*.x", "v1")]
    for _ in range(200):
        history = Halves()
        final: dict[str, Ties] = {}
        for _ in range(dice.randrange(12)):
            key = dice.choice("pqrst")
            value = Ties(frozenset(dice.sample(names, 2)), frozenset(dice.sample(names, 1)))
            value = dice.choice([value, NO_TIES])
            history.take(key, value)
            final[key] = value
        fresh = Halves()
        for key, value in final.items():
            fresh.take(key, value)
        pending = {
            key: Ties(frozenset(dice.sample(names, 1)), frozenset(dice.sample(names, dice.randrange(3))))
            for key in dice.sample("pqrst", 3)
        }
        held = history.incomplete(pending)
        assert held == fresh.incomplete(pending)
        # What goes on leaves nobody without what was there.
        before = {key: value for key, value in final.items() if value != NO_TIES}
        after = {**before, **{key: value for key, value in pending.items() if key not in held}}
        given_before = {tie for value in before.values() for tie in value.gives}
        given = {tie for value in after.values() for tie in value.gives}
        for key, value in after.items():
            for tie in value.needs:
                was_broken = tie in before.get(key, NO_TIES).needs and given_before.isdisjoint(givers_of(tie))
                assert was_broken or not given.isdisjoint(givers_of(tie))


def test_what_waits_goes_when_its_half_comes_or_its_time_is_over() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v1}]}
"""
    routes, rule = (Change(obj.key, obj) for obj in decode_documents(text.encode(), "x.yaml").objects)
    now, woken = [100.0], list[float]()
    room = WaitingRoom(clock=lambda: now[0], wake_later=woken.append)
    room.runs("a-v1", ties(gives=(service_tie("a.default.svc.cluster.local"),)))

    assert room.whole([routes]) == []
    assert room.whole([]) == []
    assert woken == [PATIENCE_SECONDS]
    assert room.whole([rule]) == [routes, rule]
    assert room.whole([Change(rule.key, None)]) == []  # it is in use
    now[0] += PATIENCE_SECONDS - 0.1
    assert room.whole([]) == []
    now[0] += 0.1
    assert room.whole([]) == [Change(rule.key, None)]
    assert woken == [PATIENCE_SECONDS] * 2
    assert room.whole([routes]) == [routes]  # broken before: nothing to wait for


def test_at_the_start_nothing_waits() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}
"""
    (routes,) = (Change(obj.key, obj) for obj in decode_documents(text.encode(), "x.yaml").objects)
    room = WaitingRoom(clock=lambda: 0.0, wake_later=lambda seconds: pytest.fail("nobody waits"))
    assert room.whole([routes], at_once=True) == [routes]
