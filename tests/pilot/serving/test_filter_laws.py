"""Laws of EnvoyFilters: whatever they say nothing fails; what follows depends on what stands, not on its history."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_envoy_filters import APP, HCM, envoy_filter, lua, merge_cluster

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.patches.types import message_class
from lateen.pilot.translate.patches.values import MESSAGES
from lateen.pilot.xds.type_urls import CDS, LDS, RDS

GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{name: here, route: [{destination: {host: app}}]}]
"""
PACKED = (
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "acme.v1.Unknown",
)


def mesh() -> tuple[Bench, list[MeshProxy]]:
    bench = Bench()
    bench.apply(APP)
    bench.apply(GATEWAY)
    bench.run(
        make_workload("app-v1", "app", "v1", "10.77.0.2"),
        make_workload("other-v1", "other", "v1", "10.77.0.3"),
        make_workload("edge", "", "", "10.77.0.4", kind="gateway", labels={"istio": "ingressgateway"}, ports=()),
    )
    kinds = {"edge": "router"}
    return bench, [bench.connect(name, kind=kinds.get(name, "sidecar")) for name in ("app-v1", "other-v1", "edge")]


def held(proxy: MeshProxy) -> dict[tuple[str, str], str]:
    """Return the version of everything that a proxy is served."""
    route = "http.80" if proxy.view.kind == "gateway" else "9080"
    proxy.slices[RDS][0].get(route)
    return {
        (type_url, name): resource.version
        for type_url in (CDS, LDS, RDS)
        for one in proxy.slices[type_url]
        for name, resource in one.all().items()
    }


# ---------------------------------------------------------------- whatever they say


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.name for value in field.enum_type.values])
    return {
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_STRING: st.text("ab|./", max_size=5),
    }.get(field.cpp_type, st.integers(0, 9))


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Any:
    """Draw JSON that looks like a message: mostly right, sometimes not."""
    if descriptor.full_name == "google.protobuf.Any":
        name = draw(st.sampled_from(PACKED))
        kind = message_class(name)
        inside = draw(messages(kind.DESCRIPTOR, depth + 1)) if kind is not None else {"x": [1, {"y": None}]}
        return {"@type": f"type.googleapis.com/{name}", **(inside if isinstance(inside, dict) else {})}
    if descriptor.full_name == "google.protobuf.Duration":
        return draw(st.sampled_from(["1s", "0.5s", "soon", 5]))
    if descriptor.full_name.startswith("google.protobuf."):
        return draw(st.sampled_from([True, 7, "x", {"a": {"b": 1}}, [1]]))
    if not descriptor.fields or depth > 3 or draw(st.integers(0, 20)) == 0:
        return draw(st.sampled_from([{}, {}, {}, [], 1, "x", {"unknown": 1}]))
    found = {}
    for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=3, unique_by=lambda f: f.name)):
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inside = kind.fields_by_name["value"]
            one = messages(inside.message_type, depth + 1) if inside.message_type is not None else scalars(inside)
            value: Any = {"key": draw(one)}
        else:
            one = messages(kind, depth + 1) if kind is not None else scalars(field)
            value = [draw(one)] if field.is_repeated else draw(one)
        found[draw(st.sampled_from([field.name, field.json_name]))] = value
    return found


OPERATIONS = (
    "MERGE",
    "MERGE_AND_REPLACE_LIST",
    "ADD",
    "INSERT_FIRST",
    "INSERT_BEFORE",
    "INSERT_AFTER",
    "REPLACE",
    "REMOVE",
)
MATCHES = (
    "{}",
    "{context: SIDECAR_INBOUND}",
    "{context: GATEWAY}",
    f"{{listener: {{filterChain: {{filter: {{name: {HCM}}}}}}}}}",
    f"{{listener: {{filterChain: {{filter: {{name: {HCM}, subFilter: {{name: envoy.filters.http.router}}}}}}}}}}",
    "{listener: {listenerFilter: envoy.filters.listener.tls_inspector}}",
    "{routeConfiguration: {vhost: {name: 'app.default.svc.cluster.local:9080', route: {name: default}}}}",
)


