"""What gateways are served, and who gets which secret: decided by Pilot, without sockets."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tls_clients import Pair, make_pair, secret_yaml
from tests.pilot.serving.conftest import Bench, make_workload

from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, EDS, LDS, RDS, SDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.pack import unpack
from lateen.pilot.xds.source import Identity, NodeInfo, Resource

EDGE = {"istio": "ingressgateway", "app": "ingressgateway"}


@pytest.fixture
def shop(shop: Bench) -> Bench:
    """The shop without its own Gateway, and what is bound to it."""
    shop.delete("Gateway", "bookinfo-gateway")
    shop.delete("VirtualService", "bookinfo")
    return shop


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(StrangeAuthority(), "shop.test")


def gateway(name: str, *servers: str, namespace: str = "default", created: str = "2026-01-01T00:00:00Z") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{", ".join(servers)}]}}
"""


def server(port: int, protocol: str, *hosts: str, name: str = "", tls: str = "", bind: str = "") -> str:
    extra = (f", tls: {tls}" if tls else "") + (f", bind: {bind}" if bind else "")
    port_name = name or f"{protocol.lower()}-{port}"
    listed = ", ".join(f'"{host}"' for host in hosts or ("*",))
    return f"{{port: {{number: {port}, name: {port_name}, protocol: {protocol}}}, hosts: [{listed}]{extra}}}"


