"""Laws that hold whatever happens, in whatever order: changes, reconnects, restarts, slow and refusing clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.xds import (
    DeltaPeer,
    FakeSlice,
    FakeSource,
    HubLink,
    make_cluster,
    make_endpoints,
    make_listener,
    make_route,
)

from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.references import references
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.stream import StreamLimits
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS

TYPES = (CDS, EDS, LDS, RDS)
CLUSTERS = ("a", "b", "c", "d")
ROUTES = ("r", "s")


@dataclass
class Mesh:
    """A source whose content never names a cluster that it does not have, and one client of it."""

    targets: dict[str, str] = field(default_factory=lambda: {"r": "a", "s": "a"})
    resent: int = 0  # resources, but endpoints, that the client held in just this version

    def __post_init__(self) -> None:
        self.slices = {
            CDS: FakeSlice(CDS, make_cluster("a")),
            EDS: FakeSlice(EDS, make_endpoints("a", 1)),
            LDS: FakeSlice(LDS, make_listener("in", route="r")),
            RDS: FakeSlice(RDS, *(make_route(name, "a") for name in ROUTES)),
        }
        self.source = FakeSource(*self.slices.values())
        self.peer = DeltaPeer(refuse=lambda _type, _name, body: "refused" if b"refuse-me" in body else "")
        self.restart()
        self.link = HubLink(self.hub, self.source, self.peer)
        self.link.start(*TYPES)

    def restart(self) -> None:
        self.source._listeners.clear()
        self.hub = Hub(self.source, limits=StreamLimits(patience_seconds=float("inf")))
        self.source.subscribe(self.hub)

    def reconnect(self, *, restart: bool) -> None:
        self.link.close()
        assert not self.slices[EDS].wanted
        if restart:
            self.restart()
        self.link = HubLink(self.hub, self.source, self.peer)
        self.link.request(*self.peer.first(*TYPES))

    def change(self, *, route: str, target: str, seconds: int, port: int, drop: bool, listener: str) -> None:
        """Move a route to a cluster, new or changed by then; perhaps drop clusters that no route goes to by then."""
        self.targets[route] = target
        gone = [c for c in self.slices[CDS].content if drop and c not in self.targets.values()]
        clusters: list[Resource | str] = [make_cluster(target, seconds=seconds), *gone]
        endpoints: list[Resource | str] = [make_endpoints(target, port), *gone]
        self.source.push(
            (self.slices[RDS], [make_route(route, target)]),
            (self.slices[LDS], [make_listener("in", route=listener)]),
            (self.slices[CDS], clusters),
            (self.slices[EDS], endpoints),
        )

    def deliver(self) -> bool:
        if not self.link._inbox:
            return False
        response = DeltaDiscoveryResponse.FromString(self.link._inbox[0])
        held = self.peer.held.get(response.type_url, {})
        if response.type_url != EDS:
            self.resent += sum(held.get(e.name, ("",))[0] == e.version for e in response.resources)
        self.link.deliver()
        self.check()
        return True

    def check(self) -> None:
        """Nothing that the client serves by names a cluster that it lacks, or that lacks its endpoints."""
        serving = {name for _, body in self.peer.held.get(LDS, {}).values() for name in references(LDS, body)}
        for name, (_, body) in self.peer.held.get(RDS, {}).items():
            if name in serving:
                for cluster in _clusters_of(body):
                    assert cluster in self.peer.held[CDS]
                    assert cluster in self.peer.held[EDS]


def _clusters_of(body: bytes) -> set[str]:
    config = RouteConfiguration.FromString(AnyMessage.FromString(body).value)
    return {route.route.cluster for host in config.virtual_hosts for route in host.routes}


changes = st.fixed_dictionaries(
    {
        "route": st.sampled_from(ROUTES),
        "target": st.sampled_from(CLUSTERS),
        "seconds": st.integers(1, 2),
        "port": st.integers(1, 2),
        "drop": st.booleans(),
        "listener": st.sampled_from(ROUTES),
    }
)
steps = st.lists(
    st.one_of(changes, st.sampled_from(["deliver", "deliver", "deliver", "reconnect", "restart"])), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_a_client_ends_with_the_content_and_never_names_what_it_lacks(steps: list[object]) -> None:
    mesh = Mesh()
    for step in steps:
        match step:
            case "deliver":
                mesh.deliver()
            case "reconnect" | "restart":
                mesh.reconnect(restart=step == "restart")
            case dict():
                mesh.change(**step)
    while mesh.deliver():
        pass
    for type_url in (CDS, LDS):
        content = mesh.slices[type_url].content
        assert {n: v for n, (v, _) in mesh.peer.held[type_url].items()} == {n: r.version for n, r in content.items()}
    for type_url in (EDS, RDS):
        content = mesh.slices[type_url].content
        asked = mesh.peer.asked[type_url] & content.keys()
        assert {n: b for n, (_, b) in mesh.peer.held[type_url].items()} == {n: content[n].body for n in asked}
    assert mesh.resent == 0
    assert all(not state.behind and state.in_flight is None for state in mesh.link.stream.types.values())
    # What a reconnect then sends is nothing.
    mesh.reconnect(restart=True)
    assert not mesh.deliver()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLUSTERS), st.sampled_from([1, 2, 666]), st.booleans()), max_size=20))
def test_a_client_that_refuses_some_ends_with_the_last_good_of_each(pushes: list[tuple[str, int, bool]]) -> None:
    mesh = Mesh()
    good = {"a": make_cluster("a").version}
    for name, seconds, deliver in pushes:
        cluster = make_cluster(name, eds=False, seconds=seconds, service_name="refuse-me" if seconds == 666 else "")
        mesh.source.push((mesh.slices[CDS], [cluster]))
        while deliver and mesh.link.deliver():
            pass
    while mesh.link.deliver():
        pass
    content = mesh.slices[CDS].content
    bad = {name for name, resource in content.items() if b"refuse-me" in resource.body}
    held = {name: version for name, (version, _) in mesh.peer.held[CDS].items()}
    assert {n: v for n, v in held.items() if n not in bad} == {n: r.version for n, r in content.items() if n not in bad}
    assert set(mesh.link.stream.types[CDS].rejected) == bad
    assert {name for _, _, names, _ in mesh.source.rejections for name in names} >= bad
    assert good.keys() <= held.keys()
