"""ServiceEntries and WorkloadEntries: what a sidecar is served for them: clusters, endpoints, listeners, names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.sni_dynamic_forward_proxy_pb2 import (
    FilterConfig as SniForward,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_pilot import routes

from lateen.api.mesh import ServiceEntryVisibility
from lateen.errors import BadInput
from lateen.pilot.model.entry_visibility import narrow, select_visibility
from lateen.pilot.serving.groups import group_info
from lateen.pilot.serving.scopes import CDS, EDS, LDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.http_manager import HCM_NAME
from lateen.wire.label_text import pack_service
from lateen.wire.local import GroupInfo, GroupQuery, Probe

HOST = "db.example.com"


def entry(spec: str, name: str = "entry", namespace: str = "default", metadata: str = "") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
        f"metadata: {{name: {name}, namespace: {namespace}{metadata}}}\nspec:\n{spec}"
    )


def workload_entry(spec: str, name: str, labels: str = "app: db", metadata: str = "") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        f"metadata: {{name: {name}{metadata}}}\nspec: {{labels: {{{labels}}}, {spec}}}"
    )


@pytest.fixture
def client(bench: Bench) -> MeshProxy:
    bench.run(make_workload("client", "", "", "10.77.0.2", ports=(), labels={"app": "client"}))
    return bench.connect("client")


def resources(proxy: MeshProxy, type_url: str, kind: type[Any]) -> dict[str, Any]:
    found = {}
    for one in proxy.slices[type_url]:
        for name, resource in one.all().items():
            message = kind()
            assert AnyMessage.FromString(resource.body).Unpack(message)
            found[name] = message
    return found


def clusters(proxy: MeshProxy) -> dict[str, Cluster]:
    return {name: value for name, value in resources(proxy, CDS, Cluster).items() if name.startswith("outbound|")}


def endpoints(proxy: MeshProxy, cluster: str) -> list[tuple[str, int]]:
    """The addresses and ports of an EDS cluster; of a Unix socket its path, and 0."""
    resource = proxy.slices[EDS][0].get(cluster)
    assert resource is not None
    assignment = ClusterLoadAssignment()
    assert AnyMessage.FromString(resource.body).Unpack(assignment)
    found = [e.endpoint.address for group in assignment.endpoints for e in group.lb_endpoints]
    return [(a.pipe.path or a.socket_address.address, a.socket_address.port_value) for a in found]


def looked_up(cluster: Cluster) -> list[tuple[str, int]]:
    """The names and ports of a DNS cluster."""
    found = [e.endpoint.address.socket_address for g in cluster.load_assignment.endpoints for e in g.lb_endpoints]
    return [(address.address, address.port_value) for address in found]


def chains(proxy: MeshProxy) -> dict[str, list[tuple[tuple[str, ...], tuple[str, ...], str]]]:
    """Listener -> what its chains match (server names, subnets) and the chain's name, captures left out."""
    found = {}
    for name, listener in resources(proxy, LDS, Listener).items():
        if name.startswith("virtual"):
            continue
        last = [listener.default_filter_chain] if listener.HasField("default_filter_chain") else []
        found[name] = [
            (
                tuple(chain.filter_chain_match.server_names),
                tuple(f"{r.address_prefix}/{r.prefix_len.value}" for r in chain.filter_chain_match.prefix_ranges),
                chain.name,
            )
            for chain in [*listener.filter_chains, *last]
        ]
    return found


def names(bench: Bench, proxy: MeshProxy) -> dict[str, tuple[str, ...]]:
    return {str(row.hostname): row.addresses for row in proxy.shared.entries()}


# ---------------------------------------------------------------- addresses


