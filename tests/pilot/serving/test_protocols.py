"""Which filters carry a port's connections, decided by Pilot from Services and VirtualServices, without sockets."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench, make_workload

from lateen.pilot.serving.scopes import CDS, LDS
from lateen.pilot.serving.source import MeshProxy

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: store, annotations: {{lateen.local/redis-proxy: "{asked}"}}}}
spec: {{selector: {{app: store}}, clusterIP: {address}, ports: [{{name: {protocol}, port: 7000}}]}}
"""
RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: store}}
spec: {{host: store, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: store}}
spec: {{hosts: [store], tcp: [{{route: [{route}]}}]}}
"""
ONE = "{destination: {host: store, subset: v1}}"
TWO = "{destination: {host: store, subset: v1}, weight: 50}, {destination: {host: store, subset: v2}, weight: 50}"


def filters(
    bench: Bench, protocol: str, *, asked: str = "false", address: str = "10.96.7.7", route: str = ""
) -> list[str]:
    """Return the short names of the filters on the way to the service, and the balancing of its cluster."""
    bench.apply(SERVICE.format(asked=asked, address=address, protocol=protocol))
    if route:
        bench.apply(RULES.format(route=route))
    bench.run(make_workload("store-v1", "store", "v1", "10.77.0.40", ports=((protocol, 7000, 7000),)))
    proxy = bench.connect("client-v1")
    name = f"{'10.77.0.40' if address == 'None' else address}_7000"
    (chain,) = unpacked(proxy, LDS, name, Listener).filter_chains
    cluster = unpacked(proxy, CDS, "outbound|7000||store.default.svc.cluster.local", Cluster)
    return [one.name.rpartition(".")[2] for one in chain.filters] + [Cluster.LbPolicy.Name(cluster.lb_policy)]


def unpacked(proxy: MeshProxy, type_url: str, name: str, kind: Any) -> Any:
    found = next(resource for one in proxy.slices[type_url] if (resource := one.get(name)) is not None)
    message = kind()
    assert AnyMessage.FromString(found.body).Unpack(message)
    return message


@pytest.mark.parametrize(
    ("asking", "carried_by"),
    [
        pytest.param({"protocol": "tcp"}, ["tcp_proxy", "LEAST_REQUEST"], id="tcp"),
        pytest.param({"protocol": "mysql"}, ["tcp_proxy", "LEAST_REQUEST"], id="mysql"),
        pytest.param({"protocol": "mongo"}, ["mongo_proxy", "tcp_proxy", "LEAST_REQUEST"], id="mongo"),
        pytest.param(
            {"protocol": "mongo", "route": ONE}, ["mongo_proxy", "tcp_proxy", "LEAST_REQUEST"], id="mongo-routed"
        ),
        pytest.param(
            {"protocol": "mongo", "route": TWO}, ["mongo_proxy", "tcp_proxy", "LEAST_REQUEST"], id="mongo-weighted"
        ),
        pytest.param({"protocol": "redis"}, ["tcp_proxy", "LEAST_REQUEST"], id="redis-not-asked"),
        pytest.param({"protocol": "redis", "asked": "true"}, ["redis_proxy", "MAGLEV"], id="redis-asked"),
        pytest.param(
            {"protocol": "redis", "asked": "true", "route": ONE}, ["redis_proxy", "MAGLEV"], id="redis-routed"
        ),
        pytest.param(
            {"protocol": "redis", "asked": "true", "route": TWO}, ["tcp_proxy", "MAGLEV"], id="redis-weighted"
        ),
        pytest.param(
            {"protocol": "redis", "asked": "true", "address": "None"},
            ["tcp_proxy", "CLUSTER_PROVIDED"],
            id="redis-headless",
        ),
        pytest.param({"protocol": "tcp", "asked": "true"}, ["tcp_proxy", "LEAST_REQUEST"], id="asked-but-no-redis"),
    ],
)
def test_what_carries_a_port(bench: Bench, asking: dict[str, str], carried_by: list[str]) -> None:
    assert filters(bench, **asking) == carried_by
