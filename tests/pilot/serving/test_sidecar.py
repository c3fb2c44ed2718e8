"""Sidecars: what a proxy is configured for, and that nothing else costs it anything."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_pilot import endpoints, names, routes

from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, EDS, LDS
from lateen.pilot.serving.source import MeshProxy

FIXED = {"BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster"}


def service(name: str, namespace: str, *, port: int = 80, port_name: str = "http", export: str = "") -> str:
    annotations = f", annotations: {{networking.istio.io/exportTo: '{export}'}}" if export else ""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}{annotations}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: {port_name}, port: {port}}}]}}
"""


def sidecar(*hosts: str, name: str = "scope", namespace: str = "shop", selector: str = "", more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{f"  workloadSelector: {{labels: {selector}}}" if selector else ""}
  egress: [{{hosts: [{", ".join(repr(host) for host in hosts)}]}}]
{more}
"""


def virtual(host: str, to: str, *, namespace: str = "shop", name: str = "vs", export: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{host}]
{f"  exportTo: [{export!r}]" if export else ""}
  http: [{{route: [{{destination: {{host: {to}}}}}]}}]
"""


def fqdn(name: str, namespace: str) -> str:
    return f"{name}.{namespace}.svc.cluster.local"


def inbound_clusters(proxy: MeshProxy) -> dict[str, Cluster]:
    assert proxy.own is not None
    packed = {name: AnyMessage.FromString(one.body) for name, one in proxy.own.clusters.all().items()}
    return {name: Cluster.FromString(one.value) for name, one in packed.items()}


def limit(cluster: Cluster) -> int:
    return cluster.circuit_breakers.thresholds[0].max_connections.value


def clusters(proxy: MeshProxy) -> set[str]:
    """Return the hosts that the proxy has outbound clusters of."""
    found = names(proxy, CDS) - FIXED
    return {name.split("|")[3].removesuffix(".svc.cluster.local") for name in found if name.startswith("outbound|")}


@pytest.fixture
def estate(bench: Bench) -> Bench:
    """Namespaces shop and stock with two services each, and one client in shop."""
    for namespace in ("shop", "stock"):
        for name in ("a", "b"):
            bench.apply(service(name, namespace))
            bench.run(workload(f"{name}-{namespace}", namespace, app=name))
    bench.run(workload("client", "shop", app="client"))
    return bench


def workload(name: str, namespace: str, *, app: str = "", **more: object) -> Workload:
    number = sum(map(ord, name)) % 200
    fields: dict[str, object] = {"namespace": namespace, "labels": {"app": app or name}, "ports": (("http", 80, 80),)}
    return make_workload(name, "", "", f"10.77.1.{number}", **{**fields, **more})


@pytest.mark.parametrize(
    ("hosts", "seen"),
    [
        pytest.param(["*/*"], {"a.shop", "b.shop", "a.stock", "b.stock"}, id="everything"),
        pytest.param(["./*"], {"a.shop", "b.shop"}, id="own-namespace"),
        pytest.param(["stock/*"], {"a.stock", "b.stock"}, id="other-namespace"),
        pytest.param(["./*", "stock/b.stock.svc.cluster.local"], {"a.shop", "b.shop", "b.stock"}, id="one-host"),
        pytest.param(["*/*.stock.svc.cluster.local"], {"a.stock", "b.stock"}, id="wildcard"),
        pytest.param(["shop/b.stock.svc.cluster.local"], set(), id="host-of-another-namespace"),
        pytest.param(["*/a.stock.svc.cluster.local", "shop/*"], {"a.stock", "a.shop", "b.shop"}, id="any-namespace"),
        pytest.param(["~/*"], set(), id="nothing"),
        pytest.param(["*/*", "~stock/*"], {"a.shop", "b.shop"}, id="all-but-a-namespace"),
        pytest.param(["*/*", "~/b.stock.svc.cluster.local"], {"a.shop", "b.shop", "a.stock"}, id="all-but-a-host"),
        pytest.param(["stock/*", "~stock/*.stock.svc.cluster.local"], set(), id="exclusion-wins"),
    ],
)
def test_a_proxy_holds_what_it_imports(estate: Bench, hosts: list[str], seen: set[str]) -> None:
    estate.apply(sidecar(*hosts))
    proxy = estate.connect("client", "shop")
    assert clusters(proxy) == seen
    assert {str(entry.hostname).removesuffix(".svc.cluster.local") for entry in proxy.shared.entries()} == seen
    assert ("0.0.0.0_80" in names(proxy, LDS)) == bool(seen)
    if seen:
        served = {host.name for host in routes(proxy, "80").virtual_hosts if host.name.endswith(":80")}
        assert served == {f"{one}.svc.cluster.local:80" for one in seen}
    for host in ("a.shop", "b.stock"):
        held = proxy.slices[EDS][0].get(f"outbound|80||{host}.svc.cluster.local")
        assert (held is not None) == (host in seen)


def test_the_scope_follows_what_comes_and_goes(estate: Bench) -> None:
    estate.apply(sidecar("./*", "stock/late.stock.svc.cluster.local", "stock/*.far.test"))
    proxy = estate.connect("client", "shop")
    assert clusters(proxy) == {"a.shop", "b.shop"}
    estate.recorder.take()
    estate.apply(service("late", "stock"))
    assert "Cluster" in estate.recorder.take()
    assert clusters(proxy) == {"a.shop", "b.shop", "late.stock"}
    entry = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far, namespace: stock}
