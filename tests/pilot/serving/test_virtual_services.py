"""Whose VirtualService acts on whose traffic: ownership of hosts, precedence, delegates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.serving.conftest import Bench

from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import RDS
from lateen.pilot.serving.source import MeshProxy

HOST = "shop.owner.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec: {ports: [{port: 80, name: http}], selector: {app: x}}
"""
ISTIO = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {hostOwnership: istio}\n"


def rule(namespace: str, *, host: str = HOST, name: str = "rule", age: int = 1, **more: str) -> str:
    """A VirtualService that answers with its own place."""
    fields = "".join(f", {key}: {value}" for key, value in more.items())
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{age}T00:00:00Z'}}\n"
        f"spec: {{hosts: ['{host}'], http: [{{name: {namespace}/{name}, route: [{{destination: {{host: x.y}}}}]}}]"
        f"{fields}}}\n"
    )


@pytest.fixture
def mesh(bench: Bench, make: Callable[..., Workload]) -> Bench:
    bench.apply(SERVICE % ("shop", "owner"))
    for number, namespace in enumerate(("owner", "client", "other", "istio-system")):
        bench.run(make(f"{namespace}-v1", "", "", f"10.77.1.{number}", namespace=namespace, ports=()))
    return bench


def config(proxy: MeshProxy, name: str = "80") -> RouteConfiguration:
    resource = proxy.slices[RDS][0].get(name)
    assert resource is not None
    found = RouteConfiguration()
    assert AnyMessage.FromString(resource.body).Unpack(found)
    return found


def speaker(bench: Bench, client: str, domain: str = HOST) -> str:
    """Return which rule acts on traffic of a namespace for a host; `default` for none, "" for an unknown host."""
    proxy = bench.connect(f"{client}-v1", client)
    try:
        hosts = [host for host in config(proxy).virtual_hosts if domain in host.domains]
        return hosts[0].routes[0].name if hosts else ""
    finally:
        proxy.close()


def speakers(bench: Bench, domain: str = HOST) -> dict[str, str]:
    return {client: speaker(bench, client, domain) for client in ("owner", "client", "other")}


# ---------------------------------------------------------------- ownership


@pytest.mark.parametrize("ownership", ["namespace", "istio"])
@pytest.mark.parametrize(
    ("namespace", "acts_by_default", "acts_as_in_istio"),
    [
        pytest.param("owner", {"owner", "client", "other"}, {"owner", "client", "other"}, id="the owner's"),
        pytest.param("client", {"client"}, {"owner", "client", "other"}, id="another's acts for itself"),
        pytest.param("istio-system", {"owner", "client", "other"}, {"owner", "client", "other"}, id="the root's"),
    ],
)
def test_who_may_redirect_whose_traffic(
    mesh: Bench, ownership: str, namespace: str, acts_by_default: set[str], acts_as_in_istio: set[str]
) -> None:
    mesh.apply(rule(namespace) + ("---\n" + ISTIO if ownership == "istio" else ""))
    acts = acts_by_default if ownership == "namespace" else acts_as_in_istio
    wanted = {client: f"{namespace}/rule" if client in acts else "default" for client in ("owner", "client", "other")}
    assert speakers(mesh) == wanted


def test_a_host_belongs_to_whoever_defines_it(mesh: Bench) -> None:
    outside = "api.example.com"
    mesh.apply(rule("client", host=outside))
    assert speakers(mesh, outside) == {"owner": "", "client": "client/rule", "other": ""}
    mesh.apply(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api, namespace: client}\n"
        f"spec: {{hosts: [{outside}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
    )
    assert speakers(mesh, outside) == dict.fromkeys(("owner", "client", "other"), "client/rule")
    mesh.delete("ServiceEntry", "api", "client")
    assert speakers(mesh, outside) == {"owner": "", "client": "client/rule", "other": ""}


def test_a_wildcard_takes_only_the_hosts_that_are_its_namespaces(mesh: Bench) -> None:
    mesh.apply(SERVICE % ("till", "client"))
    mesh.apply(rule("client", host="*.svc.cluster.local"))
    assert speakers(mesh) == {"owner": "default", "client": "client/rule", "other": "default"}
    assert speakers(mesh, "till.client.svc.cluster.local") == dict.fromkeys(("owner", "client", "other"), "client/rule")


def test_changing_the_mesh_setting_changes_who_acts(mesh: Bench) -> None:
    mesh.apply(rule("client"))
    assert speaker(mesh, "other") == "default"
    mesh.apply(ISTIO)
    assert speaker(mesh, "other") == "client/rule"
    mesh.delete("MeshConfig", "mesh", "")
    assert speaker(mesh, "other") == "default"


# ---------------------------------------------------------------- precedence


def test_the_older_of_two_wins_and_the_next_takes_over(mesh: Bench) -> None:
    mesh.apply(rule("owner", name="young", age=2) + rule("owner", name="old", age=1))
    assert speaker(mesh, "other") == "owner/old"
    mesh.delete("VirtualService", "old", "owner")
    assert speaker(mesh, "other") == "owner/young"


