"""What EnvoyFilters do to what proxies hold: which resources, for whom, in which order, and what is told of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_pilot import names, routes

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.serving.scopes import CDS, ECDS, LDS, RDS
from lateen.pilot.serving.source import MeshProxy

REVIEWS = "outbound|9080||reviews.default.svc.cluster.local"
DETAILS = "outbound|9080||details.default.svc.cluster.local"
APP = """
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ports: [{port: 9080, name: http}], selector: {app: app}}
"""
HCM = "envoy.filters.network.http_connection_manager"


def envoy_filter(
    *patches: str, name: str = "mine", namespace: str = "default", spec: str = "", created: str = ""
) -> str:
    listed = "\n".join(f"  - {patch}" for patch in patches)
    stamp = f", creationTimestamp: '{created}'" if created else ""
    return f"""
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: {name}, namespace: {namespace}{stamp}}}
spec:
  {spec or "priority: 0"}
  configPatches:
{listed}
"""


def merge_cluster(value: str, match: str = "{context: SIDECAR_OUTBOUND}", operation: str = "MERGE") -> str:
    return f"{{applyTo: CLUSTER, match: {match}, patch: {{operation: {operation}, value: {value}}}}}"


def lua(code: str, match: str = "{context: SIDECAR_OUTBOUND}", operation: str = "INSERT_FIRST", rest: str = "") -> str:
    value = (
        f'{{name: "{code}", typed_config: '
        '{"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, '
        f'default_source_code: {{inline_string: "-- {code}"}}}}}}'
    )
    return f"{{applyTo: HTTP_FILTER, match: {match}, patch: {{operation: {operation}, value: {value}{rest}}}}}"


def fetch(proxy: MeshProxy, type_url: str, name: str, message: Any) -> Any:
    for one in proxy.slices[type_url]:
        resource = one.get(name) if type_url in (RDS, ECDS) else one.all().get(name)
        if resource is not None:
            assert AnyMessage.FromString(resource.body).Unpack(message)
            return message
    raise AssertionError(f"no {name} among {sorted(names(proxy, type_url))}")


def cluster(proxy: MeshProxy, name: str = REVIEWS) -> Cluster:
    found: Cluster = fetch(proxy, CDS, name, Cluster())
    return found


def listener(proxy: MeshProxy, name: str = "0.0.0.0_9080") -> Listener:
    found: Listener = fetch(proxy, LDS, name, Listener())
    return found


def managers(proxy: MeshProxy, name: str = "0.0.0.0_9080") -> list[HttpConnectionManager]:
    found = []
    for chain in listener(proxy, name).filter_chains:
        for one in chain.filters:
            manager = HttpConnectionManager()
            if one.typed_config.Unpack(manager):
                found.append(manager)
    return found


def http_filters(proxy: MeshProxy, name: str = "0.0.0.0_9080") -> list[str]:
    return [one.name for one in managers(proxy, name)[0].http_filters]


def told(bench: Bench) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in bench.pilot.problems()]


# ---------------------------------------------------------------- which proxies


def test_a_filter_is_for_its_namespace_and_the_root_ones_for_all(shop: Bench) -> None:
    shop.run(make_workload("far-v1", "far", "v1", "10.78.0.2", namespace="other"))
    near, far = shop.connect("productpage-v1"), shop.connect("far-v1", "other")
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 3s}")))
    shop.apply(envoy_filter(merge_cluster("{per_connection_buffer_limit_bytes: 77}"), namespace="istio-system"))
    assert (cluster(near).connect_timeout.seconds, cluster(far).connect_timeout.seconds) == (3, 10)
    assert {cluster(proxy).per_connection_buffer_limit_bytes.value for proxy in (near, far)} == {77}


def test_a_filter_with_a_selector_makes_another_view_for_the_chosen_only(shop: Bench) -> None:
    chosen, other = shop.connect("productpage-v1"), shop.connect("details-v1")
    assert chosen.view == other.view
    text = envoy_filter(
        merge_cluster("{connect_timeout: 3s}"), spec="workloadSelector: {labels: {app: productpage, version: v1}}"
    )
    shop.apply(text)
    assert chosen.view.filters == ("default/mine#0",)
    assert other.view.filters == ()
    assert (cluster(chosen).connect_timeout.seconds, cluster(other).connect_timeout.seconds) == (3, 10)
    shop.delete("EnvoyFilter", "mine")
    assert chosen.view == other.view
    assert cluster(chosen).connect_timeout.seconds == 10


def test_a_filter_with_targets_is_for_proxies_of_a_kubernetes_gateway_only(shop: Bench) -> None:
    label = {"gateway.networking.k8s.io/gateway-name": "edge"}
    shop.run(make_workload("edge", "", "", "10.77.0.3", kind="gateway", labels=label, ports=(("http", 80, 80),)))
    edge, sidecar = shop.connect("edge", kind="router"), shop.connect("productpage-v1")
    spec = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]"
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 3s}", "{context: ANY}"), spec=spec))
    assert (cluster(edge).connect_timeout.seconds, cluster(sidecar).connect_timeout.seconds) == (3, 10)


@pytest.mark.parametrize(
    ("match", "acts"),
    [
        ("{proxyVersion: '^0\\.1'}", True),
        ("{proxyVersion: '1$'}", False),
        ("{metadata: {LANE: blue}}", True),
        ("{metadata: {LANE: green}}", False),
        ("{metadata: {LANE: blue, ABSENT: ''}}", False),
    ],
)
def test_a_patch_asks_what_the_proxy_says_of_itself(shop: Bench, match: str, acts: bool) -> None:
    proxy = shop.connect("productpage-v1", ISTIO_VERSION="0.1.0", LANE="blue")
    shop.apply(
        envoy_filter(
            merge_cluster("{connect_timeout: 3s}", f"{{proxy: {match}}}"),
            merge_cluster("{per_connection_buffer_limit_bytes: 77}"),
        )
    )
    assert cluster(proxy).connect_timeout.seconds == (3 if acts else 10)
    assert cluster(proxy).per_connection_buffer_limit_bytes.value == 77


@pytest.mark.parametrize(
    ("context", "acting"),
    [
        ("ANY", {"out", "in", "gate"}),
        ("SIDECAR_OUTBOUND", {"out"}),
        ("SIDECAR_INBOUND", {"in"}),
        ("GATEWAY", {"gate"}),
    ],
)
def test_a_context_says_which_side_of_which_proxy(shop: Bench, context: str, acting: set[str]) -> None:
    sidecar, gateway = shop.connect("reviews-v1"), shop.connect("ingressgateway", kind="router")
    shop.apply(
        envoy_filter(
            merge_cluster("{connect_timeout: 3s}", f"{{context: {context}}}"), lua("x", f"{{context: {context}}}")
        )
    )
    seen = {
        "out": cluster(sidecar).connect_timeout.seconds == 3,
        "in": cluster(sidecar, "inbound|9080||").connect_timeout.seconds == 3,
        "gate": cluster(gateway).connect_timeout.seconds == 3,
    }
    assert {name for name, found in seen.items() if found} == acting
    with_lua = {
        "out": "x" in http_filters(sidecar),
        "in": all("x" in [one.name for one in each.http_filters] for each in managers(sidecar, "virtualInbound")),
        "gate": "x" in http_filters(gateway, "0.0.0.0_80"),
    }
    assert {name for name, found in with_lua.items() if found} == acting


# ---------------------------------------------------------------- order


PERMUTED = [
    envoy_filter(lua("late"), name="a", spec="priority: 10"),
    envoy_filter(lua("early"), name="z", spec="priority: -1"),
    envoy_filter(lua("root"), name="z", namespace="istio-system", created="2026-01-02T00:00:00Z"),
    envoy_filter(lua("older"), name="y", created="2026-01-01T00:00:00Z"),
    envoy_filter(lua("b1"), lua("b2"), name="b", created="2026-01-02T00:00:00Z"),
    envoy_filter(lua("c"), name="c", created="2026-01-02T00:00:00Z"),
]


def test_patches_act_by_priority_root_first_age_name_and_as_listed(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    for text in PERMUTED:
        shop.apply(text)
    # Each goes to the front, so the last one is first.
    assert http_filters(proxy)[:7] == ["late", "c", "b2", "b1", "older", "root", "early"]


@settings(max_examples=12, deadline=None)
@given(st.permutations(PERMUTED), st.lists(st.integers(0, 5), max_size=3))
def test_the_order_in_which_filters_come_means_nothing(texts: list[str], again: list[int]) -> None:
    bench = Bench()
    bench.apply(APP)
    bench.run(make_workload("app-v1", "app", "v1", "10.77.0.2"))
    proxy = bench.connect("app-v1")
    for text in texts:
        bench.apply(text)
    for position in again:  # gone and back
        (obj,) = decode_documents(PERMUTED[position].encode(), "f").objects
        bench.pilot.apply([Change(obj.key, None)])
        bench.pilot.apply([Change(obj.key, obj)])
    assert http_filters(proxy)[:7] == ["late", "c", "b2", "b1", "older", "root", "early"]


# ---------------------------------------------------------------- what is touched


def test_a_patch_of_one_service_makes_its_clusters_again_and_no_others(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    match = "{context: SIDECAR_OUTBOUND, cluster: {service: reviews.default.svc.cluster.local}}"
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 3s}", match)))
    shop.recorder.take()
    shop.pilot.graph.stats.reset()
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 4s}", match)))
    assert shop.recorder.take() == {"Cluster": ([REVIEWS], [])}
    assert cluster(proxy).connect_timeout.seconds == 4
    assert cluster(proxy, DETAILS).connect_timeout.seconds == 10
    assert shop.pilot.graph.stats.recomputed["cluster resources"] == 1


def test_without_filters_all_views_share_what_they_shared(shop: Bench) -> None:
    plain, patched = shop.connect("productpage-v1"), shop.connect("reviews-v1")
    before = plain.slices[CDS][0].all()[DETAILS]
    shop.apply(
        envoy_filter(
            merge_cluster("{connect_timeout: 3s}", "{cluster: {name: '" + REVIEWS + "'}}"),
            spec="workloadSelector: {labels: {app: reviews}}",
        )
    )
    assert patched.view != plain.view
    assert patched.slices[CDS][0].all()[DETAILS] is plain.slices[CDS][0].all()[DETAILS] is before
    assert cluster(patched).connect_timeout.seconds == 3


# ---------------------------------------------------------------- what is told


def test_a_patch_that_matches_nothing_says_so_until_it_does(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    shop.apply(
        envoy_filter(
            merge_cluster("{connect_timeout: 3s}", "{context: SIDECAR_OUTBOUND, cluster: {service: absent.test}}"),
            merge_cluster("{connect_timeout: 4s}"),
        )
    )
    assert ("spec.configPatches[0]", "matches nothing in any proxy that it is for") in told(shop)
    assert [field for field, _ in told(shop)] == ["spec.configPatches[0]"]
    counts = {patch.id.index: counts for patch, counts in proxy.patch_counts()}
    assert counts == {0: {}, 1: {"CDS": 6}}
    shop.apply(
        """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: absent}