def route(name: str, *hosts: str, gateways: str = "edge", namespace: str = "default", kind: str = "http") -> str:
    rules = {
        "http": "http: [{route: [{destination: {host: reviews.default.svc.cluster.local, port: {number: 9080}}}]}]",
        "tcp": "tcp: [{route: [{destination: {host: reviews.default.svc.cluster.local, port: {number: 9080}}}]}]",
    }[kind]
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: [{", ".join(f'"{host}"' for host in hosts)}], gateways: [{gateways}], {rules}}}
"""


def apply(bench: Bench, *texts: str) -> None:
    bench.apply("\n---\n".join(texts))


def connect(bench: Bench, name: str = "ingressgateway", namespace: str = "default", account: str = "") -> MeshProxy:
    """Connect as a proxy whose certificate proves who it is."""
    kind = "router" if "gateway" in name else "sidecar"
    node = NodeInfo(id=f"{kind}~10.77.0.9~{name}.{namespace}~{namespace}.svc.cluster.local", metadata={})
    identity = Identity(f"spiffe://cluster.local/ns/{namespace}/sa/{account or name}")
    proxy = bench.pilot.source.connect(node, identity)
    assert isinstance(proxy, MeshProxy)
    return proxy


def unpacked(resource: Resource, kind: Any) -> Any:
    message: Message = kind()
    assert AnyMessage.FromString(resource.body).Unpack(message)
    return message


def listeners(proxy: MeshProxy) -> dict[str, Listener]:
    return {name: unpacked(found, Listener) for one in proxy.slices[LDS] for name, found in one.all().items()}


def routes(proxy: MeshProxy, name: str) -> dict[str, list[str]]:
    """Return the virtual hosts of a route configuration: name -> what its routes lead to, `421` for an answer."""
    found = next(resource for one in proxy.slices[RDS] if (resource := one.get(name)) is not None)
    config = unpacked(found, RouteConfiguration)
    return {
        host.name: [r.route.cluster or str(r.direct_response.status) for r in host.routes]
        for host in config.virtual_hosts
    }


def secret(proxy: MeshProxy, name: str) -> Secret | None:
    """Return what a proxy is given under a name; None for nothing."""
    for one in proxy.slices.get(SDS, ()):
        found = one.get(name)
        if found is not None:
            return unpacked(found, Secret)  # type: ignore[no-any-return]
    return None


def told(bench: Bench) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in bench.pilot.problems() if problem.level == "error"]


# ---------------------------------------------------------------- servers


def test_the_oldest_server_keeps_its_port_and_its_names(shop: Bench) -> None:
    tls = "{mode: SIMPLE, credentialName: c}"
    apply(
        shop,
        gateway("younger", server(80, "TCP"), server(443, "HTTPS", "b.test", "a.test", tls=tls)),
        gateway("older", server(80, "HTTP"), server(443, "HTTPS", "a.test", tls=tls), created="2025-01-01T00:00:00Z"),
    )
    proxy = connect(shop)
    chains = listeners(proxy)["0.0.0.0_443"].filter_chains
    assert [list(chain.filter_chain_match.server_names) for chain in chains] == [["a.test"]]
    lost = [entry for entry in told(shop) if "left out" in entry[1]]
    assert lost == [
        (
            "spec.servers[0].port.protocol",
            "TCP cannot be served on port 80: spec.servers[0] of Gateway default/older serves HTTP there, and was "
            "first; this server is left out",
        ),
        (
            "spec.servers[1].hosts[1]",
            "a.test is served by spec.servers[1] of Gateway default/older already; this server is left out",
        ),
    ]
    shop.delete("Gateway", "older")
    assert not [entry for entry in told(shop) if "left out" in entry[1]]


@pytest.mark.parametrize(
    ("namespace", "mesh", "serves"),
    [
        pytest.param("default", "", "theirs", id="its own namespace's, older"),
        pytest.param("istio-system", "", "theirs", id="the root namespace's, older"),
        pytest.param("other", "", "ours", id="another's, older: ours goes first"),
        pytest.param("other", "hostOwnership: istio", "theirs", id="another's, older, as in Istio"),
        pytest.param("other", "gatewayOwnership: namespace", "ours alone", id="another's does not act"),
        pytest.param("istio-system", "gatewayOwnership: namespace", "theirs", id="the root namespace's acts"),
        pytest.param("default", "gatewayOwnership: namespace", "theirs", id="its own namespace's acts"),
    ],
)
def test_whose_gateways_act_on_a_gateway(shop: Bench, namespace: str, mesh: str, serves: str) -> None:
    ours = gateway("ours", server(9000, "TCP"))
    theirs = gateway(
        "theirs", server(9000, "HTTP"), server(9001, "HTTP"), namespace=namespace, created="2020-01-01T00:00:00Z"
    )
    written = f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\n{mesh}\n"
    apply(shop, ours, theirs, route("bytes", "*", gateways="ours", kind="tcp"), *([written] if mesh else []))
    ports = {name: found.filter_chains[0].filters[-1].name for name, found in listeners(connect(shop)).items()}
    http = {name.rpartition("_")[2] for name, filter_name in ports.items() if "http" in filter_name}
    assert {name.rpartition("_")[2] for name in ports} == ({"9000"} if serves == "ours alone" else {"9000", "9001"})
    assert ("9000" in http) == (serves == "theirs")


def test_a_gateway_of_the_root_namespace_is_for_all(shop: Bench) -> None:
    shop.run(
        make_workload(
            "shared-gateway", "", "", "10.77.0.4", kind="gateway", namespace="istio-system",
            service_account="shared-gateway", labels=EDGE, ports=(),
        )
    )  # fmt: skip
    apply(
        shop,
        gateway("theirs", server(9001, "HTTP"), namespace="other"),
        "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\ngatewayOwnership: namespace\n",
    )
    assert list(listeners(connect(shop, "shared-gateway", "istio-system"))) == ["0.0.0.0_9001"]
    assert listeners(connect(shop)) == {}


def test_servers_of_different_addresses_stand_side_by_side(shop: Bench) -> None:
    apply(
        shop,
        gateway("edge", server(80, "HTTP", bind="10.0.0.7"), server(80, "TCP", name="t", bind="10.0.0.8")),
        gateway("sock", server(0, "HTTP", name="s", bind="unix:///run/edge.sock")),
        route("tcp", "*", kind="tcp"),
    )
    proxy = connect(shop)
    assert sorted(listeners(proxy)) == ["/run/edge.sock", "10.0.0.7_80", "10.0.0.8_80"]
    assert routes(proxy, "http.80.10.0.0.7") == {}
    assert told(shop) == []


def test_a_server_binds_what_the_gateways_service_targets_and_its_own_number(shop: Bench) -> None:
    service = """