def test_the_clients_own_rule_goes_before_the_owners(mesh: Bench) -> None:
    mesh.apply(rule("owner", age=1) + rule("client", age=2))
    assert speakers(mesh) == {"owner": "owner/rule", "client": "client/rule", "other": "owner/rule"}
    mesh.apply(ISTIO)
    assert speaker(mesh, "client") == "owner/rule"  # both are for everybody, so the older one wins


def test_what_is_private_goes_before_what_is_public_as_in_istio(mesh: Bench) -> None:
    public = rule("owner", age=1)
    named = rule("owner", name="named", age=2, exportTo="[client]")
    private = rule("client", name="private", age=3, exportTo="['.']")
    mesh.apply(ISTIO)
    mesh.apply(public + named)
    assert speakers(mesh) == {"owner": "owner/rule", "client": "owner/named", "other": "owner/rule"}
    mesh.apply(private)
    assert speaker(mesh, "client") == "client/private"


@pytest.mark.parametrize(
    ("hosts", "winner"),
    [
        pytest.param(["*.owner.svc.cluster.local", HOST], HOST, id="exact before wildcard"),
        pytest.param(["*.cluster.local", "*.owner.svc.cluster.local"], "*.owner.svc.cluster.local", id="longest"),
        pytest.param(
            ["*.owner.svc.cluster.local", "*op.owner.svc.cluster.local"],
            "*op.owner.svc.cluster.local",
            id="within a label",
        ),
        pytest.param(["*op.owner.svc.cluster.local", HOST], HOST, id="exact before one within a label"),
        pytest.param(["*xx.owner.svc.cluster.local"], "", id="another one within a label"),
        pytest.param(["Shop.Owner.SVC.cluster.local."], "Shop.Owner.SVC.cluster.local.", id="case and last dot"),
    ],
)
def test_the_most_specific_host_wins_whatever_its_age(mesh: Bench, hosts: list[str], winner: str) -> None:
    mesh.apply("".join(rule("owner", host=host, name=f"r{age}", age=age) for age, host in enumerate(hosts, 1)))
    wanted = f"owner/r{hosts.index(winner) + 1}" if winner else "default"
    assert speaker(mesh, "other") == wanted


def test_at_a_gateway_what_is_for_it_alone_goes_before_what_is_for_all(
    mesh: Bench, make: Callable[..., Workload]
) -> None:
    labels = {"istio": "ingressgateway"}
    mesh.run(make("edge", "", "", "10.77.2.1", kind="gateway", labels=labels, ports=(("http", 80, 80),)))
    mesh.apply(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\n"
        "spec: {selector: {istio: ingressgateway}, "
        "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n"
    )
    bound = "[default/edge]"
    mesh.apply(
        rule("other", host="a.com", age=1, gateways=bound)
        + rule("other", host="a.com", name="named", age=2, gateways=bound, exportTo="[default]")
        + rule("default", host="a.com", age=3, gateways=bound, exportTo="['.']")
    )
    proxy = mesh.connect("edge", kind="router")
    (host,) = config(proxy, "http.80").virtual_hosts
    assert [route.name for route in host.routes] == ["default/rule", "other/named", "other/rule"]


def test_one_that_is_not_exported_to_a_namespace_does_not_act_there(mesh: Bench) -> None:
    mesh.apply(rule("owner", exportTo="['.', other]"))
    assert speakers(mesh) == {"owner": "owner/rule", "client": "default", "other": "owner/rule"}


def test_the_mesh_says_where_one_goes_that_does_not_say(mesh: Bench) -> None:
    mesh.apply(
        "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n"
        "spec: {defaultVirtualServiceExportTo: ['.']}\n"
    )
    mesh.apply(rule("owner"))
    assert speakers(mesh) == {"owner": "owner/rule", "client": "default", "other": "default"}
    mesh.apply(rule("owner", exportTo="['*']"))
    assert speaker(mesh, "client") == "owner/rule"


def test_a_destination_is_the_same_in_any_case_and_with_a_dot_at_its_end(mesh: Bench) -> None:
    mesh.apply(ROOT.replace("{host: shop}", "{host: Shop.OWNER.svc.cluster.local.}"))
    assert routes(mesh) == [REST]
    assert [problem.message for problem in mesh.pilot.problems()] == [
        "there is no VirtualService team/leaf; this rule is left out"
    ]


# ---------------------------------------------------------------- delegates

ROOT = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: owner}
spec:
  hosts: [shop]
  http:
  - {name: a, match: [{uri: {prefix: /a}}], delegate: {name: leaf, namespace: team}}
  - {name: rest, route: [{destination: {host: shop}}]}
"""
LEAF = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf, namespace: team}
spec:
  http: [{name: leaf, route: [{destination: {host: till, port: {number: 80}}}]}]
"""


