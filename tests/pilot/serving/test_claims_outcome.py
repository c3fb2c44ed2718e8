"""What a client says of itself in headers, and what is left of it behind a gateway and a sidecar: real Envoys."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    ConfigServer,
    HttpApp,
    Identity,
    RealEnvoy,
    ask,
    by_address,
    dial,
    make_identity,
    unmarked,
)
from tests.fakes.yard import Yard
from tests.pilot.serving.conftest import Bench

from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, EDS, LDS, RDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.pack import name_of

pytestmark = pytest.mark.envoy

NODE = "edge"
FORGED = "spiffe://cluster.local/ns/bank/sa/teller"
# What nobody outside has the right to say.
CLAIMS = {
    "x-lateen-peer": "CgZmb3JnZWQ=",
    "x-lateen-anything": "forged",
    "x-istio-attributes": "forged",
    "x-envoy-peer-metadata": "forged",
    "x-envoy-peer-metadata-id": "sidecar~1.2.3.4~teller.bank~bank.svc.cluster.local",
    "x-envoy-internal": "true",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-downstream-service-cluster": "teller.bank",
    "x-envoy-downstream-service-node": "forged",
    "x-envoy-decorator-operation": "forged",
    "x-envoy-original-path": "/forged",
    "x-envoy-original-dst-host": "127.0.0.1:1",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-max-retries": "99",
    "x-envoy-retry-on": "5xx",
    "x-envoy-force-trace": "1",
    "x-envoy-fault-abort-request": "503",
    "x-envoy-attempt-count": "77",
    "x-forwarded-client-cert": f"By=spiffe://x;Hash=00;URI={FORGED}",
    # What an application would read as one of these.
    "x_forwarded_client_cert": f"URI={FORGED}",
    "x-forwarded_client-cert": f"URI={FORGED}",
    "x-forwarded-client_cert": f"URI={FORGED}",
    "x_forwarded-for": "10.0.0.1",
    "x-forwarded_proto": "https",
    "x_envoy_external_address": "10.0.0.1",
    "x_lateen_peer": "forged",
    "x-istio_attributes": "forged",
}
HARMLESS = {"x-request-kind": "test", "baggage": "k8s.workload.name=teller", "x_custom_header": "stays"}


class Edge(NamedTuple):
    """Where a gateway and a sidecar's captured connections arrive, and what is behind both."""

    gateway: int
    behind_one: int  # a gateway that is told to believe one proxy in front of it
    sidecar: int
    app: HttpApp
    client: Identity
    folder: Path


def bodies(proxy: MeshProxy, type_url: str) -> list[Any]:
    return [Yard._message(found.body) for one in proxy.slices[type_url] for found in one.all().values()]


@pytest.fixture(scope="module")
def edge(folder: Path, server: ConfigServer) -> Iterator[Edge]:
    authority = StrangeAuthority()
    own = make_identity(authority, "app")
    with HttpApp("app") as app:
        messages: dict[str, Any] = {}
        port, behind, sidecar = free_port(), free_port(), free_port()
        for number, mesh in ((port, ""), (behind, "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}")):
            bench = Bench()
            bench.apply(config(number, app.port, mesh))
            bench.run(
                Workload(name="edge", kind="gateway", namespace="default", service_account="edge",
                         labels={"istio": "edge"}, ip="127.0.0.1", ports=(), ready=True),
                Workload(name="app", namespace="default", service_account="app", service="app", labels={"app": "app"},
                         ip="127.0.0.1", ports=(("http", app.port, app.port),), ready=True),
            )  # fmt: skip
            gateway = bench.connect("edge", kind="router")
            found = [*bodies(gateway, CDS), *bodies(gateway, LDS)]
            named = [(RDS, f"http.{number}"), *((EDS, one.name) for one in found if isinstance(one, Cluster))]
            for type_url, name in named:
                parts = [part for one in gateway.slices[type_url] if (part := one.get(name)) is not None]
                found += [Yard._message(part.body) for part in parts]
            workload = bench.connect("app")
            found += [one for one in bodies(workload, CDS) if one.name.startswith("inbound|")]
            for listener in bodies(workload, LDS):
                if listener.name == "virtualInbound":
                    captured: Listener = by_address(listener)
                    captured.address.socket_address.port_value = sidecar
                    found.append(captured)
            messages.update({f"{type(one).__name__} {name_of(one)}": one for one in found})
        served = [unmarked(one) if isinstance(one, Cluster) else one for one in messages.values()]
        server.serve(NODE, [*own.secrets(), *served])
        with RealEnvoy(NODE, server, folder):
            yield Edge(port, behind, sidecar, app, make_identity(authority, "web"), folder)
    assert server.rejections == []