apiVersion: v1
kind: Service
metadata: {name: ingressgateway}
spec: {selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 8080}, {name: x, port: 81}]}
"""
    apply(shop, gateway("edge", server(80, "HTTP")), service, route("web", "shop.test"))
    proxy = connect(shop)
    (listener,) = listeners(proxy).values()
    assert listener.name == "0.0.0.0_8080"
    assert [extra.address.socket_address.port_value for extra in listener.additional_addresses] == [80]
    assert list(routes(proxy, "http.8080")) == ["shop.test:80"]


def test_hosts_of_a_server_say_whose_virtual_services_attach(shop: Bench) -> None:
    apply(
        shop,
        gateway("edge", server(80, "HTTP", "a/*.test", "./own.test", "*/any.test")),
        route("of-a", "x.test", "own.test", gateways="default/edge", namespace="a"),
        route("of-b", "y.test", "any.test", gateways="default/edge", namespace="b"),
        route("here", "own.test", "x.test"),
    )
    assert sorted(routes(connect(shop), "http.80")) == ["any.test:80", "own.test:80", "x.test:80"]
    of_a, own = routes(connect(shop), "http.80")["x.test:80"], routes(connect(shop), "http.80")["own.test:80"]
    # `own.test` is covered by `a/*.test` too, so both namespaces speak for it; `x.test` is a's alone.
    assert (len(of_a), len(own)) == (1, 2)


def test_only_what_takes_every_request_goes_behind_the_routes_of_others(shop: Bench) -> None:
    def bound(name: str, match: str, path: str, year: int) -> str:
        return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, creationTimestamp: "{year}-01-01T00:00:00Z"}}
spec: {{hosts: [shop.test], gateways: [edge], http: [{{{match}, redirect: {{uri: {path}}}}}]}}
"""

    apply(
        shop,
        gateway("edge", server(80, "HTTP")),
        bound("oldest", "match: [{uri: {prefix: /}}]", "/all", 2023),
        bound("older", "match: [{scheme: {exact: http}}]", "/scheme", 2024),
        bound("younger", "match: [{uri: {exact: /x}}]", "/exact", 2025),
    )
    found = next(resource for one in connect(shop).slices[RDS] if (resource := one.get("http.80")) is not None)
    (host,) = unpacked(found, RouteConfiguration).virtual_hosts
    assert [entry.redirect.path_redirect for entry in host.routes] == ["/scheme", "/exact", "/all"]


def test_a_server_that_ends_tls_has_routes_of_its_own(shop: Bench) -> None:
    tls = "{mode: SIMPLE, credentialName: c}"
    apply(
        shop,
        gateway(
            "edge",
            server(443, "HTTPS", "*.shop.test", name="all", tls=tls),
            server(443, "HTTPS", "admin.shop.test", name="admin", tls=tls),
        ),
        route("everywhere", "*"),
    )
    proxy = connect(shop)
    reviews = "outbound|9080||reviews.default.svc.cluster.local"
    assert routes(proxy, "https.443.all.edge.default") == {
        "*.shop.test:443": [reviews],
        "admin.shop.test:443": ["421"],
    }
    assert routes(proxy, "https.443.admin.edge.default") == {"admin.shop.test:443": [reviews]}


def test_what_stands_in_front_of_gateways_is_believed_as_far_as_the_mesh_says(shop: Bench) -> None:
    mesh = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
defaultConfig: {gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: SANITIZE, proxyProtocol: {}}}
"""
    apply(shop, gateway("edge", server(80, "HTTP")), mesh)
    (listener,) = listeners(connect(shop)).values()
    assert [entry.name for entry in listener.listener_filters] == ["envoy.filters.listener.proxy_protocol"]
    manager = unpack(listener.filter_chains[0].filters[0].typed_config, HttpConnectionManager)
    assert manager.xff_num_trusted_hops == 2
    assert manager.forward_client_cert_details == HttpConnectionManager.SANITIZE
    assert not manager.HasField("set_current_client_cert_details")


def test_the_meshs_defaults_fill_what_a_server_leaves_open(shop: Bench) -> None:
    mesh = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
tlsDefaults: {minProtocolVersion: TLSV1_3, ecdhCurves: [P-256]}
"""
    servers = (
        server(443, "HTTPS", "a.test", name="a", tls="{mode: SIMPLE, credentialName: c}"),
        server(443, "HTTPS", "b.test", name="b", tls="{mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_2}"),
        server(443, "HTTPS", "c.test", name="c", tls="{mode: ISTIO_MUTUAL}"),
    )
    apply(shop, gateway("edge", *servers), mesh)
    (listener,) = listeners(connect(shop)).values()
    found = []
    for chain in listener.filter_chains:
        context = unpack(chain.transport_socket.typed_config, DownstreamTlsContext)
        params = context.common_tls_context.tls_params
        found.append((params.tls_minimum_protocol_version, list(params.ecdh_curves)))
    new, old = TlsParameters.TLSv1_3, TlsParameters.TLSv1_2
    assert found == [(new, ["P-256"]), (old, ["P-256"]), (old, [])]


