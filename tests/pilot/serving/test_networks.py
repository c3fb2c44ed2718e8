"""Endpoints of another network are reached by its gateways."""

from __future__ import annotations

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench, make_workload

from lateen.pilot.serving.scopes import EDS
from lateen.pilot.serving.source import MeshProxy

CLUSTER = "outbound|80||db.default.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: http, port: 80}]}
"""
GATEWAY = """
apiVersion: v1
kind: Service
metadata: {name: eastwest, namespace: istio-system}
spec: {selector: {istio: eastwest}, ports: [{name: tls, port: 15443}]}
"""


def networks(text: str) -> str:
    return f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshNetworks\nmetadata: {{name: networks}}\nnetworks: {text}\n"


def endpoints(proxy: MeshProxy, cluster: str = CLUSTER) -> dict[str, tuple[int, bool]]:
    """address:port -> weight, and whether mutual TLS is spoken."""
    resource = proxy.slices[EDS][0].get(cluster)
    assert resource is not None
    assignment = ClusterLoadAssignment()
    assert AnyMessage.FromString(resource.body).Unpack(assignment)
    return {
        f"{e.endpoint.address.socket_address.address}:{e.endpoint.address.socket_address.port_value}": (
            e.load_balancing_weight.value,
            "envoy.transport_socket_match" in e.metadata.filter_metadata,
        )
        for group in assignment.endpoints
        for e in group.lb_endpoints
    }


@pytest.fixture
def client(bench: Bench) -> MeshProxy:
    bench.apply(SERVICE)
    labels = {"app": "db"}
    bench.run(
        make_workload("client", "", "", "10.77.0.2", ports=(), labels={"app": "client"}),
        make_workload("db-here", "", "", "10.77.0.3", labels=labels, ports=(("http", 80, 80),)),
        make_workload("db-east", "", "", "10.77.0.4", labels=labels, ports=(("http", 80, 80),), network="east"),
    )
    return bench.connect("client")


DIRECT = {"10.77.0.3:80": (1, True), "10.77.0.4:80": (1, True)}


def test_without_gateways_all_is_one_network(bench: Bench, client: MeshProxy) -> None:
    assert endpoints(client) == DIRECT
    bench.apply(networks("{east: {endpoints: [{fromCidr: 10.9.0.0/16}], gateways: []}}"))
    assert endpoints(client) == DIRECT


def test_endpoints_of_another_network_are_its_gateways(bench: Bench, client: MeshProxy) -> None:
    bench.apply(networks("{east: {endpoints: [], gateways: [{address: 192.0.2.1, port: 15443}]}}"))
    assert endpoints(client) == {"10.77.0.3:80": (1, True), "192.0.2.1:15443": (1, True)}
    # A client of that network goes there itself; what is in no network has no gateway.
    bench.run(make_workload("other", "", "", "10.77.0.5", ports=(), labels={"app": "client"}, network="east"))
    assert endpoints(bench.connect("other")) == DIRECT
    bench.delete("MeshNetworks", "networks", "")
    assert endpoints(client) == DIRECT


def test_gateways_share_the_weight_of_what_is_behind_them(bench: Bench, client: MeshProxy) -> None:
    labels = {"app": "db"}
    bench.run(make_workload("db-2", "", "", "10.77.0.6", labels=labels, ports=(("http", 80, 80),), network="east"))
    bench.run(make_workload("db-3", "", "", "10.77.0.7", labels=labels, ports=(("http", 80, 80),), network="west"))
    east = "{endpoints: [], gateways: [{address: 192.0.2.1, port: 15443}, {address: 192.0.2.2, port: 443}]}"
    west = "{endpoints: [], gateways: [" + ", ".join(f"{{address: 192.0.2.{n}, port: 1}}" for n in (7, 8, 9)) + "]}"
    bench.apply(networks(f"{{east: {east}, west: {west}}}"))
    # Four endpoints of equal weight: one here, two behind two gateways, one behind three.
    assert endpoints(client) == {
        "10.77.0.3:80": (6, True),
        "192.0.2.1:15443": (6, True),
        "192.0.2.2:443": (6, True),
        **{f"192.0.2.{n}:1": (2, True) for n in (7, 8, 9)},
    }


def test_only_mutual_tls_passes_a_gateway(bench: Bench, client: MeshProxy) -> None:
    bench.apply(networks("{east: {endpoints: [], gateways: [{address: 192.0.2.1, port: 15443}]}}"))
    for name, more in (("plain", ""), ("mesh", ", serviceAccount: db")):
        bench.apply(
            f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n"
            f"spec:\n  hosts: [{name}.test]\n  location: MESH_INTERNAL\n  resolution: STATIC\n"
            "  ports: [{number: 80, name: http, protocol: HTTP}]\n"
            f"  endpoints: [{{address: 10.1.1.1, network: east{more}}}, {{address: 10.1.1.2}}]\n"
        )
    assert endpoints(client, "outbound|80||plain.test") == {"10.1.1.2:80": (1, False)}
    assert endpoints(client, "outbound|80||mesh.test") == {"10.1.1.2:80": (1, False), "192.0.2.1:15443": (1, True)}


def test_an_entry_without_address_is_all_that_is_behind_a_gateway(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: db-there}\n"
        "spec: {network: west, labels: {app: db}, serviceAccount: db, weight: 3}\n"
    )
    assert endpoints(client) == DIRECT
    bench.apply(networks("{west: {endpoints: [], gateways: [{address: 192.0.2.1, port: 15443}]}}"))
    assert endpoints(client) == {**DIRECT, "192.0.2.1:15443": (3, True)}


@pytest.mark.parametrize("where", ["fromCidr: 10.77.0.4/32", "fromCidr: 10.77.0.4"])
def test_an_address_tells_its_network(bench: Bench, client: MeshProxy, where: str) -> None:
    bench.run(
        make_workload("db-east", "", "", "10.77.0.4", labels={"app": "db"}, ports=(("http", 80, 80),)),
    )
    bench.apply(networks(f"{{range: {{endpoints: [{{{where}}}], gateways: [{{address: 192.0.2.1, port: 15443}}]}}}}"))
    assert endpoints(client) == {"10.77.0.3:80": (1, True), "192.0.2.1:15443": (1, True)}


def test_a_registry_is_a_network_and_what_a_proxy_says_itself_comes_first(bench: Bench, client: MeshProxy) -> None:
    text = "{{{name}: {{endpoints: [{{fromRegistry: lateen}}], gateways: [{{address: 192.0.2.1, port: 15443}}]}}}}"
    bench.apply(networks(text.format(name="home")))
    # Client and db-here are at home; db-east says that it is not, and its network has no gateway.
    assert endpoints(client) == DIRECT
    bench.run(make_workload("other", "", "", "10.77.0.5", ports=(), labels={"app": "client"}, network="east"))
    assert endpoints(bench.connect("other")) == {"192.0.2.1:15443": (1, True), "10.77.0.4:80": (1, True)}


def test_a_gateway_may_be_a_service(bench: Bench, client: MeshProxy) -> None:
    host = "eastwest.istio-system.svc.cluster.local"
    bench.apply(GATEWAY)
    bench.apply(networks(f"{{east: {{endpoints: [], gateways: [{{registryServiceName: {host}, port: 15443}}]}}}}"))
    assert endpoints(client) == DIRECT, "it has no workload yet"
    gateway = {"namespace": "istio-system", "kind": "gateway", "labels": {"istio": "eastwest"}, "ports": ()}
    bench.run(make_workload("eastwest", "", "", "10.77.0.9", network="east", **gateway))
    assert endpoints(client) == {"10.77.0.3:80": (1, True), "10.77.0.9:15443": (1, True)}
    bench.stop("eastwest")
    assert endpoints(client) == DIRECT


@pytest.mark.parametrize(("more", "port"), [("", 15443), (", networking.istio.io/gatewayPort: '15444'", 15444)])
def test_a_service_may_say_itself_that_it_is_a_networks_gateway(
    bench: Bench, client: MeshProxy, more: str, port: int
) -> None:
    bench.apply(
        GATEWAY.replace("name: eastwest,", f"name: eastwest, labels: {{topology.istio.io/network: east{more}}},")
    )
    gateway = {"namespace": "istio-system", "kind": "gateway", "labels": {"istio": "eastwest"}, "ports": ()}
    bench.run(make_workload("eastwest", "", "", "10.77.0.9", network="east", **gateway))
    assert endpoints(client) == {"10.77.0.3:80": (1, True), f"10.77.0.9:{port}": (1, True)}


def test_where_a_gateway_is(bench: Bench, client: MeshProxy) -> None:
    there = "{address: 192.0.2.1, port: 15443, locality: us/us-1}"
    bench.apply(networks(f"{{east: {{endpoints: [], gateways: [{there}, {{address: 192.0.2.2, port: 15443}}]}}}}"))
    bench.run(
        make_workload(
            "db-east",
            "",
            "",
            "10.77.0.4",
            labels={"app": "db"},
            ports=(("http", 80, 80),),
            network="east",
            locality="eu/eu-1",
        )
    )
    resource = client.slices[EDS][0].get(CLUSTER)
    assert resource is not None
    assignment = ClusterLoadAssignment()
    assert AnyMessage.FromString(resource.body).Unpack(assignment)
    assert {
        (group.locality.region, e.endpoint.address.socket_address.address)
        for group in assignment.endpoints
        for e in group.lb_endpoints
    } == {("", "10.77.0.3"), ("us", "192.0.2.1"), ("eu", "192.0.2.2")}