def routes(bench: Bench) -> list[tuple[str, str]]:
    proxy = bench.connect("other-v1", "other")
    try:
        (host,) = [host for host in config(proxy).virtual_hosts if HOST in host.domains]
        return [(route.name, route.route.cluster) for route in host.routes]
    finally:
        proxy.close()


REST = ("rest", f"outbound|80||{HOST}")
TEAMS = ("a-leaf", "outbound|80||till.team.svc.cluster.local")


def test_a_delegate_comes_changes_and_goes(mesh: Bench) -> None:
    mesh.apply(ROOT)
    assert routes(mesh) == [REST]
    mesh.apply(LEAF)
    assert routes(mesh) == [TEAMS, REST]
    mesh.apply(LEAF.replace("{host: till,", "{host: safe,"))
    assert routes(mesh) == [("a-leaf", "outbound|80||safe.team.svc.cluster.local"), REST]
    mesh.delete("VirtualService", "leaf", "team")
    assert routes(mesh) == [REST]


@pytest.mark.parametrize(
    ("export", "sees"),
    [("['.']", False), ("[owner]", True), ("['*']", True)],
)
def test_a_delegate_must_be_exported_to_the_roots_namespace(mesh: Bench, export: str, sees: bool) -> None:
    mesh.apply(ROOT + LEAF.replace("spec:\n", f"spec:\n  exportTo: {export}\n"))
    assert routes(mesh) == ([TEAMS, REST] if sees else [REST])


def test_a_change_of_one_delegate_touches_nobody_else(mesh: Bench) -> None:
    mesh.apply(ROOT + LEAF + rule("client", host="elsewhere.com"))
    proxy = mesh.connect("other-v1", "other")
    config(proxy)
    mesh.recorder.take()
    mesh.pilot.graph.stats.reset()
    mesh.apply(LEAF.replace("{host: till,", "{host: safe,"))
    assert mesh.recorder.take() == {"RouteConfiguration": (["80"], [])}
    assert mesh.pilot.graph.stats.recomputed["virtual host bytes"] == 1


# ---------------------------------------------------------------- what is told


def told(bench: Bench) -> list[str]:
    return [f"{p.line}: {p.field}: {p.message}" for p in bench.pilot.problems()]


TO_V1 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: owner}
spec:
  hosts: [shop]
  http:
  - route:
    - destination:
        host: shop
        subset: v1
"""
V1 = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: owner}
spec: {host: shop, subsets: [{name: v1, labels: {version: v1}}]}
"""


def test_what_is_missing_is_told_until_it_is_there_at_the_line_where_it_is_asked_for(mesh: Bench) -> None:
    missing = f"spec.http[0].route[0].destination.subset: no DestinationRule for {HOST} has a subset v1"
    mesh.apply(TO_V1)
    assert told(mesh) == [f"11: {missing}; requests to it get 503"]
    mesh.apply("\n\n" + TO_V1)  # moved within its file, and nothing else
    assert told(mesh) == [f"13: {missing}; requests to it get 503"]
    mesh.apply(V1)
    assert told(mesh) == []
    mesh.delete("DestinationRule", "shop", "owner")
    assert told(mesh) == [f"13: {missing}; requests to it get 503"]
    mesh.delete("VirtualService", "shop", "owner")
    assert told(mesh) == []


def test_only_what_is_concerned_is_looked_at_again(mesh: Bench) -> None:
    mesh.apply(TO_V1 + "".join(rule("client", host=f"h{number}.com", name=f"r{number}") for number in range(20)))
    mesh.pilot.graph.stats.reset()
    mesh.apply(V1)
    assert mesh.pilot.graph.stats.recomputed["findings of virtual services"] == 1
    mesh.delete("VirtualService", "r7", "client")
    assert mesh.pilot.graph.stats.recomputed["findings of virtual services"] == 2


def test_a_rule_for_others_about_anothers_host_is_told(mesh: Bench) -> None:
    text = V1.replace("namespace: owner", "namespace: client").replace("host: shop", f"host: {HOST}, exportTo: [%s]")
    mesh.apply(text % "'.'")
    assert told(mesh) == []
    mesh.apply(text % "'*'")
    assert [line.partition(": ")[2] for line in told(mesh)] == [
        f"spec.exportTo: acts for clients of namespace client alone: {HOST} is of namespace owner"
    ]


def test_a_rule_for_a_host_that_nobody_has_is_told_until_somebody_has_it(mesh: Bench) -> None:
    mesh.apply(V1.replace("host: shop", "host: shp"))
    missing = "spec.host: no service shp.owner.svc.cluster.local is visible from namespace owner; the rule does nothing"
    assert told(mesh) == [f"5: {missing}"]
    mesh.apply(V1.replace("host: shop", "host: shp") + "---" + SERVICE % ("shp", "owner"))
    assert told(mesh) == []
    mesh.apply(V1.replace("host: shop", "host: '*.shop.example'"))  # for whatever comes
    assert told(mesh) == []