def test_the_meshs_own_tls_is_what_the_mesh_says(shop: Bench) -> None:
    mesh = """
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
meshMTLS: {minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]}
"""
    servers = (
        server(443, "HTTPS", "a.test", name="a", tls="{mode: SIMPLE, credentialName: c}"),
        server(443, "HTTPS", "b.test", name="b", tls="{mode: ISTIO_MUTUAL}"),
        server(443, "HTTPS", "c.test", name="c", tls="{mode: ISTIO_MUTUAL, minProtocolVersion: TLSV1_2}"),
    )
    apply(shop, gateway("edge", *servers), mesh)
    (listener,) = listeners(connect(shop)).values()
    found = []
    for chain in listener.filter_chains:
        context = unpack(chain.transport_socket.typed_config, DownstreamTlsContext)
        params = context.common_tls_context.tls_params
        found.append((params.tls_minimum_protocol_version, list(params.cipher_suites)))
    new, old, ciphers = TlsParameters.TLSv1_3, TlsParameters.TLSv1_2, ["ECDHE-ECDSA-AES128-GCM-SHA256"]
    assert found == [(old, []), (new, ciphers), (old, ciphers)]


def test_one_changed_rule_changes_the_virtual_hosts_it_is_in_and_no_other(shop: Bench) -> None:
    apply(shop, gateway("edge", server(80, "HTTP")), *(route(f"vs-{i}", f"h{i}.test") for i in range(20)))
    routes(connect(shop), "http.80")
    before = shop.pilot.render.interned.made
    apply(shop, route("vs-7", "h7.test", kind="http").replace("number: 9080", "number: 9081"))
    assert shop.pilot.render.interned.made - before == 1


# ---------------------------------------------------------------- AUTO_PASSTHROUGH


def test_auto_passthrough_opens_the_services_that_its_hosts_cover(shop: Bench) -> None:
    subsets = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v2, labels: {version: v2}}]}
"""
    apply(
        shop,
        subsets,
        gateway("edge", server(15443, "TLS", "reviews.default.svc.cluster.local", tls="{mode: AUTO_PASSTHROUGH}")),
    )
    proxy = connect(shop)
    chains = listeners(proxy)["0.0.0.0_15443"].filter_chains
    names = [
        "outbound_.9080_._.reviews.default.svc.cluster.local",
        "outbound_.9080_.v2_.reviews.default.svc.cluster.local",
    ]
    assert [list(chain.filter_chain_match.server_names) for chain in chains] == [[name] for name in names]
    assert all("istio" in chain.filter_chain_match.application_protocols for chain in chains)
    clusters = {name for one in proxy.slices[CDS] for name in one.all() if name.startswith("outbound_.")}
    assert clusters == set(names)
    through = next(found for one in proxy.slices[CDS] if (found := one.get(names[1])) is not None)
    assert not unpacked(through, Cluster).HasField("transport_socket")  # the client's TLS, as it is
    (members,) = [found for one in proxy.slices[EDS] if (found := one.get(names[1])) is not None]
    addresses = [
        endpoint.endpoint.address.socket_address.address
        for locality in unpacked(members, ClusterLoadAssignment).endpoints
        for endpoint in locality.lb_endpoints
    ]
    assert addresses == ["10.77.0.13"]


@pytest.mark.parametrize(
    ("export", "hosts", "opened"),
    [
        pytest.param("", "*.local", True, id="exported to all"),
        pytest.param("default", "*.local", True, id="exported to the gateway's namespace"),
        pytest.param(".", "*.local", False, id="kept in its own"),
        pytest.param("third", "*.local", False, id="exported to another"),
        pytest.param("~", "*.local", False, id="exported to nobody"),
        pytest.param("", "other/*.local", True, id="of the namespace that the server names"),
        pytest.param("", "default/*.local", False, id="of another than the server names"),
        pytest.param("", "*.other.svc.cluster.local", True, id="covered by its namespace"),
        pytest.param("", "*.default.svc.cluster.local", False, id="not covered"),
    ],
)
def test_auto_passthrough_opens_no_service_that_its_namespace_keeps(
    shop: Bench, export: str, hosts: str, opened: bool
) -> None:
    annotations = f', annotations: {{networking.istio.io/exportTo: "{export}"}}' if export else ""
    service = f"""
