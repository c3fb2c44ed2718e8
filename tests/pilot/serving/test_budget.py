"""The wire budget: what one change puts on the wire in a mesh of 200 services, for whom, and what it recomputes.

Counted, not timed. The proxies speak the protocol to the hub over the real Pilot, without sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from tests.fakes.xds import DeltaPeer, HubLink
from tests.pilot.serving.conftest import Bench, make_workload

from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, NDS, RDS, short_name

SERVICES = 200
SIDECARS = 5  # of the default namespace, so of one view
PER_RESPONSE_BYTES = 120  # nonce and type URL of a response
ENTRY_BYTES = 140  # name and version of each resource in it


def service(number: int, *, port: int = 9080, labels: str = "{}") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: svc-{number}, labels: {labels}}}
spec: {{ports: [{{port: {port}, name: http}}], selector: {{app: svc-{number}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: svc-{number}}}
spec:
  host: svc-{number}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
"""


def virtual_service(number: int, weight: int, export_to: str = "*") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: svc-{number}}}
spec:
  hosts: [svc-{number}]
  exportTo: ["{export_to}"]
  http:
  - route:
    - {{destination: {{host: svc-{number}, subset: v1}}, weight: {100 - weight}}}
    - {{destination: {{host: svc-{number}, subset: v2}}, weight: {weight}}}
"""


PLAIN = """
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {ports: [{port: 9080, name: http}], selector: {app: plain}}
"""


def clusters_of(number: int, port: int = 9080) -> tuple[str, ...]:
    return tuple(f"outbound|{port}|{subset}|svc-{number}.default.svc.cluster.local" for subset in ("v1", "v2", ""))


class Wire:
    """A mesh, its proxies, and what each of them was sent since last asked."""

    def __init__(self, services: int) -> None:
        self.bench = Bench()
        self.bench.apply("".join(service(number) for number in range(services)) + virtual_service(0, 10))
        self.bench.run(
            *(
                make_workload(
                    f"svc-{number}-{version}",
                    f"svc-{number}",
                    version,
                    f"10.77.{number}.{place}",
                    service_account="shop",
                )
                for number in range(services)
                for place, version in enumerate(("v1", "v2"), start=1)
            ),
            make_workload(
                "gate", "", "", "10.78.0.1", kind="gateway", service_account="gate", labels={"istio": "gate"}, ports=()
            ),
            make_workload("far-v1", "far", "v1", "10.78.0.2", namespace="other", service_account="far", ports=()),
        )
        self.hub = Hub(self.pilot.source)
        self.pilot.source.subscribe(self.hub)
        self.links: dict[str, HubLink] = {}

    @property
    def pilot(self) -> Pilot:
        return self.bench.pilot

    def join(
        self, name: str, *, kind: str = "sidecar", namespace: str = "default", peer: DeltaPeer | None = None
    ) -> None:
        peer = peer or DeltaPeer(f"{kind}~10.77.0.9~{name}.{namespace}~{namespace}.svc.cluster.local")
        link = self.links[name] = HubLink(self.hub, self.pilot.source, peer)  # type: ignore[arg-type]  # connects alike
        link.start(
            *(type_url for type_url in (CDS, EDS, LDS, RDS, NDS) if type_url in peer.held or type_url not in _FOLLOWED)
        )

    def sent(self, change: Callable[[], None]) -> tuple[dict[str, list[str]], int]:
        """Make a change; return what each proxy was sent, in order, without those that got nothing, and all bytes."""
        for link in self.links.values():
            assert link.pump() == []
        before = self.bytes_sent()
        self.pilot.graph.stats.reset()
        change()
        said = {name: link.pump() for name, link in self.links.items()}
        return {name: lines for name, lines in said.items() if lines}, self.bytes_sent() - before

    def bytes_sent(self) -> int:
        return sum(stats.sent_bytes for stats in self.hub.stats.by_type.values())

    def recomputed(self) -> int:
        return sum(self.pilot.graph.stats.recomputed.values())

    def budget(self, lines: Iterable[str]) -> int:
        """Return the bytes that responses with these resources of the sidecars' view may have."""
        total = 0
        for short, *names in (line.split() for line in lines):
            resources = [self.links["svc-0-v1"].proxy.slices[_TYPES[short]][0].get(name) for name in names]
            total += PER_RESPONSE_BYTES + sum(len(one.body) + ENTRY_BYTES for one in resources if one is not None)
        return total


_TYPES = {short_name(type_url): type_url for type_url in (CDS, EDS, LDS, RDS, NDS)}
_FOLLOWED = frozenset({EDS, RDS})  # asked for when something names them


def make_wire(services: int) -> Wire:
    wire = Wire(services)
    for number in range(SIDECARS):
        wire.join(f"svc-{number}-v1")
    wire.join("far-v1", namespace="other")
    wire.join("gate", kind="router")
    return wire


@pytest.fixture
def wire() -> Wire:
    return make_wire(SERVICES)


SIDECAR_NAMES = [f"svc-{number}-v1" for number in range(SIDECARS)]


def test_a_virtual_service_costs_one_route_configuration_a_stream(wire: Wire) -> None:
    sent, size = wire.sent(lambda: wire.bench.apply(virtual_service(0, 50)))
    assert sent == {name: ["RDS 9080"] for name in [*SIDECAR_NAMES, "far-v1"]}
    assert size <= len(sent) * wire.budget(["RDS 9080"])
    assert wire.pilot.graph.stats.recomputed["virtual host bytes"] == 2  # one a view
    assert wire.pilot.graph.stats.recomputed["route resources"] == 2


