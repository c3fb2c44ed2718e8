"""What the mesh says of a proxy, put together with what a workload was started with."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from lateen.agent.proxy_settings import node_with, spec_with
from lateen.agent.spec import Place, WorkloadSpec, build_node
from lateen.wire.local import ProxySettings, Registered

MESH = Registered(trust_domain="cluster.local", cluster_domain="cluster.local", mesh_id="m", cluster_id="c")


def spec(**fields: Any) -> WorkloadSpec:
    return WorkloadSpec(**{"name": "cart-v1", "service": "cart", "argv": ("true",), **fields})


@pytest.mark.parametrize(
    ("asked", "said", "threads", "drain"),
    [
        pytest.param({}, ProxySettings(), 1, 5.0, id="nobody"),
        pytest.param({}, ProxySettings(concurrency=3, termination_drain_seconds=2.0), 3, 2.0, id="mesh"),
        pytest.param({}, ProxySettings(concurrency=0), os.cpu_count(), 5.0, id="all-cores"),
        pytest.param({}, ProxySettings(termination_drain_seconds=0.0), 1, 0.0, id="no-wait"),
        pytest.param(
            {"concurrency": 2, "drain": timedelta(seconds=9)},
            ProxySettings(concurrency=3, termination_drain_seconds=2.0),
            2,
            9.0,
            id="command-line",
        ),
    ],
)
def test_what_is_said_on_the_command_line_stands(
    asked: dict[str, Any], said: ProxySettings, threads: int, drain: float
) -> None:
    found = spec_with(spec(**asked), said)
    assert (found.concurrency, found.drain) == (threads, timedelta(seconds=drain))


@pytest.mark.parametrize(
    ("said", "cluster"),
    [
        pytest.param(ProxySettings(), "cart.default", id="nobody"),
        pytest.param(ProxySettings(service_cluster="istio-proxy"), "cart.default", id="istios-default"),
        pytest.param(ProxySettings(service_cluster="shop"), "shop", id="written"),
        pytest.param(ProxySettings(tracing_service_name="APP_LABEL_AND_NAMESPACE"), "cart.default", id="app"),
        pytest.param(ProxySettings(tracing_service_name="CANONICAL_NAME_ONLY"), "basket", id="name"),
        pytest.param(ProxySettings(tracing_service_name="CANONICAL_NAME_AND_NAMESPACE"), "basket.default", id="both"),
    ],
)
def test_the_nodes_cluster(said: ProxySettings, cluster: str) -> None:
    asked = spec(labels={"service.istio.io/canonical-name": "basket"})
    node = build_node(asked, Place(mode="capture", ip="10.77.0.1"), MESH)
    assert node_with(node, asked, said).cluster == cluster