apiVersion: v1
kind: Service
metadata: {{name: vault, namespace: other{annotations}}}
spec: {{selector: {{app: vault}}, ports: [{{name: tcp, port: 9000}}]}}
"""
    apply(shop, gateway("edge", server(15443, "TLS", hosts, tls="{mode: AUTO_PASSTHROUGH}")), service)
    proxy = connect(shop)
    name = "outbound_.9000_._.vault.other.svc.cluster.local"
    found = listeners(proxy).get("0.0.0.0_15443")
    chains = [list(chain.filter_chain_match.server_names) for chain in (found.filter_chains if found else ())]
    assert ([name] in chains) == opened
    assert any(one.get(name) is not None for one in proxy.slices[CDS]) == opened
    assert all(len(names) == 1 and "*" not in names[0] for names in chains)  # a name each, and none for any


# ---------------------------------------------------------------- secrets

NAMES = [
    "kubernetes://shop",
    "kubernetes://default/shop",
    "kubernetes://shop-cacert",
    "kubernetes://default/shop-cacert",
    "kubernetes-gateway://default/shop",
    "configmap://default/shop",
    "kubernetes:///shop",
    "kubernetes://default//shop",
    "kubernetes://./shop",
    "kubernetes://*/shop",
    "kubernetes://other/../default/shop",
    "default/shop",
    "shop",
    "*",
    "",
]


@pytest.fixture
def served(shop: Bench, pair: Pair) -> Bench:
    """The shop, with a gateway in `default` that serves with the Secret `shop`, and one in `other`, labelled alike."""
    apply(
        shop,
        gateway("edge", server(443, "HTTPS", "shop.test", tls="{mode: MUTUAL, credentialName: shop}")),
        secret_yaml("shop", pair, roots=pair.chain),
        secret_yaml("unused", pair),
    )
    shop.run(
        make_workload(
            "gateway-of-other",
            "",
            "",
            "10.77.0.3",
            kind="gateway",
            namespace="other",
            service_account="gateway-of-other",
            labels=EDGE,
            ports=(),
        )
    )
    return shop


def test_a_gateway_gets_the_secrets_that_its_servers_name(served: Bench, pair: Pair) -> None:
    proxy = connect(served)
    found = secret(proxy, "kubernetes://shop")
    assert found is not None
    assert found.tls_certificate.private_key.inline_bytes == pair.private_key
    roots = secret(proxy, "kubernetes://shop-cacert")
    assert roots is not None
    assert roots.validation_context.trusted_ca.inline_bytes == pair.chain
    assert not roots.HasField("tls_certificate")
    assert secret(proxy, "kubernetes://unused") is None  # of its namespace, and nothing that it runs names it


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", NAMES)
def test_a_secret_never_leaves_its_namespace(served: Bench, name: str, warm: bool) -> None:
    if warm:
        assert secret(connect(served), "kubernetes://shop") is not None
    stranger = connect(served, "gateway-of-other", "other")
    assert secret(stranger, name) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_sidecar_gets_no_secret_of_a_gateway(served: Bench, name: str) -> None:
    assert secret(connect(served), "kubernetes://shop") is not None
    assert secret(connect(served, "reviews-v1", account="bookinfo-reviews"), name) is None


def test_who_has_proven_nothing_gets_no_secrets(served: Bench) -> None:
    claims = served.connect("ingressgateway", kind="router")
    assert SDS not in claims.slices
    # Nor does one that nobody started as a workload, whatever its certificate.
    assert SDS not in connect(served, "some-gateway").slices


def test_only_a_resource_of_the_namespace_may_name_its_secrets(served: Bench) -> None:
    tls = "{mode: SIMPLE, credentialName: unused}"
    apply(served, gateway("foreign", server(8443, "HTTPS", "x.test", tls=tls), namespace="other"))
    proxy = connect(served)
    assert secret(proxy, "kubernetes://unused") is None
    assert [field for field, message in told(served) if "only a resource of that namespace" in message] == [
        "spec.servers[0].tls.credentialName"
    ]
    mesh = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nhostOwnership: istio\n"
    apply(served, mesh)
    assert secret(proxy, "kubernetes://unused") is not None


# ---------------------------------------------------------------- granted to other namespaces

VAULT = "kubernetes://vault/far"


def far(pair: Pair, grant: str = "", name: str = "far", **fields: Any) -> str:
    """Return a Secret of namespace `vault`, with its owner's word on who may have it."""
    written = f', annotations: {{gateway.lateen.dev/credential-for: "{grant}"}}' if grant else ""
    text = secret_yaml(name, pair, namespace="vault", **fields)
    return text.replace("namespace: vault}", f"namespace: vault{written}}}")