@st.composite
def patches(draw: st.DrawFn) -> str:
    apply_to = draw(st.sampled_from(sorted(MESSAGES)))
    kind = message_class(MESSAGES[apply_to])
    assert kind is not None
    value = draw(messages(kind.DESCRIPTOR))
    if isinstance(value, dict) and draw(st.booleans()):
        value["name"] = "drawn"
    patch = {"operation": draw(st.sampled_from(OPERATIONS)), "value": value if isinstance(value, dict) else {}}
    return f"{{applyTo: {apply_to}, match: {draw(st.sampled_from(MATCHES))}, patch: {json.dumps(patch)}}}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_patches_say_nothing_fails(data: st.DataObject) -> None:
    bench, proxies = mesh()
    before = [held(proxy) for proxy in proxies]
    text = envoy_filter(*data.draw(st.lists(patches(), min_size=1, max_size=4)))
    objects = decode_documents(text.encode(), "f.yaml").objects  # what is refused by its form is none
    bench.pilot.apply([Change(obj.key, obj) for obj in objects])
    assert bench.pilot.graph.errors == {}
    for proxy in proxies:
        held(proxy)
    bench.pilot.problems()
    bench.pilot.bootstrap_for(make_workload("app-v1", "app", "v1", "10.77.0.2"))
    bench.pilot.apply([Change(obj.key, None) for obj in objects])
    assert bench.pilot.graph.errors == {}
    assert [held(proxy) for proxy in proxies] == before
    assert bench.pilot.scopes.ledger.idle == {}
    assert not bench.pilot.scopes.ledger.failures


# ---------------------------------------------------------------- incremental equals from-scratch

VHOST = (
    "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: 'app.default.svc.cluster.local:9080'}}}, "
    "patch: {operation: MERGE, value: {request_headers_to_add: [{header: {key: x, value: y}}]}}}"
)
REMOVED = "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: allow_any}}}, patch: {operation: REMOVE}}"
BY_HOST = merge_cluster("{connect_timeout: 4s}", "{cluster: {service: app.default.svc.cluster.local}}")
FIRST = {
    "a": envoy_filter(merge_cluster("{connect_timeout: 3s}"), lua("a"), name="a"),
    "b": envoy_filter(BY_HOST, VHOST, name="b", spec="priority: -5"),
    "c": envoy_filter(lua("c", "{context: ANY}"), name="c", spec="workloadSelector: {labels: {app: app}}"),
    "d": envoy_filter(merge_cluster("{name: added}", "{}", "ADD"), REMOVED, name="d", namespace="istio-system"),
}
SECOND = {
    "a": envoy_filter(merge_cluster("{connect_timeout: 5s}", "{context: GATEWAY}"), name="a"),
    "b": envoy_filter(BY_HOST, name="b", spec="workloadSelector: {labels: {app: other}}"),
    "c": envoy_filter(lua("c", "{proxy: {metadata: {NAMESPACE: default}}}"), name="c"),
    "d": envoy_filter(merge_cluster("{name: added}", "{context: GATEWAY}", "ADD"), name="d", namespace="istio-system"),
}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from((FIRST, SECOND, None))), max_size=8))
def test_incremental_equals_from_scratch(steps: list[tuple[str, dict[str, str] | None]]) -> None:
    bench, proxies = mesh()
    for proxy in proxies:
        held(proxy)
    standing: dict[str, str] = {}
    for name, texts in steps:
        if texts is None:
            (obj,) = decode_documents(FIRST[name].encode(), "f").objects
            bench.pilot.apply([Change(obj.key, None)])
            standing.pop(name, None)
        else:
            bench.apply(texts[name])
            standing[name] = texts[name]
    fresh, others = mesh()
    for text in standing.values():
        fresh.apply(text)
    assert [held(proxy) for proxy in proxies] == [held(proxy) for proxy in others]
    counts = [[{p.id: c for p, c in proxy.patch_counts()} for proxy in each] for each in (proxies, others)]
    assert counts[0] == counts[1]
    assert bench.pilot.scopes.ledger.idle.keys() == fresh.pilot.scopes.ledger.idle.keys()