spec: {hosts: [absent.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
"""
    )
    assert told(shop) == []
    proxy.close()
    assert shop.pilot.scopes.ledger.idle == {}


def test_a_value_that_is_none_leaves_out_its_patch_alone(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    shop.apply(
        envoy_filter(
            merge_cluster("{connect_timeout: soon}"),
            merge_cluster("{conect_timeout: 3s}"),
            merge_cluster("{per_connection_buffer_limit_bytes: 77}"),
        )
    )
    assert cluster(proxy).per_connection_buffer_limit_bytes.value == 77
    found = dict(told(shop))
    assert not any("matches nothing" in message for message in found.values())
    assert [shop.pilot.is_faulty(patch.id) for patch, _ in proxy.patch_counts()] == [True, True, False]
    assert found["spec.configPatches[0].patch.value.connect_timeout"] == (
        'must be a duration in seconds, such as "1.5s", got "soon"; this patch is left out'
    )
    assert found["spec.configPatches[1].patch.value.conect_timeout"] == (
        "is not a field of envoy.config.cluster.v3.Cluster, did you mean connect_timeout?; this patch is left out"
    )


def test_a_filter_of_another_type_is_not_merged_and_says_so(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    match = (
        "{context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: "
        f"{{name: {HCM}, subFilter: {{name: envoy.filters.http.router}}}}}}}}}}"
    )
    shop.apply(envoy_filter(lua("x", match, "MERGE")))
    assert "x" not in http_filters(proxy)
    ((field, message),) = [entry for entry in told(shop) if "left out" in entry[1]]
    assert field == "spec.configPatches[0]"
    assert "envoy.extensions.filters.http.router.v3.Router" in message


def test_only_filters_that_touched_a_resource_are_to_blame(shop: Bench) -> None:
    proxy = shop.connect("productpage-v1")
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 3s}"), name="guilty"))
    shop.apply(envoy_filter(merge_cluster("{connect_timeout: 3s}", "{cluster: {name: other}}"), name="innocent"))
    shop.pilot.source.rejected(proxy, CDS, (REVIEWS,), "no")
    blamed = [key.name for key in shop.pilot.source.culprits(proxy, CDS, REVIEWS) if key.kind == "EnvoyFilter"]
    assert blamed == ["guilty"]


# ---------------------------------------------------------------- additions


def test_added_clusters_listeners_hosts_and_extensions_are_served(shop: Bench) -> None:
    proxy, gateway = shop.connect("productpage-v1"), shop.connect("ingressgateway", kind="router")
    routes(proxy, "9080")
    host = "{name: extra, domains: [extra.test], routes: [{match: {prefix: /}, direct_response: {status: 204}}]}"
    extension = '{name: my-lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}'
    shop.apply(
        envoy_filter(
            merge_cluster("{name: extra}", "{context: SIDECAR_OUTBOUND}", "ADD"),
            "{applyTo: LISTENER, match: {context: SIDECAR_INBOUND}, patch: {operation: ADD, value: {name: extra}}}",
            "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {name: '9080'}}, patch: {operation: ADD, value: "
            + host
            + "}}",
            "{applyTo: EXTENSION_CONFIG, patch: {operation: ADD, value: " + extension + "}}",
        )
    )
    assert "extra" in names(proxy, CDS)
    assert "extra" not in names(gateway, CDS)
    assert "extra" in names(proxy, LDS)
    assert [host.name for host in routes(proxy, "9080").virtual_hosts][-2:] == ["allow_any", "extra"]
    found = fetch(proxy, ECDS, "my-lua", TypedExtensionConfig())
    assert found.typed_config.type_url.endswith("Lua")
    assert told(shop) == []
    shop.delete("EnvoyFilter", "mine")
    assert "extra" not in names(proxy, CDS) | names(proxy, LDS)


def test_the_same_filters_in_any_order_of_arrival_make_the_same_bytes() -> None:
    seen = set()
    for texts in itertools.permutations(PERMUTED[:3]):
        bench = Bench()
        bench.apply(APP)
        bench.run(make_workload("app-v1", "app", "v1", "10.77.0.2"))
        for text in texts:
            bench.apply(text)
        proxy = bench.connect("app-v1")
        seen.add(tuple(sorted((n, r.version) for one in proxy.slices[LDS] for n, r in one.all().items())))
    assert len(seen) == 1


def test_without_capture_ports_are_those_of_listeners_and_of_virtual_hosts(shop: Bench) -> None:
    explicit = make_workload(
        "loose-v1", "loose", "v1", "127.77.0.9", capture=False, http_proxy_port=15002, ports=(("http", 9080, 19080),)
    )
    shop.run(explicit)
    proxy = shop.connect("loose-v1")
    shop.apply(
        envoy_filter(
            lua("in", "{context: SIDECAR_INBOUND, listener: {portNumber: 9080}}"),
            lua("none", "{context: SIDECAR_INBOUND, listener: {portNumber: 9081}}"),
            "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {portNumber: 9080, vhost: "
            "{domainName: 'details:9080'}}}, patch: {operation: MERGE, value: {route: {timeout: 7s}}}}",
        )
    )
    assert http_filters(proxy, "127.77.0.9_9080")[0] == "in"
    assert "none" not in http_filters(proxy, "127.77.0.9_9080")
    timeouts = {host.name: host.routes[0].route.timeout.seconds for host in routes(proxy, "http_proxy").virtual_hosts}
    assert {name for name, seconds in timeouts.items() if seconds == 7} == {"details.default.svc.cluster.local:9080"}