def test_each_address_has_a_listener_and_is_an_answer(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  addresses: [192.0.2.9, 192.0.2.7/32, 198.51.100.0/24]\n  resolution: STATIC\n"
            "  ports: [{number: 5000, name: tcp, protocol: TCP}]\n  endpoints: [{address: 10.1.1.1}]\n"
        )
    )
    name = f"outbound|5000||{HOST}"
    assert chains(client) == {
        "192.0.2.9_5000": [((), (), name)],
        "192.0.2.7_5000": [((), (), name)],
        "0.0.0.0_5000": [((), ("198.51.100.0/24",), name), ((), (), "PassthroughFilterChain")],
    }
    assert names(bench, client) == {HOST: ("192.0.2.7", "192.0.2.9")}


def test_requests_are_known_by_each_address(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  addresses: [192.0.2.9, 192.0.2.7]\n  resolution: STATIC\n"
            "  ports: [{number: 80, name: http, protocol: HTTP}]\n  endpoints: [{address: 10.1.1.1}]\n"
        )
    )
    (host,) = [host for host in routes(client, "80").virtual_hosts if host.name == f"{HOST}:80"]
    assert list(host.domains) == [HOST, f"{HOST}.", "192.0.2.9", "192.0.2.7"]


def test_a_wildcard_without_address_is_told_by_its_server_name(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            "  hosts: ['*.example.com']\n  resolution: NONE\n  ports: [{number: 443, name: tls, protocol: TLS}]\n"
            "  location: MESH_EXTERNAL\n"
        )
    )
    name = "outbound|443||*.example.com"
    assert chains(client) == {
        "0.0.0.0_443": [(("*.example.com",), (), name), ((), (), "PassthroughFilterChain")],
    }
    assert clusters(client)[name].type == Cluster.ORIGINAL_DST
    assert names(bench, client) == {}, "nobody but the outside's own DNS says where x.example.com is"


def test_a_wildcard_inside_a_label_is_no_server_name(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry("  hosts: ['*foo.com', a.test]\n  resolution: NONE\n  ports: [{number: 443, name: tls, protocol: TLS}]\n")
    )
    assert chains(client)["0.0.0.0_443"][0] == (("a.test",), (), "outbound|443||a.test")
    assert len(chains(client)["0.0.0.0_443"]) == 2


def test_hosts_that_share_an_address_are_told_apart_by_server_name(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            "  hosts: [b.test, a.test]\n  addresses: [192.0.2.9]\n  resolution: STATIC\n"
            "  ports: [{number: 443, name: tls, protocol: TLS}]\n  endpoints: [{address: 10.1.1.1}]\n"
        )
    )
    assert chains(client) == {
        "192.0.2.9_443": [
            (("a.test",), (), "outbound|443||a.test"),
            (("b.test",), (), "outbound|443||b.test"),
            ((), (), "PassthroughFilterChain"),
        ]
    }


def test_of_tcp_services_on_one_address_the_oldest_stands(bench: Bench, client: MeshProxy) -> None:
    for name, created in (("a", "2026-02-01T00:00:00Z"), ("b", "2026-01-01T00:00:00Z")):
        bench.apply(
            entry(
                f"  hosts: [{name}.test]\n  addresses: [192.0.2.9]\n  resolution: STATIC\n"
                "  ports: [{number: 5000, name: tcp, protocol: TCP}]\n  endpoints: [{address: 10.1.1.1}]\n",
                name,
                metadata=f", creationTimestamp: '{created}'",
            )
        )
    assert chains(client) == {"192.0.2.9_5000": [((), (), "outbound|5000||b.test")]}
    bench.delete("ServiceEntry", "b")
    assert chains(client) == {"192.0.2.9_5000": [((), (), "outbound|5000||a.test")]}


# ---------------------------------------------------------------- endpoints


def test_an_endpoints_own_port_comes_before_the_target_port(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  resolution: STATIC\n"
            "  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n"
            "  endpoints: [{address: 10.1.1.1, ports: {http: 9090}}, {address: 10.1.1.2}]\n"
        )
    )
    assert endpoints(client, f"outbound|80||{HOST}") == [("10.1.1.1", 9090), ("10.1.1.2", 8080)]


