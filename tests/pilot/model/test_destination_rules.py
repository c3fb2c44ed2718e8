"""Which DestinationRule speaks to a client about a host, and what of it is in force for a port or a subset."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lateen.api.decode import decode_documents
from lateen.flow import Graph
from lateen.pilot.model.mesh import Mesh
from lateen.pilot.model.overlaps import Overlaps
from lateen.pilot.model.policy import EffectivePolicy, Rule, effective_policy
from lateen.pilot.model.values import Hostname

HOST = Hostname("api.shop.svc.cluster.local")


def rule(name: str, namespace: str = "shop", *, host: str = HOST, age: int = 1, **spec: Any) -> dict[str, Any]:
    created = f"2026-01-{age:02}T00:00:00Z"
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
        "spec": {"host": host, "trafficPolicy": {"tls": {"sni": f"{name}.test"}}, **spec},
    }


def subsets(*names: str) -> dict[str, Any]:
    return {"subsets": [{"name": name, "labels": {"version": name}} for name in names]}


def chosen(rules: list[dict[str, Any]], client: str = "web", labels: tuple[tuple[str, str], ...] = ()) -> Rule | None:
    graph = Graph()
    mesh = Mesh(graph)
    for document in rules:
        decoded = decode_documents(_yaml(document), "it.yaml")
        assert [problem for problem in decoded.problems if problem.level == "error"] == []
        mesh.objects.set(decoded.objects[0].key, decoded.objects[0])
    found: Rule | None = mesh.rule.peek((client, labels, HOST, "shop"))
    return found


def _yaml(document: dict[str, Any]) -> bytes:
    return yaml.safe_dump(document).encode()


def selector(**labels: str) -> dict[str, Any]:
    return {"workloadSelector": {"matchLabels": labels}}


@pytest.mark.parametrize(
    ("rules", "client", "labels", "named"),
    [
        pytest.param([], "web", (), None, id="none"),
        pytest.param([rule("owner"), rule("client", "web", age=9)], "web", (), "client", id="the client's first"),
        pytest.param([rule("owner", age=9), rule("root", "istio-system")], "web", (), "owner", id="then the service's"),
        pytest.param([rule("root", "istio-system")], "web", (), "root", id="then the root namespace's"),
        pytest.param([rule("other", "other")], "web", (), None, id="nobody else's"),
        pytest.param([rule("private", exportTo=["."])], "web", (), None, id="kept to its namespace"),
        pytest.param([rule("away", "web", exportTo=["shop"])], "web", (), None, id="exported to others only"),
        pytest.param([rule("private", exportTo=["."])], "shop", (), "private", id="kept to the client's namespace"),
        pytest.param(
            [rule("wide", "web", host="*.local"), rule("exact")], "web", (), "wide", id="namespace over exactness"
        ),
        pytest.param(
            [rule("wide", host="*.svc.cluster.local"), rule("wider", host="*.local"), rule("exact", age=9)],
            "web",
            (),
            "exact",
            id="exact over wildcard",
        ),
        pytest.param(
            [rule("wider", host="*.local"), rule("wide", host="*.svc.cluster.local", age=9)],
            "web",
            (),
            "wide",
            id="longest wildcard",
        ),
        pytest.param(
            [rule("root", "istio-system"), rule("owner", age=9)],
            "istio-system",
            (),
            "owner",
            id="in the root namespace the service's rule is before the public one",
        ),
        pytest.param(
            [rule("root", "istio-system", exportTo=["."]), rule("owner")],
            "istio-system",
            (),
            "root",
            id="in the root namespace a private rule is its own",
        ),
        pytest.param(
            [rule("all", "web"), rule("some", "web", age=9, **selector(app="a"))],
            "web",
            (("app", "a"),),
            "some",
            id="selected",
        ),
        pytest.param(
            [rule("all", "web"), rule("some", "web", age=9, **selector(app="a"))],
            "web",
            (("app", "b"),),
            "all",
            id="not selected",
        ),
        pytest.param(
            [rule("owner"), rule("some", "web", age=9, **selector(app="a"))],
            "web",
            (),
            "owner",
            id="a rule that does not select is as if it were not there",
        ),
        pytest.param(
            [rule("some", **selector(app="a"))], "web", (("app", "a"),), None, id="clients of its namespace only"
        ),
    ],
)
def test_lookup(
    rules: list[dict[str, Any]], client: str, labels: tuple[tuple[str, str], ...], named: str | None
) -> None:
    found = chosen(rules, client, labels)
    assert (found.ref.name if found is not None else None) == named


def test_rules_of_one_host_are_one_rule() -> None:
    older = rule("older", age=1, **subsets("v1"))
    newer = rule("newer", age=2, **subsets("v1", "v2"))
    del older["spec"]["trafficPolicy"]
    newer["spec"]["subsets"][0]["labels"] = {"version": "other"}
    for written in ([older, newer], [newer, older]):
        found = chosen(written)
        assert found is not None
        assert [(subset.name, dict(subset.labels)) for subset in found.subsets] == [
            ("v1", {"version": "v1"}),
            ("v2", {"version": "v2"}),
        ]
        assert found.policy.tls.sni == "newer.test"
        assert found.ref.name == "older"


@pytest.mark.parametrize(
    "difference",
    [
        pytest.param({"exportTo": ["web"]}, id="exportTo"),
        pytest.param(selector(app="a"), id="workloadSelector"),
    ],
)
def test_rules_for_different_clients_are_not_merged(difference: dict[str, Any]) -> None:
    one = rule("one", "web", age=2, **subsets("v1"))
    other = rule("other", "web", age=1, **subsets("v2"), **difference)
    found = chosen([one, other], labels=(("app", "a"),))
    assert found is not None
    assert [subset.name for subset in found.subsets] == ["v2"]


def test_everywhere_may_be_written_or_left_out() -> None:
    found = chosen([rule("one", **subsets("v1")), rule("two", exportTo=["*"], **subsets("v2"))])
    assert found is not None
    assert [subset.name for subset in found.subsets] == ["v1", "v2"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_what_an_older_rule_says_already_is_told(order: tuple[int, ...]) -> None:
    rules = [
        rule("oldest", age=1, **subsets("v1")),
        rule("other", age=2, exportTo=["."], **subsets("v1")),
        rule("newest", age=3, host="api", **subsets("v2", "v1")),
    ]
    overlaps = Overlaps()
    objects = [decode_documents(_yaml(document), "it.yaml").objects[0] for document in rules]
    for position in order:
        overlaps.replace(objects[position].key, objects[position])
    told = [(problem.resource.name, problem.field) for problem in overlaps.problems() if problem.resource is not None]
    assert told == [("newest", "spec.trafficPolicy"), ("newest", "spec.subsets[1].name")]
    overlaps.replace(objects[0].key, None)
    assert list(overlaps.problems()) == []


# ---------------------------------------------------------------- inheritance

_POOL = {"connectionPool": {"tcp": {"maxConnections": 1}}}
_PORT_POOL = {"connectionPool": {"tcp": {"maxConnections": 2}}}
_SUBSET_POOL = {"connectionPool": {"tcp": {"maxConnections": 3}}}
_OUTLIERS = {"outlierDetection": {"consecutive5xxErrors": 1}}
_RANDOM = {"loadBalancer": {"simple": "RANDOM"}}
_TLS = {"tls": {"mode": "ISTIO_MUTUAL"}}
_EXTRAS = {"proxyProtocol": {"version": "V2"}, "retryBudget": {"percent": 7}}


def at_port(number: int, **blocks: Any) -> dict[str, Any]:
    return {"portLevelSettings": [{"port": {"number": number}, **blocks}]}


def tunnel(host: str) -> dict[str, Any]:
    return {"tunnel": {"targetHost": host, "targetPort": 1}}


def summary(policy: EffectivePolicy) -> dict[str, Any]:
    return {
        "pool": policy.connection_pool and policy.connection_pool.tcp.max_connections,
        "outliers": policy.outlier_detection and policy.outlier_detection.consecutive5xx_errors,
        "lb": policy.load_balancer and policy.load_balancer.simple,
        "tls": policy.tls and policy.tls.mode,
        "proxy": policy.proxy_protocol and policy.proxy_protocol.version,
        "budget": policy.retry_budget and policy.retry_budget.percent,
        "tunnel": policy.tunnel and policy.tunnel.target_host,
    }


def in_force(
    service: dict[str, Any], subset: dict[str, Any] | None, *, mesh: dict[str, Any] | None = None
) -> EffectivePolicy:
    """What holds on port 80 for clients of the service, or of its one subset."""
    spec: dict[str, Any] = {"trafficPolicy": service or None}
    if subset is not None:
        spec["subsets"] = [{"name": "s", "trafficPolicy": subset or None}]
    config = {"apiVersion": "mesh.istio.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "m"}, "spec": mesh}
    default = decode_documents(_yaml(config), "m.yaml").objects[0].spec.default_traffic_policy
    found = chosen([rule("it", **spec)])
    return effective_policy(found, port=80, subset="s" if subset is not None else "", mesh_default=default)


@pytest.mark.parametrize(
    ("service", "subset", "expected"),
    [
        pytest.param({}, None, {}, id="nothing"),
        pytest.param({**_POOL, **_EXTRAS}, None, {"pool": 1, "proxy": "V2", "budget": 7}, id="service"),
        pytest.param(
            {**_POOL, **_OUTLIERS, **_EXTRAS, **at_port(80, **_PORT_POOL)},
            None,
            {"pool": 2},
            id="a port replaces all of the service's",
        ),
        pytest.param(
            {**_POOL, **_EXTRAS, **at_port(81, **_PORT_POOL)},
            None,
            {"pool": 1, "proxy": "V2", "budget": 7},
            id="another port",
        ),
        pytest.param(
            {**_POOL, **_OUTLIERS, **_EXTRAS},
            {**_SUBSET_POOL, **_TLS},
            {"pool": 3, "outliers": 1, "tls": "ISTIO_MUTUAL", "proxy": "V2", "budget": 7},
            id="a subset overlays block by block",
        ),
        pytest.param({**_POOL, **_OUTLIERS}, {}, {"pool": 1, "outliers": 1}, id="a subset without a policy"),
        pytest.param(
            {**_POOL, **at_port(80, **_OUTLIERS)}, {**_RANDOM}, {"outliers": 1, "lb": "RANDOM"}, id="subset over port"
        ),
        pytest.param(
            {**_POOL, **_OUTLIERS, **_EXTRAS},
            {**_SUBSET_POOL, **at_port(80, **_RANDOM)},
            {"lb": "RANDOM", "proxy": "V2", "budget": 7},
            id="a subset's port replaces the four blocks",
        ),
        pytest.param({**_POOL, **tunnel("a.test")}, None, {"pool": 1, "tunnel": "a.test"}, id="the service's tunnel"),
        pytest.param(
            {**_POOL, **tunnel("a.test")}, {**_RANDOM}, {"pool": 1, "lb": "RANDOM"}, id="is none of its subsets'"
        ),
        pytest.param({}, {**tunnel("b.test")}, {"tunnel": "b.test"}, id="a subset's tunnel"),
    ],
)
def test_inheritance(service: dict[str, Any], subset: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    found = summary(in_force(service, subset, mesh={}))
    assert {key: value for key, value in found.items() if value is not None} == expected


MESH = {"defaultTrafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 9}}, "outlierDetection": {}}}


@pytest.mark.parametrize(
    ("service", "subset", "pool", "outliers"),
    [
        pytest.param({}, None, 9, True, id="fills what is open"),
        pytest.param({**_POOL}, None, 1, True, id="block by block"),
        pytest.param({**_POOL, **at_port(80, **_RANDOM)}, None, 9, True, id="also of a port's settings"),
        pytest.param({}, {**_SUBSET_POOL}, 3, True, id="before a subset's policy"),
        pytest.param({}, {**at_port(80, **_RANDOM)}, None, False, id="which a subset's port replaces, too"),
    ],
)
def test_the_meshs_default(
    service: dict[str, Any], subset: dict[str, Any] | None, pool: int | None, outliers: bool
) -> None:
    policy = in_force(service, subset, mesh=MESH)
    found_pool = policy.connection_pool and policy.connection_pool.tcp.max_connections
    assert (found_pool, policy.outlier_detection is not None) == (pool, outliers)
