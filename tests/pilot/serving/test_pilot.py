"""What a change does to what proxies hold: which resources, for whom, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench

from lateen.errors import Refused, Unavailable
from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, EDS, LDS, RDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.xds.source import Identity, NodeInfo

REVIEWS = "outbound|9080||reviews.default.svc.cluster.local"
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v3, labels: {version: v3}}
"""
TO_V3 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - route: [{destination: {host: reviews, subset: v3}}]
"""


def endpoints(proxy: MeshProxy, cluster: str) -> list[str]:
    resource = proxy.slices[EDS][0].get(cluster)
    assert resource is not None
    packed = AnyMessage.FromString(resource.body)
    assignment = ClusterLoadAssignment()
    assert packed.Unpack(assignment)
    return sorted(
        endpoint.endpoint.address.socket_address.address
        for locality in assignment.endpoints
        for endpoint in locality.lb_endpoints
    )


def routes(proxy: MeshProxy, name: str) -> RouteConfiguration:
    resource = proxy.slices[RDS][0].get(name)
    assert resource is not None
    config = RouteConfiguration()
    assert AnyMessage.FromString(resource.body).Unpack(config)
    return config


def names(proxy: MeshProxy, type_url: str) -> set[str]:
    return {name for one in proxy.slices[type_url] for name in one.all()}


def test_a_sidecar_of_the_shop_holds_istios_names(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    assert names(proxy, CDS) == {
        "BlackHoleCluster",
        "PassthroughCluster",
        "InboundPassthroughCluster",
        "inbound|9080||",
        *(
            f"outbound|9080||{name}.default.svc.cluster.local"
            for name in ("details", "productpage", "ratings", "reviews")
        ),
    }
    assert names(proxy, LDS) == {"virtualOutbound", "virtualInbound", "0.0.0.0_9080"}
    assert endpoints(proxy, REVIEWS) == ["10.77.0.12", "10.77.0.13", "10.77.0.14"]
    hosts = {host.name: list(host.domains) for host in routes(proxy, "9080").virtual_hosts}
    assert set(hosts) == {
        "allow_any",
        *(f"{name}.default.svc.cluster.local:9080" for name in ("details", "productpage", "ratings", "reviews")),
    }
    assert hosts["reviews.default.svc.cluster.local:9080"][:3] == [
        "reviews.default.svc.cluster.local",
        "reviews.default.svc.cluster.local.",
        "reviews",
    ]
    assert shop.pilot.problems() == []


def test_the_gateway_serves_the_shops_virtual_service(shop: Bench) -> None:
    gateway = shop.connect("ingressgateway", kind="router")
    assert names(gateway, LDS) == {"0.0.0.0_80"}
    (host,) = routes(gateway, "http.80").virtual_hosts
    assert list(host.domains) == ["*"]
    targets = {route.route.cluster for route in host.routes}
    assert targets == {"outbound|9080||productpage.default.svc.cluster.local"}


def test_a_virtual_service_changes_one_route_configuration(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    routes(proxy, "9080")
    endpoints(proxy, REVIEWS)
    shop.apply(SUBSETS)
    changed = shop.recorder.take()
    subsets = [f"outbound|9080|{subset}|reviews.default.svc.cluster.local" for subset in ("v1", "v3")]
    # The service's own cluster names its rule in its metadata, so it changes too; nothing else does.
    assert changed == {"Cluster": ([REVIEWS, *subsets], [])} or changed == {
        "Cluster": (sorted([REVIEWS, *subsets]), [])
    }
    shop.apply(TO_V3)
    assert shop.recorder.take() == {"RouteConfiguration": (["9080"], [])}
    host = next(host for host in routes(proxy, "9080").virtual_hosts if host.name.startswith("reviews."))
    assert [route.route.cluster for route in host.routes] == subsets
    assert endpoints(proxy, subsets[1]) == ["10.77.0.14"]
    shop.delete("VirtualService", "reviews")
    assert shop.recorder.take() == {"RouteConfiguration": (["9080"], [])}


def test_one_endpoint_more_or_less_costs_its_clusters_endpoints_only(
    shop: Bench, make: Callable[..., Workload]
) -> None:
    proxy = shop.connect("productpage-v1")
    endpoints(proxy, REVIEWS)
    endpoints(proxy, "outbound|9080||details.default.svc.cluster.local")
    shop.pilot.graph.stats.reset()
    shop.run(make("reviews-v4", "reviews", "v4", "10.77.0.40"))
    assert shop.recorder.take() == {"ClusterLoadAssignment": ([REVIEWS], [])}
    assert shop.pilot.graph.stats.recomputed["endpoint resources"] == 1
    shop.run(make("reviews-v4", "reviews", "v4", "10.77.0.40", ready=False))
    assert shop.recorder.take() == {"ClusterLoadAssignment": ([REVIEWS], [])}
    shop.stop("reviews-v4")
    assert shop.recorder.take() == {}
    assert endpoints(proxy, REVIEWS) == ["10.77.0.12", "10.77.0.13", "10.77.0.14"]


def test_a_change_that_alters_nothing_is_sent_to_nobody(shop: Bench) -> None:
    shop.connect("productpage-v1")
    shop.apply(
        "apiVersion: v1\nkind: Service\n"
        "metadata: {name: details, labels: {touched: by-a-tool, app: details, service: details}}\n"
        "spec: {ports: [{port: 9080, name: http}], selector: {app: details}}"
    )
    assert shop.recorder.take() == {}


def test_a_service_that_only_a_workload_names_is_reachable(bench: Bench, make: Callable[..., Workload]) -> None:
    bench.run(make("client-v1", "client", "v1", "10.77.0.5"))
    proxy = bench.connect("client-v1")
    bench.recorder.take()
    bench.run(make("echo-v1", "echo", "v1", "10.77.0.6", ports=(("http", 8080, 8080),)))
    changed = bench.recorder.take()
    assert "outbound|8080||echo.default.svc.cluster.local" in changed["Cluster"][0]
    assert "0.0.0.0_8080" in changed["Listener"][0]
    assert endpoints(proxy, "outbound|8080||echo.default.svc.cluster.local") == ["10.77.0.6"]
    bench.stop("echo-v1")
    assert "outbound|8080||echo.default.svc.cluster.local" in bench.recorder.take()["Cluster"][1]


def test_proxies_of_one_view_share_their_resources(shop: Bench) -> None:
    one, other = shop.connect("reviews-v1"), shop.connect("ratings-v1")
    assert one.slices[CDS][0] is other.slices[CDS][0]
    assert one.slices[CDS][1] is not other.slices[CDS][1]
    made = shop.pilot.render.interned.made
    shop.connect("details-v1")
    assert shop.pilot.render.interned.made == made


def test_the_last_proxy_of_a_view_leaves_nothing_live(shop: Bench) -> None:
    held = sum(shop.pilot.graph.stats.held.values())
    proxies = [shop.connect(name) for name in ("reviews-v1", "ratings-v1")]
    for proxy in proxies:
        endpoints(proxy, REVIEWS)
        routes(proxy, "9080")
        proxy.close()
    assert sum(shop.pilot.graph.stats.held.values()) == held
    assert not shop.pilot.scopes.views
    assert not shop.pilot.scopes.workloads


@pytest.mark.parametrize(
    ("spiffe_id", "node", "metadata"),
    [
        pytest.param("spiffe://cluster.local/ns/default/sa/bookinfo-ratings", "reviews-v1", {}, id="another account"),
        pytest.param("spiffe://cluster.local/ns/other/sa/bookinfo-reviews", "reviews-v1", {}, id="another namespace"),
        pytest.param("spiffe://elsewhere/ns/default/sa/bookinfo-reviews", "reviews-v1", {}, id="another trust domain"),
    ],
)
def test_a_certificate_opens_only_its_own_configuration(
    shop: Bench, spiffe_id: str, node: str, metadata: dict[str, str]
) -> None:
    info = NodeInfo(
        id=f"sidecar~10.77.0.9~{node}.default~default.svc.cluster.local",
        metadata={"NAMESPACE": "default", "SERVICE_ACCOUNT": "bookinfo-reviews", **metadata},
    )
    with pytest.raises(Refused):
        shop.pilot.source.connect(info, Identity(spiffe_id))
    assert shop.pilot.source.connect(info, Identity("spiffe://cluster.local/ns/default/sa/bookinfo-reviews"))


def test_silence_about_the_account_opens_nothing_more(shop: Bench) -> None:
    info = NodeInfo(id="sidecar~10.77.0.9~reviews-v1.default~default.svc.cluster.local", metadata={})
    with pytest.raises(Refused):
        shop.pilot.source.connect(info, Identity("spiffe://cluster.local/ns/default/sa/bookinfo-ratings"))
    assert shop.pilot.source.connect(info, Identity("spiffe://cluster.local/ns/default/sa/bookinfo-reviews"))


@pytest.mark.parametrize(
    ("namespace", "account"),
    [
        pytest.param("other", "bookinfo-reviews", id="another namespace"),
        pytest.param("default", "bookinfo-ratings", id="another account"),
    ],
)
@pytest.mark.parametrize("registered", [True, False], ids=["it was registered", "it never was"])
def test_who_held_a_name_before_is_refused_when_another_gets_it(
    shop: Bench, make: Callable[..., Workload], namespace: str, account: str, registered: bool
) -> None:
    """A certificate outlives its workload: its holder must not be served as whoever has the name next."""
    name = "reviews-v1" if registered else "unheard-of"
    info = NodeInfo(id=f"sidecar~10.77.0.9~{name}.default~default.svc.cluster.local")
    mine = Identity("spiffe://cluster.local/ns/default/sa/bookinfo-reviews")
    held = shop.pilot.source.connect(info, mine)
    again = make(name, "reviews", "v1", "10.77.0.99", namespace="default", service_account="bookinfo-reviews")
    shop.run(again)
    assert shop.recorder.refused == []
    shop.pilot.source.check(held)
    if registered:
        shop.stop(name)
    shop.run(make(name, "reviews", "v1", "10.77.0.77", namespace=namespace, service_account=account))
    ((refused, reason),) = shop.recorder.refused
    assert refused is held
    assert reason == f"workload '{name}' is of another namespace or service account now"
    assert held not in shop.recorder.moved
    with pytest.raises(Refused):
        shop.pilot.source.check(held)
    held.close()  # as its stream does, once more
    with pytest.raises(Refused):
        shop.pilot.source.connect(info, mine)


def test_streams_from_before_and_after_a_registration_both_end(bench: Bench, make: Callable[..., Workload]) -> None:
    early = bench.connect("edge", kind="router", LABELS={"istio": "ingressgateway"})
    bench.run(make("edge", "", "", "10.77.0.2", kind="gateway", labels={"istio": "ingressgateway"}, ports=()))
    late = bench.connect("edge", kind="router")
    late.close()
    early.close()
    assert not bench.pilot.scopes.views


def test_nobody_is_served_before_the_sources_were_read(bench: Bench) -> None:
    bench.pilot.source.ready = False
    with pytest.raises(Unavailable):
        bench.connect("reviews-v1")


def test_a_rejection_names_the_resources_that_shaped_it(shop: Bench) -> None:
    shop.apply(SUBSETS + "---" + TO_V3)
    proxy = shop.connect("productpage-v1")
    routes(proxy, "9080")
    shop.pilot.source.rejected(proxy, RDS, ("9080",), "no such thing")
    told = [problem for problem in shop.pilot.problems() if problem.level == "error"]
    assert any(problem.resource is not None and problem.resource.kind == "VirtualService" for problem in told)
    assert all("no such thing" in problem.message and problem.file == "test.yaml" for problem in told)
    shop.pilot.source.accepted(proxy, RDS, ("9080",))
    assert [problem for problem in shop.pilot.problems() if problem.level == "error"] == []


def test_what_is_not_acted_on_is_told_as_long_as_it_stands(bench: Bench) -> None:
    text = (
        "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {name: default}\n"
        "spec: {lua: {inlineCode: '%s'}}"
    )
    bench.apply(text % "true")
    bench.apply(text % "false")
    (told,) = bench.pilot.problems()
    assert (told.level, told.resource and told.resource.kind) == ("warning", "TrafficExtension")
    bench.delete("TrafficExtension", "default")
    assert bench.pilot.problems() == []


def test_an_entry_with_a_name_for_an_address_is_left_out_of_endpoints(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    assert endpoints(proxy, REVIEWS) == ["10.77.0.12", "10.77.0.13", "10.77.0.14"]
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm}\n"
        "spec: {address: vm.example.com, labels: {app: reviews}}\n"
        "---\n"
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm2}\n"
        "spec: {address: 10.1.2.3, labels: {app: reviews}}\n"
    )
    assert endpoints(proxy, REVIEWS) == ["10.1.2.3", "10.77.0.12", "10.77.0.13", "10.77.0.14"]