def test_a_unix_socket_has_no_port(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
            "  endpoints: [{address: 'unix:///run/db.sock'}, {address: 'unix://@db'}]\n"
        )
    )
    assert endpoints(client, f"outbound|80||{HOST}") == [("/run/db.sock", 0), ("@db", 0)]


def test_selected_entries_are_known_by_the_labels_of_their_metadata(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  resolution: STATIC\n  location: MESH_INTERNAL\n"
            "  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n"
            "  workloadSelector: {labels: {app: db}}\n"
        )
    )
    bench.apply(workload_entry("address: 10.1.1.1", "one", labels="app: other", metadata=", labels: {app: db}"))
    bench.apply(workload_entry("address: 10.1.1.2, ports: {http: 9090}", "two"))
    bench.apply(workload_entry("address: 10.1.1.3", "three", metadata=", labels: {app: other}"))
    bench.run(make_workload("db-1", "", "", "10.77.0.9", labels={"app": "db"}, ports=(("http", 8080, 8080),)))
    name = f"outbound|80||{HOST}"
    assert endpoints(client, name) == [("10.1.1.1", 8080), ("10.1.1.2", 9090), ("10.77.0.9", 8080)]
    bench.delete("WorkloadEntry", "one")
    assert endpoints(client, name) == [("10.1.1.2", 9090), ("10.77.0.9", 8080)]


def test_names_are_for_dns_and_sockets_are_not(bench: Bench, client: MeshProxy) -> None:
    for resolution in ("STATIC", "DNS"):
        bench.apply(
            entry(
                f"  hosts: [{resolution.lower()}.test]\n  resolution: {resolution}\n"
                "  ports: [{number: 80, name: http, protocol: HTTP}]\n  workloadSelector: {labels: {app: db}}\n",
                resolution.lower(),
            )
        )
    bench.apply(workload_entry("address: one.example.com", "name"))
    bench.apply(workload_entry("address: 10.1.1.2", "ip"))
    bench.apply(workload_entry("address: 'unix:///run/db.sock'", "socket"))
    assert endpoints(client, "outbound|80||static.test") == [("/run/db.sock", 0), ("10.1.1.2", 80)]
    assert looked_up(clusters(client)["outbound|80||dns.test"]) == [("10.1.1.2", 80), ("one.example.com", 80)]


def test_round_robin_dns_has_one_endpoint_however_many_are_selected(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  resolution: DNS_ROUND_ROBIN\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
            "  workloadSelector: {labels: {app: db}}\n"
        )
    )
    for name in ("one", "two"):
        bench.apply(workload_entry(f"address: {name}.example.com", name))
    assert looked_up(clusters(client)[f"outbound|80||{HOST}"]) == [("one.example.com", 80)]


# ---------------------------------------------------------------- several resources on one host


def test_entries_of_one_host_are_one_service(bench: Bench, client: MeshProxy) -> None:
    spec = "  hosts: [{host}]\n  resolution: STATIC\n  ports: [{{number: {port}, name: {name}, protocol: HTTP}}]\n"
    bench.apply(entry(spec.format(host=HOST, port=80, name="http") + "  endpoints: [{address: 10.1.1.1}]\n", "first"))
    bench.apply(entry(spec.format(host=HOST, port=81, name="admin") + "  endpoints: [{address: 10.1.1.2}]\n", "second"))
    assert set(clusters(client)) == {f"outbound|80||{HOST}", f"outbound|81||{HOST}"}
    assert endpoints(client, f"outbound|80||{HOST}") == [("10.1.1.1", 80)]
    assert endpoints(client, f"outbound|81||{HOST}") == [("10.1.1.2", 81)]
    bench.delete("ServiceEntry", "first")
    assert set(clusters(client)) == {f"outbound|81||{HOST}"}