def config(port: int, app: int, mesh: str) -> str:
    return f"""
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
{mesh}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec: {{selector: {{istio: edge}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: plain}}
spec:
  hosts: [plain.test]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {app}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec: {{hosts: ["*"], gateways: [edge], http: [{{route: [{{destination: {{host: plain.test}}}}]}}]}}
"""


def seen(sock: socket.socket, headers: Mapping[str, str]) -> dict[str, str]:
    answer = ask(sock, headers={**headers, **HARMLESS})
    assert answer.status == 200, answer
    return {name.lower(): value for name, value in answer.json["headers"].items()}


def last(values: str) -> str:
    return values.rpartition(",")[2].strip()


def test_a_gateway_lets_no_claim_through(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.gateway), timeout=5) as sock:
        found = seen(sock, {**CLAIMS, "x-forwarded-for": "10.9.8.7", "x-forwarded-proto": "https"})
    assert HARMLESS.items() <= found.items()
    left = {name: found[name] for name in CLAIMS if name in found}
    # Envoy's own word, not the client's.
    assert left.pop("x-envoy-attempt-count") == "1"
    assert left.pop("x-envoy-external-address") == "127.0.0.1"
    assert left.pop("x-envoy-decorator-operation", "") != CLAIMS["x-envoy-decorator-operation"]
    assert left == {}
    assert found["x-forwarded-proto"] == "http"
    assert last(found["x-forwarded-for"]) not in ("", "10.9.8.7")  # what it found out is last
    assert not any("forged" in value or FORGED in value for value in found.values())


def test_a_gateway_behind_a_proxy_believes_what_that_one_adds_and_no_more(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.behind_one), timeout=5) as sock:
        found = seen(sock, {**CLAIMS, "x-forwarded-for": "1.1.1.1, 2.2.2.2", "x-forwarded-proto": "https"})
    assert found["x-envoy-external-address"] == "2.2.2.2"
    assert found["x-forwarded-proto"] == "https"
    assert last(found["x-forwarded-for"]) not in ("", "1.1.1.1", "2.2.2.2")
    assert not any("forged" in value or FORGED in value for value in found.values())


def test_a_sidecar_lets_no_claim_of_a_plain_client_through(edge: Edge) -> None:
    with dial(edge.sidecar, to=("127.0.0.1", edge.app.port)) as sock:
        found = seen(sock, {**CLAIMS, "x-forwarded-proto": "https"})
    assert HARMLESS.items() <= found.items()
    left = {name: found[name] for name in CLAIMS if name in found}
    left.pop("x-envoy-attempt-count", None)
    assert left == {}
    assert not any("forged" in value or FORGED in value for value in found.values())


def test_a_sidecar_adds_who_a_mesh_client_is_behind_what_it_says(edge: Edge) -> None:
    """Applications read the last element: what stands before it, the client's own proxy has vouched for at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate, key, bundle = edge.client.write(edge.folder)
    context.check_hostname = False
    context.load_verify_locations(bundle)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
    with dial(edge.sidecar, to=("127.0.0.1", edge.app.port)) as raw, context.wrap_socket(raw) as sock:
        found = seen(sock, CLAIMS)
    assert found["x-forwarded-client-cert"].rpartition(",")[2].endswith(f";URI={edge.client.spiffe_id}")
    assert "x-lateen-peer" not in found
    assert not [name for name in found if "_" in name and name not in HARMLESS]