spec: {hosts: [x.far.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
"""
    estate.apply(entry)
    assert "x.far.test" in clusters(proxy)
    estate.apply(entry.replace("x.far", "x.near"))
    estate.delete("Service", "late", "stock")
    estate.delete("Service", "a", "shop")
    assert clusters(proxy) == {"b.shop"}
    estate.apply(sidecar("stock/*"))
    assert clusters(proxy) == {"a.stock", "b.stock", "x.near.test"}
    estate.delete("Sidecar", "scope", "shop")
    assert clusters(proxy) == {"b.shop", "a.stock", "b.stock", "x.near.test"}


def test_what_is_outside_of_a_scope_costs_its_view_nothing(estate: Bench) -> None:
    estate.apply(sidecar("./*", "stock/a.stock.svc.cluster.local"))
    proxy = estate.connect("client", "shop")
    for name in ("80",):
        routes(proxy, name)
    estate.recorder.take()
    stats = estate.pilot.graph.stats
    stats.reset()
    estate.apply(service("new", "stock"))
    estate.apply(service("b", "stock", port=81))
    estate.run(workload("new-1", "stock", app="new"))
    estate.apply(virtual("b", "new", namespace="stock"))
    estate.delete("Service", "new", "stock")
    assert estate.recorder.take() == {}
    of_views = {"clusters", "service listeners", "port listener", "route configuration", "virtual host", "name"}
    assert {name: count for name, count in stats.recomputed.items() if name in of_views} == {}
    assert stats.recomputed["service in scope"] == 0


def test_destinations_of_imported_virtual_services_come_into_sight(estate: Bench) -> None:
    estate.apply(sidecar("./*"))
    proxy = estate.connect("client", "shop")
    estate.apply(virtual("a", "b.stock.svc.cluster.local"))
    assert clusters(proxy) == {"a.shop", "b.shop", "b.stock"}
    hosts = {host.name: host for host in routes(proxy, "80").virtual_hosts}
    assert hosts["a.shop.svc.cluster.local:80"].routes[0].route.cluster == "outbound|80||b.stock.svc.cluster.local"
    # Sent to, not importable by name: clients know neither a route nor an address of it.
    assert "b.stock.svc.cluster.local:80" not in hosts
    assert fqdn("b", "stock") not in {str(entry.hostname) for entry in proxy.shared.entries()}
    assert endpoints(proxy, "outbound|80||b.stock.svc.cluster.local")
    estate.apply(virtual("a", "a.stock.svc.cluster.local"))
    assert clusters(proxy) == {"a.shop", "b.shop", "a.stock"}
    estate.delete("VirtualService", "vs", "shop")
    assert clusters(proxy) == {"a.shop", "b.shop"}


def test_virtual_services_of_gateways_bring_nothing_into_a_sidecars_sight(estate: Bench) -> None:
    estate.apply(sidecar("./a.shop.svc.cluster.local"))
    proxy = estate.connect("client", "shop")
    at_gateway = virtual("'*.shop.svc.cluster.local'", "b.stock.svc.cluster.local") + "  gateways: [%s]\n"
    estate.apply(at_gateway % "edge")
    assert clusters(proxy) == {"a.shop"}
    estate.apply(at_gateway % "edge, mesh")
    assert clusters(proxy) == {"a.shop", "b.stock"}
    estate.apply(at_gateway % "edge")
    assert clusters(proxy) == {"a.shop"}


def test_virtual_services_are_imported_by_their_namespace_and_hosts(estate: Bench) -> None:
    estate.apply(sidecar("shop/*") + "---\n" + mesh_config("hostOwnership: istio"))
    proxy = estate.connect("client", "shop")
    foreign = virtual("a.shop.svc.cluster.local", "b.shop.svc.cluster.local", namespace="stock")
    estate.apply(foreign)

    def target() -> str:
        hosts = {host.name: host for host in routes(proxy, "80").virtual_hosts}
        return hosts["a.shop.svc.cluster.local:80"].routes[0].route.cluster.split("|")[3]

    assert target() == "a.shop.svc.cluster.local"
    estate.apply(sidecar("shop/*", "stock/a.shop.svc.cluster.local"))
    assert target() == "b.shop.svc.cluster.local"
    estate.apply(sidecar("shop/*", "stock/*", "~stock/a.shop.svc.cluster.local"))
    assert target() == "a.shop.svc.cluster.local"


def test_the_sidecar_that_selects_a_workload_wins_over_its_namespaces_and_that_over_the_root(estate: Bench) -> None:
    proxy = estate.connect("client", "shop")
    estate.apply(sidecar("./a.shop.svc.cluster.local", name="root", namespace="istio-system"))
    assert clusters(proxy) == {"a.shop"}  # "." is the workload's namespace
    estate.apply(sidecar("./b.shop.svc.cluster.local", name="ns"))
    assert clusters(proxy) == {"b.shop"}
    estate.apply(sidecar("stock/*", name="one", selector="{app: client}"))
    assert clusters(proxy) == {"a.stock", "b.stock"}
    estate.apply(sidecar("stock/*", name="one", selector="{app: other}"))
    assert clusters(proxy) == {"b.shop"}
    # Of several of one class the oldest: here by name, for want of times.
    estate.apply(sidecar("./*", name="aaa"))
    assert clusters(proxy) == {"a.shop", "b.shop"}


def test_proxies_of_one_effective_scope_share_everything(estate: Bench) -> None:
    estate.apply(sidecar("./*", "stock/*", name="one", selector="{app: a}"))
    estate.apply(sidecar("stock/*", "./*", name="two", selector="{app: b}"))
    first, second = estate.connect("a-shop", "shop"), estate.connect("b-shop", "shop")
    assert first.shared is second.shared
    estate.apply(sidecar("*/*", name="one", selector="{app: a}"))
    assert first.shared is estate.connect("client", "shop").shared  # as without a Sidecar


def test_a_sidecar_behind_an_older_one_is_told(estate: Bench) -> None:
    estate.apply(sidecar("./*", name="first"))
    estate.apply(sidecar("./*", name="second"))
    estate.apply(sidecar("./*", name="third", selector="{app: client}"))
    (told,) = estate.pilot.problems()
    assert str(told.resource) == "Sidecar shop/second"
    assert told.message == "is not in force: Sidecar shop/first is older and for the same workloads"
    estate.delete("Sidecar", "first", "shop")
    assert estate.pilot.problems() == []


def test_gateways_have_no_sidecar(estate: Bench) -> None:
    estate.apply(sidecar("./*"))
    estate.run(make_workload("gate", "", "", "10.77.9.9", kind="gateway", namespace="shop", ports=()))
    assert clusters(estate.connect("gate", "shop", kind="router")) == {"a.shop", "b.shop", "a.stock", "b.stock"}


LISTENERS = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: sockets, namespace: shop}
spec:
  egress:
  - port: {number: 81, protocol: HTTP, name: http}
    hosts: ["./*"]
  - port: {number: 0, protocol: HTTP, name: unix}
    bind: unix:///run/shop.sock
    hosts: ["stock/*"]
"""


def test_a_listener_imports_the_ports_it_has(estate: Bench) -> None:
    estate.apply(service("two", "shop").replace("port: 80}", "port: 80}, {name: http-b, port: 81}"))
    estate.apply(LISTENERS)
    proxy = estate.connect("client", "shop")
    assert {name for name in names(proxy, CDS) if name.startswith("outbound|")} == {
        "outbound|81||two.shop.svc.cluster.local",
        "outbound|80||a.stock.svc.cluster.local",
        "outbound|80||b.stock.svc.cluster.local",
    }
    assert names(proxy, LDS) == {"virtualOutbound", "virtualInbound", "0.0.0.0_81", "/run/shop.sock"}
    assert routes(proxy, "81").virtual_hosts[0].name == "two.shop.svc.cluster.local:81"
    unix = {host.name: host for host in routes(proxy, "/run/shop.sock").virtual_hosts}
    # Clients of a socket name the host alone where the service has one port.
    assert {"a.stock", "a.stock:80"} <= set(unix["a.stock.svc.cluster.local:80"].domains)


def test_a_socket_that_a_proxy_rejects_is_its_sidecars_fault(estate: Bench) -> None:
    estate.apply(LISTENERS)
    proxy = estate.connect("client", "shop")
    estate.pilot.source.rejected(proxy, LDS, ("/run/shop.sock",), "cannot bind")
    told = [problem for problem in estate.pilot.problems() if "cannot bind" in problem.message]
    assert [str(problem.resource) for problem in told] == ["Sidecar shop/sockets"]


def test_in_explicit_mode_every_listener_with_a_port_opens_it(estate: Bench) -> None:
    estate.apply(
        sidecar("./*").replace("egress: [", "egress: [{port: {number: 80, protocol: HTTP, name: h}, hosts: ['./*']}, ")
    )
    estate.run(workload("plain", "shop", capture=False, http_proxy_port=15080))
    proxy = estate.connect("plain", "shop")
    assert names(proxy, LDS) >= {"127.0.0.1_80", "127.0.0.1_15080"}
    assert "0.0.0.0_80" not in names(proxy, LDS)


INGRESS = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: in, namespace: shop}
spec:
  workloadSelector: {labels: {app: a}}
  ingress:
  - port: {number: 80, protocol: HTTP, name: http}
    defaultEndpoint: unix:///run/a.sock
    connectionPool: {tcp: {maxConnections: 7}}
  - port: {number: 81, protocol: TCP, name: tcp}
  - port: {number: 82, protocol: TCP, name: own}
    captureMode: NONE
    bind: 127.0.0.9
  inboundConnectionPool: {tcp: {maxConnections: 5}}
"""


def test_ingress_listeners_replace_the_ports_of_services(estate: Bench) -> None:
    estate.apply(INGRESS)
    proxy = estate.connect("a-shop", "shop")
    assert proxy.own is not None
    made = inbound_clusters(proxy)
    assert {name: limit(cluster) for name, cluster in made.items()} == {
        "inbound|80||": 7,
        "inbound|81||": 5,
        "inbound|82||": 5,
    }
    (endpoint,) = made["inbound|80||"].load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.pipe.path == "/run/a.sock"
    assert made["inbound|81||"].type == Cluster.ORIGINAL_DST
    (endpoint,) = made["inbound|82||"].load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.port_value == 82
    assert set(proxy.own.listeners.all()) == {"virtualInbound", "127.0.0.9_82"}


def test_ingress_ends_tls_only_where_the_mesh_asks_for_none(estate: Bench) -> None:
    estate.apply("""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: in, namespace: shop}
