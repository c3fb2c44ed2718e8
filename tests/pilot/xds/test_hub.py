"""What streams are sent, and in which order, seen by clients that behave like Envoy. No transport."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.stream import StreamLimits
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, NDS, RDS
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
