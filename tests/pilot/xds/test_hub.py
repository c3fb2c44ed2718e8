"""What streams are sent, and in which order, seen by clients that behave like Envoy. No transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from tests.fakes.xds import (
    DeltaPeer,
    FakeSlice,
    FakeSource,
    HubLink,
    SotwPeer,
    make_cluster,
    make_endpoints,
    make_listener,
    make_resource,
    make_route,
)

from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.stream import StreamLimits
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, NDS, RDS

ALL = (CDS, EDS, LDS, RDS)


@dataclass
class World:
    """A small mesh: clusters a and b with endpoints, one listener, its route to a."""

    clusters: FakeSlice = field(default_factory=lambda: FakeSlice(CDS, make_cluster("a"), make_cluster("b")))
    endpoints: FakeSlice = field(default_factory=lambda: FakeSlice(EDS, make_endpoints("a", 1), make_endpoints("b", 2)))
    listeners: FakeSlice = field(default_factory=lambda: FakeSlice(LDS, make_listener("in", route="r")))
    routes: FakeSlice = field(default_factory=lambda: FakeSlice(RDS, make_route("r", "a")))
    now: float = 0.0
    limits: StreamLimits = field(default_factory=StreamLimits)

    def __post_init__(self) -> None:
        self.source = FakeSource(self.clusters, self.endpoints, self.listeners, self.routes)
        self.restart()

    def restart(self) -> None:
        """Replace the hub, as a restart of the control plane does."""
        self.source._listeners.clear()
        self.hub = Hub(self.source, limits=self.limits, clock=lambda: self.now)
        self.source.subscribe(self.hub)

    def connect(self, peer: DeltaPeer | None = None, types: tuple[str, ...] = ALL) -> HubLink:
        link = HubLink(self.hub, self.source, peer or DeltaPeer())
        link.start(*types)
        return link


@pytest.fixture
def world() -> World:
    return World()


def test_start(world: World) -> None:
    link = HubLink(world.hub, world.source, DeltaPeer())
    # As Envoy starts: clusters first, their endpoints, then listeners, then routes.
    link.request(*link.peer.first(CDS))
    assert link.pump() == ["CDS a b", "EDS a b"]
    link.request(link.peer.subscribe(LDS))
    assert link.pump() == ["LDS in", "RDS r"]


def test_a_change_goes_to_those_who_hold_it_and_nothing_else(world: World) -> None:
    inside = FakeSlice(LDS, make_listener("mine"))
    other = "sidecar~10.77.0.8~ratings-v1.default~default.svc.cluster.local"
    world.source.scopes[other] = {**world.source.scope, LDS: (inside, world.listeners)}
    one, two = world.connect(), world.connect(DeltaPeer(node_id=other))
    assert two.peer.names(LDS) == ["in", "mine"]

    world.source.push((inside, [make_listener("mine", prefix="new")]))
    assert (one.pump(), two.pump()) == ([], ["LDS mine"])
    world.source.push((world.routes, [make_route("r", "b")]))
    assert (one.pump(), two.pump()) == (["RDS r"], ["RDS r"])
    world.source.push((world.endpoints, [make_endpoints("b", 9)]))
    assert (one.pump(), two.pump()) == (["EDS b"], ["EDS b"])


def test_bytes_that_did_not_change_are_not_sent(world: World) -> None:
    link = world.connect()
    before = world.hub.stats.sent_bytes
    world.source.push((world.clusters, [make_cluster("a")]), (world.routes, [make_route("r", "a")]))
    assert link.pump() == []
    assert world.hub.stats.sent_bytes == before


def test_resources_nobody_asked_for_are_not_sent(world: World) -> None:
    link = world.connect()
    world.source.push((world.endpoints, [make_endpoints("c", 1)]), (world.routes, [make_route("s", "a")]))
    assert link.pump() == []
    # ... and the source was asked for just what is subscribed to.
    assert set(world.endpoints.wanted) == {"a", "b"}


def test_changes_coalesce_while_a_response_is_in_flight(world: World) -> None:
    link = world.connect()
    link.hold = {RDS}
    for cluster in ("b", "a", "b", "a", "b"):
        world.source.push((world.routes, [make_route("r", cluster)]))
    assert (link.pump(), link.waiting()) == ([], ["RDS"])
    link.hold = set()
    # First what was sent (to b); the rest is what is held by then, so there is no second response.
    assert link.pump() == ["RDS r"]
    assert link.stream.digest(RDS) == link.stream.cohorts[RDS].digest()


def test_a_slow_proxy_delays_nobody_and_costs_one_name(world: World) -> None:
    slow, quick = world.connect(), world.connect()
    slow.hold = {EDS}
    for port in range(10, 60):
        world.source.push((world.endpoints, [make_endpoints("a", port)]))
        assert quick.pump() == ["EDS a"]
    assert (slow.pump(), slow.waiting()) == ([], ["EDS"])
    assert set(slow.stream.types[EDS].behind) == {"a"}
    slow.hold = set()
    assert slow.pump() == ["EDS a", "EDS a"]  # the first of them, and the last
    assert slow.peer.held == quick.peer.held


# --- reconnect ---


@pytest.mark.parametrize("restart", [False, True], ids=["same control plane", "restarted"])
def test_nothing_is_sent_again_after_a_reconnect(world: World, restart: bool) -> None:
    link = world.connect()
    link.close()
    if restart:
        world.restart()
    before = world.hub.stats.snapshot()
    again = world.connect(link.peer)
    assert again.pump() == []
    assert {t: s.resources for t, s in world.hub.stats.by_type.items()} == {
        t: before[t].resources if t in before else 0 for t in world.hub.stats.by_type
    }
    world.source.push((world.routes, [make_route("r", "b")]))
    assert again.pump() == ["RDS r"]


def test_what_changed_meanwhile_is_sent_after_a_reconnect_and_what_went_is_removed(world: World) -> None:
    link = world.connect()
    link.close()
    world.source.push(
        (world.clusters, [make_cluster("c"), "b"]),
        (world.endpoints, [make_endpoints("c", 3), "b"]),
        (world.routes, [make_route("r", "c")]),
    )
    link.peer.said()
    again = HubLink(world.hub, world.source, link.peer)
    again.start(*ALL)
    assert again.peer.names(CDS) == ["a", "c"]
    assert again.peer.names(EDS) == ["a", "c"]
    assert again.peer.held[CDS]["a"][0] == make_cluster("a").version


def test_endpoints_that_a_warming_cluster_waits_for_are_sent_even_after_a_restart(world: World) -> None:
    """The proxy got the cluster; before its endpoints followed, the control plane died."""
    link = world.connect()
    link.hold = {EDS}
    world.source.push((world.clusters, [make_cluster("a", seconds=9)]))
    assert link.pump() == ["CDS a"]
    link.close()
    world.restart()
    again = HubLink(world.hub, world.source, link.peer)
    again.start(*ALL)
    assert world.hub.stats.of(EDS).resources == 1  # a, not b
    assert world.hub.stats.of(CDS).resources == 0


def test_the_same_when_the_proxy_says_nothing_of_clusters(world: World) -> None:
    """Envoy does not while a cluster warms: its CDS subscription is paused."""
    link = world.connect()
    link.hold = {EDS}
    world.source.push((world.clusters, [make_cluster("a", seconds=9)]))
    link.pump()
    link.close()
    world.restart()
    again = HubLink(world.hub, world.source, link.peer)
    again.start(EDS, LDS, RDS)
    assert {t: s.resources for t, s in world.hub.stats.by_type.items()} == {EDS: 1, LDS: 0, RDS: 0}
    again.request(*again.peer.first(CDS))
    assert again.pump() == []


# --- make before break ---


def test_new_clusters_and_their_endpoints_come_before_what_names_them(world: World) -> None:
    link = world.connect()
    world.source.push(
        (world.routes, [make_route("r", "c")]),
        (world.listeners, [make_listener("in", route="r", prefix="new")]),
        (world.endpoints, [make_endpoints("c", 3)]),
        (world.clusters, [make_cluster("c")]),
    )
    assert link.pump() == ["CDS c", "EDS c", "LDS in", "RDS r"]


@pytest.mark.parametrize("held", [CDS, EDS], ids=["clusters not accepted", "endpoints not accepted"])
def test_routes_wait_for_new_clusters_but_not_for_ever(world: World, held: str) -> None:
    link = world.connect()
    link.hold = {held}
    world.source.push(
        (world.clusters, [make_cluster("c")]),
        (world.endpoints, [make_endpoints("c", 3)]),
        (world.routes, [make_route("r", "c")]),
    )
    link.pump()
    assert "RDS" not in link.waiting()
    assert link.stream.wake_at == world.limits.patience_seconds
    world.now = world.limits.patience_seconds
    world.hub.tick()
    assert "RDS r" in link.pump()


def test_routes_do_not_wait_for_clusters_that_only_change(world: World) -> None:
    link = world.connect()
    link.hold = {CDS}
    world.source.push((world.clusters, [make_cluster("a", seconds=8)]), (world.routes, [make_route("r", "b")]))
    assert link.pump() == ["EDS a", "RDS r"]


def test_routes_go_on_when_a_new_cluster_is_rejected(world: World) -> None:
    link = world.connect(DeltaPeer(refuse=lambda _type, name, _body: "no" if name == "c" else ""))
    world.source.push((world.clusters, [make_cluster("c")]), (world.routes, [make_route("r", "c")]))
    assert link.pump() == ["CDS c NACK", "RDS r"]


def test_routes_do_not_wait_for_endpoints_that_do_not_exist(world: World) -> None:
    link = world.connect()
    world.source.push((world.clusters, [make_cluster("c")]), (world.routes, [make_route("r", "c")]))
    assert link.pump() == ["CDS c", "EDS -c", "RDS r"]


def test_clusters_leave_after_the_routes_that_named_them(world: World) -> None:
    link = world.connect()
    link.hold = {RDS}
    world.source.push((world.clusters, ["a"]), (world.endpoints, ["a"]), (world.routes, [make_route("r", "b")]))
    assert (link.pump(), link.waiting()) == ([], ["RDS"])
    link.hold = set()
    assert link.pump() == ["RDS r", "CDS -a", "EDS -a"]
    assert link.peer.names(CDS) == ["b"]


def test_clusters_stay_until_routes_of_a_changed_listener_have_come(world: World) -> None:
    world.routes.content["s"] = make_route("s", "b")
    link = world.connect()
    link.hold = {RDS}
    # The listener moves from route r, to a, to route s, to b. Until s is there Envoy serves by the old listener.
    world.source.push((world.listeners, [make_listener("in", route="s")]), (world.clusters, ["a"]))
    assert (link.pump(), link.waiting()) == (["LDS in"], ["RDS"])
    link.hold = set()
    assert link.pump() == ["RDS s", "CDS -a"]


def test_what_filters_discover_comes_after_its_clusters_and_leaves_after_the_listeners(world: World) -> None:
    extensions = FakeSlice(ECDS, make_resource("x", TypedExtensionConfig(name="x")))
    world.source.scope[ECDS] = (extensions,)
    link = world.connect()
    link.request(link.peer.subscribe(ECDS, "x"))
    assert link.pump() == ["ECDS x"]
    link.hold = {CDS}
    changed = make_resource("x", TypedExtensionConfig(name="x", typed_config={"type_url": "a/b"}))
    world.source.push(
        (world.clusters, [make_cluster("c", eds=False)]),
        (extensions, [changed]),
        (world.listeners, [make_listener("in", route="r", prefix="new")]),
    )
    assert (link.pump(), link.waiting()) == ([], ["CDS"])
    link.hold = set()
    assert link.pump() == ["CDS c", "ECDS x", "LDS in"]
    link.hold = {LDS}
    world.source.push((extensions, ["x"]), (world.listeners, [make_listener("in", route="r")]), (world.clusters, ["c"]))
    assert (link.pump(), link.waiting()) == ([], ["LDS"])
    link.hold = set()
    assert link.pump() == ["LDS in", "ECDS -x", "CDS -c"]


def test_clusters_that_a_rejected_change_would_have_freed_stay(world: World) -> None:
    link = world.connect(DeltaPeer(refuse=lambda t, _name, body: "no" if t == RDS and b"\x01b" in body else ""))
    world.source.push((world.clusters, ["a"]), (world.routes, [make_route("r", "b")]))
    assert link.pump() == ["RDS r NACK"]
    world.now = 1e6
    world.hub.tick()
    assert link.pump() == []
    assert link.peer.names(CDS) == ["a", "b"]
    world.source.push((world.routes, [make_route("r", "none")]))
    assert link.pump() == ["RDS r", "CDS -a"]


def test_endpoints_follow_a_changed_cluster_even_if_they_did_not_change(world: World) -> None:
    link = world.connect()
    link.hold = {CDS}
    world.source.push((world.clusters, [make_cluster("a", seconds=8)]))
    # At once: Envoy ACKs the cluster only when it is warm.
    assert (link.pump(), link.waiting()) == (["EDS a"], ["CDS"])
    link.hold = set()
    assert link.pump() == ["CDS a"]
    world.source.push((world.clusters, [make_cluster("b", seconds=8)]), (world.endpoints, [make_endpoints("b", 7)]))
    assert link.pump() == ["CDS b", "EDS b"]  # once


def test_endpoints_shared_by_two_clusters(world: World) -> None:
    link = world.connect()
    world.source.push((world.clusters, [make_cluster("c", service_name="a")]), (world.routes, [make_route("r", "c")]))
    # Envoy holds the endpoints already and does not ask again.
    assert link.pump() == ["CDS c", "EDS a", "RDS r"]


# --- NACK ---


def test_a_bad_resource_is_named_and_the_good_ones_get_through(world: World) -> None:
    link = world.connect(DeltaPeer(refuse=lambda _type, name, _body: "no such thing" if name == "bad" else ""))
    clusters = [make_cluster(name, eds=False) for name in ("c", "bad", "d", "e")]
    world.source.push((world.clusters, clusters), (world.endpoints, [make_endpoints("a", 5)]))
    assert link.pump()[:2] == ["CDS bad c d e NACK", "EDS a"]
    assert link.peer.names(CDS) == ["a", "b", "c", "d", "e"]
    assert world.source.rejections == [("reviews-v3", "CDS", ("bad",), "bad: no such thing")]

    sent = world.hub.stats.of(CDS).resources
    world.source.push((world.clusters, [make_cluster("c", eds=False, seconds=9)]))
    assert link.pump() == ["CDS c"]  # without the bad one
    assert world.hub.stats.of(CDS).resources == sent + 1

    link.peer.refuse = lambda _type, _name, _body: ""
    world.source.push((world.clusters, [make_cluster("bad", eds=False, seconds=2)]))
    assert link.pump() == ["CDS bad"]
    assert world.source.recoveries == [("reviews-v3", "CDS", ("bad",))]


def test_a_rejection_ends_with_the_resource(world: World) -> None:
    link = world.connect(DeltaPeer(refuse=lambda _type, name, _body: "no" if name == "bad" else ""))
    world.source.push((world.clusters, [make_cluster("bad")]))
    link.pump()
    world.source.push((world.clusters, ["bad"]))
    assert link.pump() == []  # the proxy never had it
    assert world.source.recoveries == [("reviews-v3", "CDS", ("bad",))]


# --- scope ---


def test_another_scope_sends_the_difference(world: World) -> None:
    link = world.connect()
    other = FakeSlice(CDS, make_cluster("b"), make_cluster("x", eds=False))
    world.source.rescope(link.proxy, other, world.endpoints, world.listeners, world.routes)
    assert link.pump() == ["CDS x", "CDS -a"]
    assert world.clusters.wanted == {}
    world.source.push((world.clusters, [make_cluster("b", seconds=9)]))
    assert link.pump() == []
    world.source.push((other, [make_cluster("x", eds=False, seconds=9)]))
    assert link.pump() == ["CDS x"]


def test_another_scope_for_names(world: World) -> None:
    link = world.connect()
    other = FakeSlice(RDS, make_route("r", "b"), make_route("unused", "a"))
    world.source.rescope(link.proxy, world.clusters, world.endpoints, world.listeners, other)
    assert link.pump() == ["RDS r"]
    assert (world.routes.wanted, other.wanted) == ({}, {"r": 1})


def test_the_first_slice_wins_where_two_have_a_name(world: World) -> None:
    link = world.connect()
    over = FakeSlice(CDS, make_cluster("a", seconds=77))
    world.source.rescope(link.proxy, over, world.clusters, world.endpoints, world.listeners, world.routes)
    assert link.pump() == ["CDS a", "EDS a"]
    world.source.push((world.clusters, [make_cluster("a", seconds=3)]))
    assert link.pump() == []
    world.source.push((over, ["a"]))
    assert link.pump() == ["CDS a", "EDS a"]


# --- state of the world ---


def test_sotw_start_and_changes(world: World) -> None:
    link = HubLink(world.hub, world.source, SotwPeer())
    link.start(*ALL)
    assert link.pump() == []
    assert [link.peer.names(t) for t in ALL] == [["a", "b"], ["a", "b"], ["in"], ["r"]]
    world.source.push((world.endpoints, [make_endpoints("b", 9)]))
    assert link.pump() == ["EDS b"]  # just that
    world.source.push((world.clusters, [make_cluster("b", seconds=9)]))
    assert link.pump() == ["CDS a b", "EDS b"]  # all of it, and endpoints for the cluster that changed
    world.source.push((world.listeners, [make_listener("new")]))
    assert link.pump() == ["LDS in new"]


@pytest.mark.parametrize("restart", [False, True], ids=["same control plane", "restarted"])
def test_sotw_nothing_is_sent_again_after_a_reconnect(world: World, restart: bool) -> None:
    link = HubLink(world.hub, world.source, SotwPeer()).start(*ALL)
    link.close()
    if restart:
        world.restart()
    link.peer.said()
    again = HubLink(world.hub, world.source, link.peer)
    again.request(*again.peer.first(*ALL))
    assert again.pump() == []
    world.source.push((world.routes, [make_route("r", "b")]))
    assert again.pump() == ["RDS r"]


def test_sotw_clusters_leave_last(world: World) -> None:
    link = HubLink(world.hub, world.source, SotwPeer()).start(*ALL)
    link.peer.said()
    world.source.push(
        (world.routes, [make_route("r", "c")]),
        (world.clusters, [make_cluster("c"), "a"]),
        (world.endpoints, [make_endpoints("c", 3), "a"]),
    )
    # A response without a would take it from under the routes, so it stays in until they have moved.
    assert link.pump() == ["CDS a b c", "EDS c", "RDS r", "CDS b c"]
    link.close()
    again = HubLink(world.hub, world.source, link.peer)
    again.request(*again.peer.first(*ALL))
    assert again.pump() == []


def test_sotw_clusters_by_name_leave_when_the_client_drops_them(world: World) -> None:
    peer = SotwPeer(asked={CDS: {"a"}, EDS: {"a"}}, follows={})
    link = HubLink(world.hub, world.source, peer)
    link.start(CDS, EDS, LDS, RDS)
    link.request(peer.subscribe(RDS, "r"))
    link.pump()
    world.source.push((world.clusters, [make_cluster("c"), "a"]), (world.routes, [make_route("r", "c")]))
    assert link.pump() == ["RDS r"]
    link.request(peer.subscribe(CDS, "a", "c"))
    assert link.pump() == ["CDS a c"]
    link.request(peer.subscribe(CDS, "c"))
    assert link.pump() == []
    assert link.stream.unsent(CDS) == {}


def test_sotw_a_cluster_that_no_client_drops_is_gone_in_the_end(world: World) -> None:
    peer = SotwPeer(asked={CDS: {"a", "b"}}, follows={})
    link = HubLink(world.hub, world.source, peer).start(CDS)
    world.source.push((world.clusters, ["a"]))
    assert link.pump() == []
    world.now = world.limits.patience_seconds
    world.hub.tick()
    assert link.pump() == ["CDS b"]


def test_sotw_a_rejection_is_reported(world: World) -> None:
    refuse_bad = SotwPeer(refuse=lambda _type, name, _body: "no such thing" if name == "bad" else "")
    link = HubLink(world.hub, world.source, refuse_bad).start(*ALL)
    link.peer.said()
    world.source.push((world.clusters, [make_cluster("bad"), make_cluster("c")]))
    assert link.pump() == ["CDS a b bad c NACK"]
    assert world.source.rejections == [("reviews-v3", "CDS", ("bad",), "bad: no such thing")]
    # It is in every whole response from now on, and only it is to blame.
    world.source.push((world.clusters, [make_cluster("b", seconds=9)]))
    assert link.pump()[0] == "CDS a b bad c NACK"
    assert len(set(world.source.rejections)) == 1
    assert link.pump() == []
    world.source.push((world.clusters, ["bad"]))
    assert world.source.recoveries == [("reviews-v3", "CDS", ("bad",))]


# --- odds and ends ---


def test_everything_is_given_back_when_streams_end(world: World) -> None:
    links = [world.connect() for _ in range(3)]
    assert world.endpoints.wanted == {"a": 1, "b": 1}  # asked once, for all streams with that subscription
    assert len(world.hub._library.cohorts) == len(ALL)
    for link in links:
        link.close()
    assert world.endpoints.wanted == {}
    assert not world.hub._library.cohorts
    assert not world.hub._library.feeds
    assert list(world.hub.streams) == []


def test_types_that_are_not_served_are_answered_with_nothing(world: World) -> None:
    link = world.connect()
    link.request(link.peer.subscribe("type.googleapis.com/some.Unknown", "x"))
    assert link.pump() == ["Unknown"]
    assert set(link.stream.types) == set(ALL)


def test_an_empty_type_is_answered_once(world: World) -> None:
    link = world.connect()
    link.request(link.peer.subscribe(NDS))
    assert link.pump() == ["NDS"]
    assert link.pump() == []


def test_a_route_that_does_not_exist_is_told_as_an_empty_one(world: World) -> None:
    link = world.connect()
    world.source.push((world.listeners, [make_listener("in", route="ghost")]))
    # Envoy's listener would wait for good if it were told as removed.
    assert link.pump() == ["LDS in", "RDS ghost"]
    link.close()
    world.restart()
    again = world.connect(link.peer)
    assert world.hub.stats.resources == 0
    world.source.push((world.routes, [make_route("ghost", "a")]))
    assert again.pump() == ["RDS ghost"]


def test_large_changes_go_as_several_responses(world: World) -> None:
    world.limits = StreamLimits(response_bytes=500)
    world.restart()
    world.clusters.content = {f"c{n}": make_cluster(f"c{n}", eds=False) for n in range(20)}
    link = world.connect()
    assert len(link.peer.names(CDS)) == 20
    assert world.hub.stats.of(CDS).responses == 3
    assert world.hub.stats.of(CDS).resources == 20


def test_a_change_for_many_is_sent_in_turns(world: World) -> None:
    """Requests of others are heard in between, and nothing is sent twice."""
    calls: list[Callable[[], None]] = []

    def clock() -> float:
        world.now += 0.015  # each look at the clock takes as long as sending to a stream
        return world.now

    world.source._listeners.clear()
    world.hub = Hub(world.source, clock=clock, call_at=lambda _when, call: calls.append(call))
    world.source.subscribe(world.hub)
    links = [world.connect() for _ in range(6)]
    links[5].close()
    before = world.hub.stats.of(RDS).responses
    world.source.push((world.routes, [make_route("r", "b")]))
    world.source.push((world.routes, [make_route("r", "c")]))
    assert world.hub.stats.of(RDS).responses < before + 5
    turns = 0
    while calls:
        calls.pop(0)()
        turns += 1
    assert turns > 1
    for link in links[:5]:
        link.pump()
    assert [link.peer.held[RDS]["r"][0] for link in links[:5]] == [make_route("r", "c").version] * 5


def test_one_failing_stream_does_not_stop_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = world.connect(), world.connect()

    def fail(now: float) -> None:
        raise RuntimeError("boom")

    broken = type("Broken", (type(one.stream),), {"__slots__": (), "next_responses": lambda self, now: fail(now)})
    one.stream.__class__ = broken
    world.source.push((world.routes, [make_route("r", "b")]))
    assert one.failure == "internal error"
    assert two.pump() == ["RDS r"]


def test_a_proxy_that_is_refused_is_sent_nothing_more(world: World) -> None:
    link, other = world.connect(), world.connect()
    link.peer.said()
    world.source.refuse(link.proxy)
    world.source.push((world.clusters, [make_cluster("c", eds=False)]))
    link.request(*link.peer.first(EDS))  # what was on its way
    link.pump()
    assert (link.failure, link.peer.said()) == ("not any more", [])
    assert list(world.hub.streams) == [other.stream]


def test_what_a_proxy_says_of_a_resource_commands_no_terminal(world: World) -> None:
    evil = DeltaPeer(refuse=lambda _type, name, _body: "no\x1b[2J\x9b\0\nreally" if name == "bad" else "")
    world.connect(evil)
    world.source.push((world.clusters, [make_cluster("bad", eds=False)]))
    link = world.connect(evil)
    link.pump()
    told = [error for _, _, names, error in world.source.rejections if "bad" in names]
    assert told
    assert {error.partition("no")[2] for error in told} == {"?[2J??\nreally"}