spec:
  workloadSelector: {labels: {app: a}}
  ingress:
  - port: {number: 80, protocol: HTTPS, name: https}
    tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}
""")
    proxy = estate.connect("a-shop", "shop")

    def sockets() -> set[str]:
        assert proxy.own is not None
        packed = AnyMessage.FromString(proxy.own.listeners.all()["virtualInbound"].body)
        chains = [chain for chain in Listener.FromString(packed.value).filter_chains if chain.name == "0.0.0.0_80"]
        return {
            "file-cert:/c.pem~/k.pem" if b"file-cert:/c.pem~/k.pem" in chain.SerializeToString() else ""
            for chain in chains
        }

    assert sockets() == {""}
    estate.apply("""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain, namespace: shop}
spec: {mtls: {mode: DISABLE}}
""")
    assert sockets() == {"file-cert:/c.pem~/k.pem"}


def test_an_inbound_pool_is_the_sidecars_before_it_is_a_rules(estate: Bench) -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec: {host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}}
"""
    estate.apply(rule)
    proxy = estate.connect("a-shop", "shop")

    def limit_now() -> int:
        return limit(inbound_clusters(proxy)["inbound|80||"])

    assert limit_now() == 3
    estate.apply(sidecar("*/*", more="  inboundConnectionPool: {tcp: {maxConnections: 5}}"))
    assert limit_now() == 5
    estate.delete("Sidecar", "scope", "shop")
    assert limit_now() == 3