def test_entries_of_another_resolution_do_not_mix(bench: Bench, client: MeshProxy) -> None:
    spec = "  hosts: [{host}]\n  resolution: {kind}\n  ports: [{{number: {port}, name: http, protocol: HTTP}}]\n"
    bench.apply(entry(spec.format(host=HOST, kind="STATIC", port=80) + "  endpoints: [{address: 10.1.1.1}]\n", "first"))
    bench.apply(entry(spec.format(host=HOST, kind="DNS", port=81), "second"))
    assert set(clusters(client)) == {f"outbound|80||{HOST}"}


def test_a_second_round_robin_entry_of_a_port_is_passed_over(bench: Bench, client: MeshProxy) -> None:
    for name in ("first", "second"):
        bench.apply(
            entry(
                f"  hosts: [{HOST}]\n  resolution: DNS_ROUND_ROBIN\n"
                f"  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints: [{{address: {name}.test}}]\n",
                name,
            )
        )
    assert looked_up(clusters(client)[f"outbound|80||{HOST}"]) == [("first.test", 80)]


def test_an_entry_for_a_service_of_the_mesh_only_adds_names_of_its_servers(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    host = "reviews.default.svc.cluster.local"
    spec = (
        f"  hosts: [{host}]\n  resolution: STATIC\n  location: MESH_INTERNAL\n"
        "  ports: [{number: 1234, name: http, protocol: HTTP}]\n  endpoints: [{address: 10.1.1.1}]\n"
    )
    shop.apply(entry(f"{spec}  subjectAltNames: [reviews.partner.test]\n"))
    shop.apply(entry(f"{spec}  subjectAltNames: [evil.test]\n", namespace="elsewhere"))
    assert f"outbound|1234||{host}" not in clusters(proxy)
    text = str(clusters(proxy)[f"outbound|9080||{host}"].transport_socket_matches)
    assert "reviews.partner.test" in text
    assert "evil.test" not in text, "another namespace does not say who may serve this one's hosts"


def test_of_two_namespaces_the_clients_own_entry_is_meant(bench: Bench, client: MeshProxy) -> None:
    spec = f"  hosts: [{HOST}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
    bench.apply(entry(f"{spec}  endpoints: [{{address: 10.1.1.1}}]\n", namespace="aa"))
    assert endpoints(client, f"outbound|80||{HOST}") == [("10.1.1.1", 80)]
    bench.apply(entry(f"{spec}  endpoints: [{{address: 10.1.1.2}}]\n"))
    assert endpoints(client, f"outbound|80||{HOST}") == [("10.1.1.2", 80)]
    bench.delete("ServiceEntry", "entry")
    assert endpoints(client, f"outbound|80||{HOST}") == [("10.1.1.1", 80)]


@pytest.mark.parametrize(("export", "seen"), [("'.'", False), ("'~'", False), ("default", True), ("'*'", True)])
def test_an_entry_is_seen_where_it_is_exported_to(bench: Bench, client: MeshProxy, export: str, seen: bool) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  exportTo: [{export}]\n  resolution: STATIC\n"
            "  ports: [{number: 80, name: http, protocol: HTTP}]\n  endpoints: [{address: 10.1.1.1}]\n",
            namespace="other",
        )
    )
    assert (f"outbound|80||{HOST}" in clusters(client)) is seen


def test_the_target_port_of_original_destinations_is_rewritten(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  addresses: [198.51.100.0/24]\n  resolution: NONE\n"
            "  ports: [{number: 5000, name: tcp, protocol: TCP, targetPort: 6000}]\n"
        )
    )
    cluster = clusters(client)[f"outbound|5000||{HOST}"]
    assert cluster.type == Cluster.ORIGINAL_DST
    assert cluster.original_dst_lb_config.upstream_port_override.value == 6000


# ---------------------------------------------------------------- hosts that requests name