def test_what_is_exported_to_one_namespace_is_sent_to_its_view_alone(wire: Wire) -> None:
    wire.bench.apply(virtual_service(0, 50))
    for link in wire.links.values():
        link.pump()
    # The other namespace no longer sees the rule: its route changes, once. From then on it is not concerned.
    wire.sent(lambda: wire.bench.apply(virtual_service(0, 50, export_to=".")))
    sent, _ = wire.sent(lambda: wire.bench.apply(virtual_service(0, 60, export_to=".")))
    assert sent == {name: ["RDS 9080"] for name in SIDECAR_NAMES}


def test_a_proxy_that_asked_for_no_routes_is_sent_none(wire: Wire) -> None:
    node = "sidecar~10.77.0.9~svc-9-v1.default~default.svc.cluster.local"
    wire.join("svc-9-v1", peer=DeltaPeer(node, follows={}))
    sent, _ = wire.sent(lambda: wire.bench.apply(virtual_service(0, 20)))
    assert "svc-9-v1" not in sent
    assert sent["svc-0-v1"] == ["RDS 9080"]


def test_an_endpoint_costs_the_endpoints_of_its_clusters(wire: Wire) -> None:
    """Of a service with subsets these are two: all endpoints, and those of the one subset it belongs to."""
    wire.bench.apply(PLAIN)
    # A service's first endpoint also tells its cluster whose certificates to expect: the accounts that run it.
    wire.bench.run(make_workload("plain-v1", "plain", "v1", "10.79.0.1"))
    for link in wire.links.values():
        link.pump()
    line = "EDS outbound|9080||plain.default.svc.cluster.local"
    everyone = [*SIDECAR_NAMES, "far-v1", "gate"]
    sent, size = wire.sent(lambda: wire.bench.run(make_workload("plain-v2", "plain", "v2", "10.79.0.3")))
    assert sent == {name: [line] for name in everyone}
    assert size <= len(everyone) * wire.budget([line])
    assert size < len(everyone) * 1000
    number = 7
    moved = make_workload(f"svc-{number}-v2", f"svc-{number}", "v2", "10.79.0.2", service_account="shop")
    sent, size = wire.sent(lambda: wire.bench.run(moved))
    _, second, every = clusters_of(number)
    assert sent == {name: [f"EDS {second} {every}"] for name in everyone}
    assert size < len(everyone) * 2000


def test_labels_that_a_tool_rewrote_cost_nothing(wire: Wire) -> None:
    sent, size = wire.sent(lambda: wire.bench.apply(service(3, labels="{touched: by-a-tool}")))
    assert (sent, size) == ({}, 0)


def test_the_same_again_costs_nothing(wire: Wire) -> None:
    sent, size = wire.sent(lambda: wire.bench.apply(service(3) + virtual_service(0, 10)))
    assert (sent, size) == ({}, 0)
    assert wire.recomputed() == 0


@pytest.mark.parametrize(
    ("port", "listeners"), [pytest.param(9080, [], id="a port in use"), pytest.param(9999, [9999], id="a new port")]
)
def test_a_new_service_costs_its_own_resources(wire: Wire, port: int, listeners: list[int]) -> None:
    number = 900
    sent, size = wire.sent(lambda: wire.bench.apply(service(number, port=port)))
    clusters = " ".join(clusters_of(number, port))
    own = [f"CDS {clusters}", f"EDS {clusters}"]
    own += [f"LDS 0.0.0.0_{port}" for port in listeners] + [f"RDS {port}", "NDS nametable"]
    assert {name: sorted(lines) for name, lines in sent.items()} == {
        **{name: sorted(own) for name in [*SIDECAR_NAMES, "far-v1"]},
        "gate": sorted(own[:2]),  # a gateway has no listener for it, and names come from a sidecar's agent
    }
    assert size <= sum(wire.budget(lines) for lines in sent.values())


def test_work_follows_the_change_not_the_mesh() -> None:
    """Ten times the services, the same number of values computed anew."""
    found = []
    for services in (20, SERVICES):
        wire = make_wire(services)
        costs = []
        for change in (
            lambda wire=wire: wire.bench.apply(virtual_service(0, 50)),
            lambda wire=wire: wire.bench.run(
                make_workload("svc-7-v2", "svc-7", "v2", "10.79.0.2", service_account="shop")
            ),
            lambda wire=wire: wire.bench.apply(service(3, labels="{a: b}")),
            lambda wire=wire: wire.bench.apply(service(900)),
        ):
            wire.sent(change)
            costs.append(wire.recomputed())
        found.append(costs)
    assert found[0] == found[1]


def test_a_new_control_plane_sends_nothing_again(wire: Wire) -> None:
    after = Wire(SERVICES)
    for name, link in wire.links.items():
        peer = link.peer
        assert isinstance(peer, DeltaPeer)
        kind, namespace = peer.node_id.split("~")[0], "other" if name == "far-v1" else "default"
        after.join(name, kind=kind, namespace=namespace, peer=peer)
    totals = {
        short_name(type_url): stats.resources + stats.removed for type_url, stats in after.hub.stats.by_type.items()
    }
    assert totals == dict.fromkeys(totals, 0)
    assert {"CDS", "EDS", "LDS", "RDS"} <= set(totals)