@pytest.mark.parametrize(
    ("export", "seen"),
    [
        pytest.param("*", {"shop", "stock", "lab"}, id="everywhere"),
        pytest.param(".", {"stock"}, id="own"),
        pytest.param("~", set(), id="nobody"),
        pytest.param("shop", {"shop"}, id="one"),
        pytest.param("shop,lab", {"shop", "lab"}, id="several"),
        pytest.param(".,lab", {"stock", "lab"}, id="own-and-another"),
    ],
)
def test_a_service_is_seen_where_it_is_exported_to(estate: Bench, export: str, seen: set[str]) -> None:
    estate.run(*(workload(f"look-{namespace}", namespace) for namespace in ("shop", "stock", "lab")))
    proxies = {ns: estate.connect(f"look-{ns}", ns) for ns in ("shop", "stock", "lab")}
    estate.apply(service("x", "stock", export=export))
    assert {namespace for namespace, proxy in proxies.items() if "x.stock" in clusters(proxy)} == seen


def mesh_config(text: str) -> str:
    return f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{{text}}}\n"


def test_the_meshs_export_to_stands_where_a_resource_says_nothing(estate: Bench) -> None:
    proxy = estate.connect("client", "shop")
    estate.apply(service("open", "stock", export="*"))
    estate.apply(mesh_config("defaultServiceExportTo: ['.']"))
    assert clusters(proxy) == {"a.shop", "b.shop", "open.stock"}
    estate.apply(mesh_config("defaultServiceExportTo: ['shop', 'lab']"))
    assert clusters(proxy) == {"a.shop", "b.shop", "a.stock", "b.stock", "open.stock"}
    estate.run(workload("far", "lab"))
    assert clusters(estate.connect("far", "lab")) == {"a.shop", "b.shop", "a.stock", "b.stock", "open.stock"}
    estate.apply(mesh_config("defaultServiceExportTo: ['~']"))
    assert clusters(proxy) == {"open.stock"}


def test_the_meshs_export_to_of_routes_and_rules(estate: Bench) -> None:
    proxy = estate.connect("client", "shop")
    estate.apply(virtual("a", "b.shop.svc.cluster.local", namespace="stock"))
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: stock}
spec: {host: a, subsets: [{name: one, labels: {v: '1'}}]}
"""
    estate.apply(rule)

    def seen() -> tuple[bool, bool]:
        hosts = {host.name: host for host in routes(proxy, "80").virtual_hosts}
        routed = hosts["a.stock.svc.cluster.local:80"].routes[0].route.cluster.endswith("b.shop.svc.cluster.local")
        return routed, "outbound|80|one|a.stock.svc.cluster.local" in names(proxy, CDS)

    assert seen() == (True, True)
    estate.apply(mesh_config("defaultVirtualServiceExportTo: ['.']"))
    assert seen() == (False, True)
    estate.apply(mesh_config("defaultDestinationRuleExportTo: ['stock']"))
    assert seen() == (True, False)
    estate.apply(rule.replace("spec: {", "spec: {exportTo: ['*'], "))
    assert seen() == (True, True)
