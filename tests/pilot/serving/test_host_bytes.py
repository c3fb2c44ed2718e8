"""Large routing: what one change among many routes, or many VirtualServices of a gateway, builds again. Counted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_envoy_filters import envoy_filter
from tests.pilot.serving.test_gateways import EDGE, apply, gateway, server
from tests.pilot.translate.cases import host, matched, route
from tests.pilot.translate.test_patches import patches

from lateen.api.virtual_service import StringMatch
from lateen.pilot.model.values import VirtualHostInput
from lateen.pilot.serving.host_bytes import MANY_ROUTES, make_host, patch_host
from lateen.pilot.serving.interned import Interned
from lateen.pilot.serving.scopes import RDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.patches.outcome import Trace
from lateen.pilot.translate.patches.routes import RouteContext, patch_virtual_host
from lateen.pilot.translate.routes import build_virtual_host

ROUTES = 4 * MANY_ROUTES
CONTEXT = RouteContext(name="9080", port=9080)
MERGES = "{applyTo: HTTP_ROUTE, match: %s, patch: {operation: MERGE, value: {route: {priority: HIGH}}}}"
GATEWAY_FILTER = envoy_filter(
    MERGES % "{context: GATEWAY, routeConfiguration: {vhost: {name: 'h3.test:80'}}}",
    "{applyTo: VIRTUAL_HOST, match: {context: GATEWAY}, patch: {operation: ADD, value: {name: x, domains: [x.test]}}}",
)


def large(changed: int = -1, **settings: object) -> VirtualHostInput:
    """Return a host of many routes, of which one may differ."""
    routes = (matched(uri=StringMatch(prefix=f"/{n}/{'changed' if n == changed else ''}")) for n in range(ROUTES))
    return host(*routes, **settings)


def built(inp: VirtualHostInput) -> bytes:
    data: bytes = build_virtual_host(inp).SerializeToString(deterministic=True)
    return data


@pytest.mark.parametrize(
    "inp",
    [
        pytest.param(host(route()), id="one route"),
        pytest.param(large(), id="many"),
        pytest.param(large(require_tls=True, domains=()), id="many behind a redirect"),
        pytest.param(host(*[route()] * ROUTES), id="many alike"),
    ],
)
def test_a_host_of_many_routes_has_the_bytes_of_one_that_is_built(inp: VirtualHostInput) -> None:
    made = make_host(inp, Interned())
    assert (made.data, made.domains) == (built(inp), inp.domains)


def test_one_changed_route_among_many_is_built_alone() -> None:
    interned = Interned()
    before = make_host(large(), interned)
    made = interned.made
    after = make_host(large(changed=5), interned)
    assert interned.made - made == 2  # the route, and the host that it is in
    assert after != before
    assert after.data == built(large(changed=5))
    assert make_host(large(), interned) is before


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param([MERGES % "{context: ANY}"], id="every route"),
        pytest.param(["{applyTo: HTTP_ROUTE, patch: {operation: REMOVE}}"], id="no route left"),
        pytest.param(
            [
                "{applyTo: VIRTUAL_HOST, patch: {operation: MERGE, value: {require_tls: ALL}}}",
                "{applyTo: HTTP_ROUTE, patch: {operation: INSERT_FIRST, value: {name: first, match: {prefix: /a}}}}",
            ],
            id="the host and a route in front",
        ),
    ],
)
def test_a_patched_host_of_many_routes_is_the_patched_one_that_is_built(texts: list[str]) -> None:
    acting = patches(*texts)
    patched = patch_host(make_host(large(), Interned()), acting, CONTEXT, Interned())
    whole = patch_virtual_host(build_virtual_host(large()), acting, Trace())
    assert isinstance(whole, VirtualHost)
    assert patched.data == whole.SerializeToString(deterministic=True) != built(large())
    assert patched.mark is not None
    assert patched.again is not None
    assert patched.again(frozenset(patch.id for patch in acting)).data == built(large())


def test_a_removed_host_has_no_bytes() -> None:
    removal = patches("{applyTo: VIRTUAL_HOST, patch: {operation: REMOVE}}")
    removed = patch_host(make_host(large(), Interned()), removal, CONTEXT, Interned())
    assert (removed.data, removed.domains) == (None, ())


def test_a_host_that_no_patch_acts_on_is_kept_once() -> None:
    elsewhere = patches(MERGES % "{routeConfiguration: {vhost: {name: 'other:80'}}}")
    plain = make_host(large(), Interned())
    assert patch_host(plain, elsewhere, CONTEXT, Interned()) is plain


# ---------------------------------------------------------------- in a mesh


REVIEWS = "{apiVersion: v1, kind: Service, metadata: {name: reviews}, spec: {ports: [{port: 9080, name: http}]}}"


def many_routes(weight: int) -> str:
    rules = "".join(
        f"  - match: [{{uri: {{prefix: /{n}/}}}}]\n    timeout: {weight if n == 7 else 1}s\n"
        f"    route: [{{destination: {{host: reviews}}}}]\n"
        for n in range(ROUTES)
    )
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: many}\n"
        f"spec:\n  hosts: [reviews]\n  http:\n{rules}"
    )


def bound(number: int, seconds: int = 1) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs-{number}}}
spec:
  hosts: [h{number}.test]
  gateways: [edge]
  http: [{{timeout: {seconds}s, route: [{{destination: {{host: reviews}}}}]}}]
"""