def far_gateway(namespace: str, mode: str = "SIMPLE") -> str:
    tls = f'{{mode: {mode}, credentialName: "{VAULT}"}}'
    return gateway("far", server(8443, "HTTPS", "far.test", tls=tls), namespace=namespace)


@pytest.mark.parametrize(
    ("grant", "writer", "given"),
    [
        pytest.param("", "default", False, id="nothing granted"),
        pytest.param("default", "default", True, id="granted"),
        pytest.param("other, default", "default", True, id="among others"),
        pytest.param("other", "default", False, id="granted to another"),
        pytest.param("defaul,efault,default2", "default", False, id="granted to the likes of it"),
        pytest.param("default", "vault", True, id="named by its owner's Gateway"),
        pytest.param("default", "istio-system", True, id="named by a Gateway of the root namespace"),
        pytest.param("default", "other", False, id="named by a third party"),
        pytest.param("", "vault", False, id="named by its owner's Gateway, and not granted"),
    ],
)
def test_a_secret_leaves_its_namespace_where_its_owner_grants_it(
    served: Bench, pair: Pair, grant: str, writer: str, given: bool
) -> None:
    apply(served, far_gateway(writer, "MUTUAL"), far(pair, grant, roots=pair.chain))
    proxy, stranger = connect(served), connect(served, "gateway-of-other", "other")
    assert (secret(proxy, VAULT) is not None) == given
    assert (secret(proxy, f"{VAULT}-cacert") is not None) == given
    assert secret(proxy, "kubernetes://far") is None  # it is not its own
    assert secret(connect(served, "reviews-v1", account="bookinfo-reviews"), VAULT) is None  # nothing there names it
    messages = [message for field, message in told(served) if field.endswith("credentialName")]
    refused = [
        one for one in messages if "kubernetes://vault/far is of namespace vault, and the proxy of default" in one
    ]
    may = "default" in grant.replace(" ", "").split(",")
    assert bool(refused) == (not may and writer != "other")  # a third party is told first that it may name nothing
    # The other gateway runs the same Gateway, by its labels: what was granted to `default` is not for it.
    assert (secret(stranger, VAULT) is not None) == ("other" in grant and writer != "default" and given)


def test_a_grant_comes_and_goes_while_a_gateway_runs(served: Bench, pair: Pair) -> None:
    apply(served, far_gateway("default"), far(pair))
    proxy = connect(served)
    assert secret(proxy, VAULT) is None
    apply(served, far(pair, "default"))
    found = secret(proxy, VAULT)
    assert found is not None
    assert found.tls_certificate.private_key.inline_bytes == pair.private_key
    assert secret(proxy, f"{VAULT}-cacert") is None  # a server that asks for no certificate needs no roots
    apply(served, far(pair, "other"))
    assert secret(proxy, VAULT) is None
    served.delete("Secret", "far", "vault")
    assert [message for _, message in told(served) if "its owner says so" in message]  # the same words as if it existed