def http_filters(proxy: MeshProxy, listener: str) -> list[list[str]]:
    """The names of the HTTP filters of each chain that has some."""
    found = []
    for chain in resources(proxy, LDS, Listener)[listener].filter_chains:
        for one in chain.filters:
            if one.name == HCM_NAME:
                manager = HttpConnectionManager()
                assert one.typed_config.Unpack(manager)
                found.append([entry.name for entry in manager.http_filters])
    return found


DYNAMIC_FILTER = "envoy.filters.http.dynamic_forward_proxy"


def test_dynamic_hosts_are_looked_up_on_their_ports_only(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry(
            "  hosts: ['*.saas.test']\n  resolution: DYNAMIC_DNS\n  ports:\n"
            "  - {number: 80, name: http, protocol: HTTP}\n"
            "  - {number: 443, name: tls, protocol: TLS, targetPort: 8443}\n"
        )
    )
    bench.apply(
        entry(
            "  hosts: [other.test]\n  resolution: DNS\n  ports: [{number: 81, name: http, protocol: HTTP}]\n", "other"
        )
    )
    kinds = {name: cluster.cluster_type.name for name, cluster in clusters(client).items()}
    assert kinds == {
        "outbound|80||*.saas.test": "envoy.clusters.dynamic_forward_proxy",
        "outbound|443||*.saas.test": "envoy.clusters.dynamic_forward_proxy",
        "outbound|81||other.test": "envoy.cluster.dns",
    }
    assert [DYNAMIC_FILTER in names for names in http_filters(client, "0.0.0.0_80")] == [True]
    assert [DYNAMIC_FILTER in names for names in http_filters(client, "0.0.0.0_81")] == [False]
    (chain, _) = chains(client)["0.0.0.0_443"]
    assert chain == (("*.saas.test",), (), "outbound|443||*.saas.test")
    (forward, _) = resources(client, LDS, Listener)["0.0.0.0_443"].filter_chains[0].filters
    config = SniForward()
    assert forward.typed_config.Unpack(config)
    assert config.port_value == 8443
    (host,) = [host for host in routes(client, "80").virtual_hosts if host.name != "allow_any"]
    assert list(host.domains) == ["*.saas.test"]


def test_a_dynamic_host_has_no_subsets(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        entry("  hosts: ['*.saas.test']\n  resolution: DYNAMIC_DNS\n  ports: [{number: 80, name: h, protocol: HTTP}]\n")
    )
    bench.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: saas}\n"
        "spec:\n  host: '*.saas.test'\n  subsets: [{name: v1, labels: {version: v1}}]\n"
        "  trafficPolicy: {tls: {mode: SIMPLE}}\n"
    )
    assert set(clusters(client)) == {"outbound|80||*.saas.test"}
    assert clusters(client)["outbound|80||*.saas.test"].transport_socket.name == "envoy.transport_sockets.tls"


def test_any_host_is_looked_up_when_the_mesh_says_so(bench: Bench, client: MeshProxy) -> None:
    def applied(policy: str) -> tuple[bool, list[bool], str]:
        bench.apply(
            "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
            f"outboundTrafficPolicy: {policy}\n"
        )
        known = resources(client, CDS, Cluster).get("AllowAnyDynamicDNSCluster")
        looks_up = [DYNAMIC_FILTER in names for names in http_filters(client, "virtualOutbound")]
        return known is not None, looks_up, known.transport_socket.name if known is not None else ""

    assert applied("{mode: ALLOW_ANY}") == (False, [], "")
    assert applied("{mode: ALLOW_ANY_DYNAMIC_DNS}") == (True, [True], "")
    secure = applied("{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE, sni: a.test}}")
    assert secure == (True, [True], "envoy.transport_sockets.tls")
    assert applied("{mode: REGISTRY_ONLY}") == (False, [], "")


# ---------------------------------------------------------------- groups

GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms}
spec:
  metadata: {labels: {app: db, version: v3}, annotations: {team: data}}
  template: {serviceAccount: db, network: dc-east, locality: eu/eu-1, weight: 2, ports: {http: 19000}, labels: {app: x}}
  probe: {initialDelaySeconds: 3, httpGet: {path: healthz, port: 8086, httpHeaders: [{name: X-Probe, value: vm}]}}
"""


def test_what_a_group_says(bench: Bench) -> None:
    bench.apply(GROUP)
    assert group_info(bench.pilot.mesh, GroupQuery(namespace="default", name="vms")) == GroupInfo(
        name="vms",
        namespace="default",
        service_account="db",
        labels={"app": "db", "version": "v3"},
        annotations={"team": "data"},
        ports={"http": 19000},
        locality="eu/eu-1",
        network="dc-east",
        weight=2,
        probe=Probe(
            kind="http",
            initial_delay_seconds=3,
            timeout_seconds=1,
            period_seconds=10,
            success_threshold=1,
            failure_threshold=3,
            port=8086,
            path="/healthz",
            headers=(("X-Probe", "vm"),),
        ),
    )


@pytest.mark.parametrize(
    ("spec", "probe"),
    [
        ("tcpSocket: {port: 1}", Probe(kind="tcp", host="localhost", port=1)),
        (
            "tcpSocket: {port: 1, host: h}, failureThreshold: 9",
            Probe(kind="tcp", host="h", port=1, failure_threshold=9),
        ),
        ("exec: {command: [a, b]}, periodSeconds: 2", Probe(kind="exec", command=("a", "b"), period_seconds=2)),
        ("grpc: {port: 1, service: s}, timeoutSeconds: 4", Probe(kind="grpc", port=1, service="s", timeout_seconds=4)),
        ("httpGet: {port: 1, scheme: HTTPS, host: h}", Probe(kind="http", port=1, scheme="HTTPS", host="h")),
        ("tcpSocket: {port: 1}, successThreshold: 2", Probe(kind="tcp", host="localhost", port=1, success_threshold=2)),
    ],
)
def test_the_probe_of_a_group(bench: Bench, spec: str, probe: Probe) -> None:
    bench.apply(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: vms}\n"
        f"spec: {{template: {{}}, probe: {{{spec}}}}}\n"
    )
    info = group_info(bench.pilot.mesh, GroupQuery(namespace="default", name="vms"))
    assert info.probe == probe
    assert info.service_account == "default"


def test_a_group_that_is_not_there_is_told_with_those_that_are(bench: Bench) -> None:
    with pytest.raises(BadInput, match="no WorkloadGroup 'vms' in namespace 'default'; there is none"):
        group_info(bench.pilot.mesh, GroupQuery(namespace="default", name="vms"))
    bench.apply(GROUP)
    with pytest.raises(BadInput, match="no WorkloadGroup 'vm' in namespace 'default'; there are vms"):
        group_info(bench.pilot.mesh, GroupQuery(namespace="default", name="vm"))


def test_a_workload_of_a_group_serves_at_the_groups_ports(bench: Bench, client: MeshProxy) -> None:
    bench.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n"
        "spec: {selector: {app: db}, ports: [{name: http, port: 80, targetPort: 8080}]}\n"
    )
    labels = {"app": "db"}
    bench.run(
        make_workload("vms-1", "", "", "10.77.0.8", labels=labels, ports=(("http", 19000, 19000),), group="vms"),
        make_workload("db-1", "", "", "10.77.0.9", labels=labels, ports=(("http", 8080, 8080),)),
    )
    name = "outbound|80||db.default.svc.cluster.local"
    assert endpoints(client, name) == [("10.77.0.8", 19000), ("10.77.0.9", 8080)]
    # Its own proxy guards the same port, as that service's.
    inbound = bench.connect("vms-1")
    assert "inbound|19000||" in resources(inbound, CDS, Cluster)
    listener = resources(inbound, LDS, Listener)["virtualInbound"]
    (guarded,) = {
        chain.metadata.filter_metadata["istio"]["service"]
        for chain in listener.filter_chains
        if chain.filter_chain_match.destination_port.value == 19000
    }
    assert guarded == pack_service(host="db.default.svc.cluster.local", name="db", namespace="default")


# ---------------------------------------------------------------- what the mesh lets be seen


def test_the_mesh_narrows_who_sees_entries(bench: Bench, client: MeshProxy) -> None:
    def seen(visibility: str, namespace: str = "other") -> bool:
        bench.apply(
            "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
            f"serviceEntryVisibility: {visibility}\n"
        )
        bench.run(make_workload("own", "", "", "10.77.0.7", ports=(), namespace=namespace))
        return f"outbound|80||{HOST}" in clusters(bench.connect("own", namespace))

    bench.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: red}}\n")
    bench.apply(
        entry(
            f"  hosts: [{HOST}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
            "  endpoints: [{address: 10.1.1.1}]\n",
            namespace="other",
        )
    )
    assert f"outbound|80||{HOST}" in clusters(client)
    assert seen("{defaultVisibility: NAMESPACE, applyToSidecars: true}")
    assert f"outbound|80||{HOST}" not in clusters(client)
    assert not seen("{defaultVisibility: NONE, applyToSidecars: true}")
    assert seen("{defaultVisibility: NONE}"), "of ambient proxies"
    red = "[{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red]}]}}]"
    for rules, left in ((red, False), (red.replace("red", "blue"), True), ("[]", False)):
        policy = f"{{policies: [{{visibility: NONE, matchingRules: {rules}}}], applyToSidecars: true}}"
        assert seen(policy) is left, rules


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_policies_choose_namespaces_by_their_labels(selector: dict[str, Any], matches: bool) -> None:
    setting = msgspec.convert(
        {
            "applyToSidecars": True,
            "policies": [{"visibility": "NONE", "matchingRules": [{"namespaceSelector": selector}]}],
        },
        ServiceEntryVisibility,
    )
    assert (select_visibility(setting, {"a": "1"}) == "NONE") is matches


@pytest.mark.parametrize(("export_to", "namespaced"), [(("*",), ("n",)), (("m", "n"), ("n",)), (("m",), ()), ((), ())])
def test_visibility_never_widens(export_to: tuple[str, ...], namespaced: tuple[str, ...]) -> None:
    assert narrow(export_to, "PUBLIC", "n") == export_to
    assert narrow(export_to, "NAMESPACE", "n") == namespaced
    assert narrow(export_to, "NONE", "n") == ()


def test_an_entry_may_prefer_near_endpoints(bench: Bench) -> None:
    near = "{{address: 10.1.1.{n}, locality: {place}}}"
    where = [near.format(n=n, place=place) for n, place in ((1, "eu/eu-1"), (2, "eu/eu-2"), (3, "us/us-1"))]
    bench.run(make_workload("client", "", "", "10.77.0.2", ports=(), locality="eu/eu-2"))
    client = bench.connect("client")
    for annotation, nearest in (("PreferClose", "10.1.1.2"), ("Whatever", None)):
        bench.apply(
            entry(
                f"  hosts: [{HOST}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
                f"  endpoints: [{', '.join(where)}]\n",
                metadata=f", annotations: {{networking.istio.io/traffic-distribution: {annotation}}}",
            )
        )
        resource = client.slices[EDS][0].get(f"outbound|80||{HOST}")
        assert resource is not None
        assignment = ClusterLoadAssignment()
        assert AnyMessage.FromString(resource.body).Unpack(assignment)
        first = {
            e.endpoint.address.socket_address.address
            for group in assignment.endpoints
            if group.priority == 0
            for e in group.lb_endpoints
        }
        assert first == ({nearest} if nearest else {"10.1.1.1", "10.1.1.2", "10.1.1.3"})
