"""What a workload may be, and who its proxies say they are."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes.agent_mesh import MESH

from lateen.agent.spec import HostListener, Place, WorkloadSpec, build_node, check_spec, effective_labels
from lateen.errors import BadInput
from lateen.wire.local import WorkloadPort

REVIEWS = WorkloadSpec(name="reviews-v3", service="reviews", version="v3", argv=("app",))


def port(name: str = "http", number: int = 9080, target: int = 9080) -> WorkloadPort:
    return WorkloadPort(name=name, number=number, target=target)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="plain"),
        pytest.param({"ports": (port(), port("tcp", 9090, 9080))}, id="two ports, one target"),
        pytest.param({"kind": "gateway", "argv": (), "listeners": (HostListener(port=80, gateway_port=80),)}, id="gw"),
        pytest.param({"service_account": "a.b"}, id="service account with a dot"),
        pytest.param({"locality": "eu-1/one/rack-7"}, id="locality"),
    ],
)
def test_workloads_that_can_be(change: dict[str, Any]) -> None:
    check_spec(dataclasses.replace(REVIEWS, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"name": "Reviews"}, "name: must be a DNS label", id="upper case"),
        pytest.param({"name": "x" * 41}, "at most 40 characters", id="name too long for its sockets"),
        pytest.param({"name": "../etc"}, "name: must be", id="path"),
        pytest.param({"namespace": "a/b"}, "namespace 'a/b'", id="namespace"),
        pytest.param({"service_account": ""}, "service account ''", id="account"),
        pytest.param({"service": "a.b"}, "service: must be a DNS label", id="service"),
        pytest.param({"locality": "eu//x"}, "locality: must be region", id="locality with a gap"),
        pytest.param({"locality": "eu/*"}, "locality: must be region", id="locality with a wildcard"),
        pytest.param({"locality": "a/b/c/d"}, "locality: must be region", id="locality too deep"),
        pytest.param({"argv": ()}, "command: must not be empty", id="no command"),
        pytest.param({"kind": "gateway"}, "a gateway runs none", id="gateway with a command"),
        pytest.param({"listeners": (HostListener(port=1, gateway_port=1),)}, "only a gateway", id="sidecar listening"),
        pytest.param({"ports": (port(number=0),)}, "between 1 and 65535, got 0", id="port 0"),
        pytest.param({"ports": (port(target=65536),)}, "got 65536", id="target"),
        pytest.param({"ports": (port(target=15001),)}, "15001 is taken by the proxy", id="reserved"),
        pytest.param({"ports": (port(), port("b"))}, "each number must be unique", id="numbers"),
        pytest.param({"ports": (port(), port(number=1))}, "each name must be unique", id="names"),
        pytest.param({"concurrency": 0}, "concurrency: must be at least 1", id="no threads"),
        pytest.param({"drain": timedelta(seconds=-1)}, "drain: must not be negative", id="drain"),
    ],
)
def test_workloads_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_spec(dataclasses.replace(REVIEWS, **change))


def test_labels_that_istio_derives() -> None:
    assert effective_labels(REVIEWS) == {
        "app": "reviews",
        "version": "v3",
        "service.istio.io/canonical-name": "reviews",
        "service.istio.io/canonical-revision": "v3",
    }


def test_labels_that_are_given_stay() -> None:
    given = {"app": "other", "service.istio.io/canonical-name": "x", "team": "a"}
    labels = effective_labels(dataclasses.replace(REVIEWS, labels=given, version=""))
    assert labels == {**given, "service.istio.io/canonical-revision": "latest"}


def test_node_of_a_captured_sidecar() -> None:
    node = build_node(
        dataclasses.replace(REVIEWS, locality="eu/eu-1/rack"), Place(mode="capture", ip="10.77.0.2"), MESH
    )
    assert node.id == "sidecar~10.77.0.2~reviews-v3.default~default.svc.cluster.local"
    assert node.cluster == "reviews.default"
    assert node.locality == {"region": "eu", "zone": "eu-1", "sub_zone": "rack"}
    wanted = {
        "NAMESPACE": "default",
        "SERVICE_ACCOUNT": "default",
        "WORKLOAD_NAME": "reviews-v3",
        "INSTANCE_IPS": "10.77.0.2",
        "INTERCEPTION_MODE": "REDIRECT",
        "CLUSTER_ID": "test",
        "MESH_ID": "test",
        "DNS_CAPTURE": "true",
        "LABELS": effective_labels(REVIEWS),
    }
    assert {key: node.metadata.get(key) for key in wanted} == wanted
    assert "HTTP_PROXY_PORT" not in node.metadata


def test_node_of_an_explicit_sidecar() -> None:
    node = build_node(REVIEWS, Place(mode="explicit", ip="127.77.1.2", http_proxy_port=4000), MESH)
    assert node.metadata["INTERCEPTION_MODE"] == "NONE"
    assert node.metadata["HTTP_PROXY_PORT"] == "4000"
    assert "DNS_CAPTURE" not in node.metadata


def test_a_gateway_is_a_router() -> None:
    spec = WorkloadSpec(name="ingressgateway", kind="gateway", labels={"istio": "ingressgateway"})
    node = build_node(spec, Place(mode="capture", ip="10.77.0.9"), MESH)
    assert node.id.startswith("router~10.77.0.9~ingressgateway.default~")
    assert node.cluster == "ingressgateway.default"


def test_secrets_in_the_environment_are_not_printed() -> None:
    assert "hunter2" not in repr(dataclasses.replace(REVIEWS, env={"PASSWORD": "hunter2"}))