def edge(bench: Bench, virtual_services: int, *more: str, changed: Mapping[int, int] = {}) -> MeshProxy:
    """Return a gateway's proxy that holds the routes of its VirtualServices."""
    virtual = [bound(n, changed.get(n, 1)) for n in range(virtual_services)]
    bench.run(make_workload("ingressgateway", "", "", "10.77.0.9", kind="gateway", labels=EDGE, ports=()))
    apply(bench, REVIEWS, gateway("edge", server(80, "HTTP")), *virtual, *more)
    proxy = bench.connect("ingressgateway", kind="router")
    body(proxy, "http.80")
    return proxy


def body(proxy: MeshProxy, name: str) -> bytes:
    return next(found.body for one in proxy.slices[RDS] if (found := one.get(name)) is not None)


def costs(bench: Bench, text: str) -> tuple[int, int, int]:
    """Apply a change; return how many things it made, hosts it looked at, and values it computed in all."""
    made = bench.pilot.render.interned.made
    bench.pilot.graph.stats.reset()
    bench.apply(text)
    counts = bench.pilot.graph.stats.recomputed
    return bench.pilot.render.interned.made - made, counts["virtual host bytes"], sum(counts.values())


@pytest.mark.parametrize(
    ("more", "made"), [pytest.param((), 1, id="plain"), pytest.param((GATEWAY_FILTER,), 2, id="patched")]
)
def test_one_virtual_service_of_a_gateway_costs_its_own_hosts(bench: Bench, more: tuple[str, ...], made: int) -> None:
    """Whether there are 10 or 50 of them; with an EnvoyFilter its host is made as it is, then patched."""
    found = []
    for virtual_services in (10, 50):
        proxy = edge(bench, virtual_services, *more)
        before = body(proxy, "http.80")
        found.append(costs(bench, bound(3, seconds=virtual_services)))
        assert body(proxy, "http.80") != before
        apply(bench, bound(3))
        assert body(proxy, "http.80") == before
        proxy.close()
    assert found[0] == found[1]
    assert found[0][:2] == (made, 1)
    assert found[0][2] <= 32


def test_what_is_patched_bit_by_bit_is_what_is_patched_at_once(bench: Bench) -> None:
    bit_by_bit = edge(bench, 20, GATEWAY_FILTER)
    for seconds in (5, 6):
        apply(bench, bound(3, seconds), bound(4, seconds))
    whole = Bench()
    at_once = edge(whole, 20, GATEWAY_FILTER, changed={3: 6, 4: 6})
    assert body(bit_by_bit, "http.80") == body(at_once, "http.80")


@pytest.mark.parametrize(
    ("filters", "made"),
    [
        pytest.param("", 2, id="plain"),
        pytest.param(envoy_filter(MERGES % "{context: SIDECAR_OUTBOUND}"), 3, id="patched"),
    ],
)
def test_one_route_of_a_large_virtual_service_is_built_alone(shop: Bench, filters: str, made: int) -> None:
    proxy = shop.connect("productpage-v1")
    apply(shop, many_routes(1), *([filters] if filters else []))
    before = body(proxy, "9080")
    assert costs(shop, many_routes(2))[:2] == (made, 1)
    assert body(proxy, "9080") != before