def test_a_grant_of_roots_is_none_of_keys(served: Bench, pair: Pair) -> None:
    apply(
        served, far_gateway("default", "MUTUAL"), far(pair), far(pair, "default", name="far-cacert", roots=pair.chain)
    )
    proxy = connect(served)
    roots = secret(proxy, f"{VAULT}-cacert")
    assert roots is not None
    assert not roots.HasField("tls_certificate")
    assert secret(proxy, VAULT) is None


def test_a_rule_brings_a_gateway_and_chosen_sidecars_a_credential(served: Bench) -> None:
    def rule(mode: str, selector: str = "") -> str:
        return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: outside}}
spec:
  host: api.outside.test
  {selector}
  trafficPolicy: {{tls: {{mode: {mode}, credentialName: unused}}}}
"""

    gateway_proxy, sidecar = connect(served), connect(served, "reviews-v1", account="bookinfo-reviews")
    apply(served, rule("MUTUAL"))
    assert secret(gateway_proxy, "kubernetes://unused") is not None
    assert secret(sidecar, "kubernetes://unused") is None
    apply(served, rule("MUTUAL", "workloadSelector: {matchLabels: {app: reviews}}"))
    sidecar = connect(served, "reviews-v1", account="bookinfo-reviews")
    assert secret(sidecar, "kubernetes://unused") is not None
    assert secret(connect(served, "ratings-v1", account="bookinfo-ratings"), "kubernetes://unused") is None
    # Who needs only roots is given no key.
    apply(served, rule("SIMPLE", "workloadSelector: {matchLabels: {app: reviews}}"))
    assert secret(connect(served, "reviews-v1", account="bookinfo-reviews"), "kubernetes://unused") is None
    assert [message for _, message in told(served) if "no roots" in message]


def test_secrets_do_not_print(served: Bench, pair: Pair) -> None:
    connect(served)
    texts = [repr(obj) for _, obj in served.pilot.mesh.objects.items()]
    view = served.pilot.mesh.view.peek("ingressgateway")
    texts.append(repr(served.pilot.credentials.secret.peek((view, "kubernetes://shop"))))
    texts.append(repr(served.pilot.credentials.credential.peek(("default", "shop"))))
    line = pair.private_key.decode().splitlines()[1]
    assert not any(line in text for text in texts)
    assert any("tls.key" in text for text in texts)


@pytest.mark.parametrize(
    ("labels", "rule", "mutual"),
    [
        pytest.param({}, "", False, id="by-itself-plain"),
        pytest.param({"security.istio.io/tlsMode": "istio"}, "", True, id="its-label-says-otherwise"),
        pytest.param({}, "{mode: ISTIO_MUTUAL, sni: shop.test}", True, id="a-rule-says-otherwise"),
    ],
)
def test_what_sidecars_speak_to_a_gateway(shop: Bench, labels: dict[str, str], rule: str, mutual: bool) -> None:
    """Its ports take what Gateways say, plain HTTP as a rule: mutual TLS nobody asked for would be no request."""
    apply(
        shop,
        """
apiVersion: v1
kind: Service
metadata: {name: egress}
spec: {selector: {istio: egressgateway}, ports: [{name: http, port: 80}]}
""",
        *(
            [
                f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: egress}}
spec: {{host: egress, trafficPolicy: {{tls: {rule}}}}}
"""
            ]
            if rule
            else []
        ),
    )
    shop.run(
        Workload(
            name="egressgateway",
            kind="gateway",
            namespace="default",
            service_account="egressgateway",
            labels={"istio": "egressgateway", **labels},
            ip="10.77.0.9",
            ready=True,
        )
    )
    proxy = connect(shop, "productpage-v1", account="bookinfo-productpage")
    name = "outbound|80||egress.default.svc.cluster.local"
    found = next(resource for one in proxy.slices[EDS] if (resource := one.get(name)) is not None)
    (locality,) = unpacked(found, ClusterLoadAssignment).endpoints
    (endpoint,) = locality.lb_endpoints
    assert ("envoy.transport_socket_match" in endpoint.metadata.filter_metadata) == mutual
