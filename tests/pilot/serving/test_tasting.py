"""What is refused is held back and nothing else is: judged by a fake here, by a real Envoy in the last tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from tests.pilot.serving.conftest import Bench
from tests.pilot.serving.test_pilot import REVIEWS, SUBSETS, TO_V3, endpoints, names, routes

from lateen.errors import Unavailable
from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.serving.tasting import Tasting
from lateen.pilot.taste.routes import each_host
from lateen.pilot.taste.taster import Taster
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS

V1 = "outbound|9080|v1|reviews.default.svc.cluster.local"
BAD = b"never-taken"  # what the fake refuses, wherever it stands
DETAILS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http: [{name: %s, route: [{destination: {host: details}}]}]
"""


class FakeJudge:
    """Refuses what holds `BAD`. `hold` has it wait with its answer; `asked` is what it was given."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None

    async def taste(self, wanted: Sequence[tuple[str, Resource]]) -> Mapping[str, str]:
        self.asked.extend(resource.name for _, resource in wanted)
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return {resource.version: "no, never" if BAD in resource.body else "" for _, resource in wanted}


@asynccontextmanager
async def judged(bench: Bench, judge: FakeJudge | Taster) -> AsyncIterator[Tasting]:
    pilot = bench.pilot
    tasting = Tasting(pilot.source, pilot.scopes, pilot.gate, judge)
    try:
        yield tasting
    finally:
        await tasting.close()


async def joined(bench: Bench, name: str, **fields: str) -> MeshProxy:
    proxy = bench.connect(name, **fields)
    await bench.pilot.source.settled()
    return proxy


def hosts(proxy: MeshProxy, name: str = "9080") -> dict[str, list[str]]:
    """Return the names of the routes of each virtual host, by host."""
    found = {
        host.name.partition(".")[0]: [route.name for route in host.routes] for host in routes(proxy, name).virtual_hosts
    }
    proxy.slices[RDS][0].release(name)
    return found


def errors(bench: Bench) -> list[str]:
    return [str(problem) for problem in bench.pilot.problems() if problem.level == "error"]


async def test_a_change_is_told_once_it_is_judged_and_as_a_whole(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        judge.asked.clear()
        judge.open.clear()
        shop.apply(SUBSETS)
        shop.apply(TO_V3)
        await asyncio.sleep(0)
        assert shop.recorder.take() == {}
        assert V1 not in names(proxy, CDS)
        assert hosts(proxy)["reviews"] == ["default"]
        judge.open.set()
        await shop.pilot.source.settled()
        told = shop.recorder.take()
        assert V1 in told["Cluster"][0]
        assert told["RouteConfiguration"] == (["9080"], [])
        # Each new content is tasted once, and nothing else.
        assert sorted(judge.asked) == sorted([*told["Cluster"][0], "9080"])
        shop.delete("VirtualService", "reviews")
        shop.apply(TO_V3)
        judge.asked.clear()
        await shop.pilot.source.settled()
        assert judge.asked == []


async def test_endpoints_wait_for_nobody(shop: Bench, make: Callable[..., Workload]) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        assert endpoints(proxy, REVIEWS) == ["10.77.0.12", "10.77.0.13", "10.77.0.14"]
        judge.open.clear()
        shop.apply(SUBSETS)
        shop.run(make("reviews-v4", "reviews", "v4", "10.77.0.40"))
        assert shop.recorder.take() == {"ClusterLoadAssignment": ([REVIEWS], [])}
        assert "10.77.0.40" in endpoints(proxy, REVIEWS)
        judge.open.set()


async def test_endpoints_of_a_cluster_that_is_served_stay_while_its_end_is_judged(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(SUBSETS)
        await shop.pilot.source.settled()
        judge.open.clear()
        shop.apply(SUBSETS.replace("name: v1, labels: {version: v1}", "name: other, labels: {version: v2}"))
        # Told of the cluster, the proxy asks for its endpoints only now; its routes would lead to nobody without them.
        assert V1 in names(proxy, CDS)
        assert endpoints(proxy, V1) == ["10.77.0.12"]
        judge.open.set()
        await shop.pilot.source.settled()
        assert V1 not in names(proxy, CDS)
        assert proxy.slices[EDS][0].get(V1) is None


async def test_a_refused_resource_keeps_its_last_good_version_and_names_its_rule(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        await joined(shop, "productpage-v1")  # as its agent's stream for names
        shop.apply(SUBSETS)
        await shop.pilot.source.settled()
        before = {one.name: one for one in proxy.slices[CDS][0].all().values()}
        bad = SUBSETS.replace(
            "host: reviews", "host: reviews\n  trafficPolicy: {tls: {mode: SIMPLE, sni: never-taken}}"
        )
        shop.apply(bad + "---" + DETAILS % "named")
        await shop.pilot.source.settled()
        assert {one.name: one for one in proxy.slices[CDS][0].all().values()} == before
        assert hosts(proxy)["details"] == ["named"]
        told = errors(shop)
        assert len(told) == 3  # the service's own cluster and two subsets
        assert all(
            text.startswith("test.yaml:2: ") and "no, never; the last good version stays" in text for text in told
        )
        (first, *_) = shop.pilot.quarantine.report(shop.pilot.source.users_of)
        assert (first.type, first.proxies) == ("CDS", ("productpage-v1",))
        assert first.shaped_by == ("DestinationRule default/reviews (test.yaml:2)",)
        shop.apply(SUBSETS)
        await shop.pilot.source.settled()
        assert errors(shop) == []
        assert shop.pilot.gate.held == {}


async def test_a_bad_virtual_host_holds_up_no_other(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(DETAILS % "good")
        await shop.pilot.source.settled()
        shop.apply(SUBSETS + "---" + TO_V3 + "---" + DETAILS % "never-taken")
        await shop.pilot.source.settled()
        assert hosts(proxy)["details"] == ["good"]
        assert len(hosts(proxy)["reviews"]) == 2
        (text,) = errors(shop)
        assert text.startswith("test.yaml:")
        assert "no, never; details.default.svc.cluster.local:9080 stays as it was" in text
        (held,) = shop.pilot.quarantine.report(shop.pilot.source.users_of)
        assert [origin.split(" (")[0] for origin in held.shaped_by] == ["VirtualService default/details"]
        # What changes meanwhile goes on, with the good old host in it.
        shop.delete("VirtualService", "reviews")
        await shop.pilot.source.settled()
        assert (hosts(proxy)["details"], hosts(proxy)["reviews"]) == (["good"], ["default"])
        assert len(errors(shop)) == 1
        shop.apply(DETAILS % "mended")
        await shop.pilot.source.settled()
        assert hosts(proxy)["details"] == ["mended"]
        assert errors(shop) == []


async def test_who_comes_meanwhile_starts_with_everything_else(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        shop.apply(DETAILS % "never-taken")
        proxy = await joined(shop, "productpage-v1")
        assert "details" not in hosts(proxy)
        assert {"reviews", "ratings", "productpage", "allow_any"} <= hosts(proxy).keys()
        assert REVIEWS in names(proxy, CDS)
        (text,) = errors(shop)
        assert "stays as it was, or is left out" in text


async def test_the_last_good_version_outlives_the_last_proxy(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(DETAILS % "good")
        await shop.pilot.source.settled()
        shop.apply(DETAILS % "never-taken")
        await shop.pilot.source.settled()
        proxy.close()
        assert errors(shop) == []  # nobody is meant to get it
        again = await joined(shop, "productpage-v1")
        assert hosts(again)["details"] == ["good"]
        assert len(errors(shop)) == 1


async def test_nobody_is_served_what_is_not_judged_yet(shop: Bench) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        judge.open.clear()
        proxy = shop.connect("productpage-v1")
        waiting = asyncio.create_task(shop.pilot.source.settled())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert names(proxy, CDS) == names(proxy, LDS) == set()
        judge.open.set()
        await waiting
        assert REVIEWS in names(proxy, CDS)
        assert {"0.0.0.0_9080", "virtualInbound"} <= names(proxy, LDS)
        # Its routes were judged with the listeners that name them: they are there when they are asked for.
        assert "reviews" in hosts(proxy)


async def test_a_proxy_moves_to_a_view_that_is_judged(shop: Bench, make: Callable[..., Workload]) -> None:
    judge = FakeJudge()
    async with judged(shop, judge):
        proxy = await joined(shop, "productpage-v1")
        judge.open.clear()
        before = proxy.view
        # A rule that asks for a label parts those that have it from those that do not.
        shop.apply(
            TO_V3.replace(
                "- match: [{headers: {end-user: {exact: jason}}}]", "- match: [{sourceLabels: {app: productpage}}]"
            )
        )
        await asyncio.sleep(0)
        assert (proxy.view, shop.recorder.moved) == (before, [])
        judge.open.set()
        await shop.pilot.source.settled()
        assert proxy.view != before
        assert shop.recorder.moved == [proxy]
        (host,) = [one for one in routes(proxy, "9080").virtual_hosts if one.name.startswith("reviews.")]
        assert [route.route.cluster for route in host.routes] == [V1]
        assert len(shop.pilot.scopes.views) == 1
        proxy.close()
        assert not shop.pilot.scopes.views


@pytest.mark.parametrize("fault", [Unavailable("gone"), RuntimeError("ours")], ids=["unavailable", "defect"])
async def test_without_a_verdict_configuration_goes_on(shop: Bench, fault: Exception) -> None:
    judge = FakeJudge()
    judge.fault = fault
    async with judged(shop, judge) as tasting:
        proxy = await joined(shop, "productpage-v1")
        assert REVIEWS in names(proxy, CDS)
        assert str(fault) in tasting.fault
        asked = len(judge.asked)
        shop.apply(SUBSETS)
        await shop.pilot.source.settled()
        assert V1 in names(proxy, CDS)
        assert len(judge.asked) == asked  # it is left alone for a while


async def test_two_hosts_that_are_bad_only_together_keep_the_whole(shop: Bench) -> None:
    class Together(FakeJudge):
        async def taste(self, wanted: Sequence[tuple[str, Resource]]) -> Mapping[str, str]:
            return {
                r.version: "both" if BAD in r.body and len(each_host(r)) > 1 else ""
                for type_url, r in wanted
                if type_url == RDS
            } | {r.version: "" for type_url, r in wanted if type_url != RDS}

    async with judged(shop, Together()):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(DETAILS % "never-taken")
        await shop.pilot.source.settled()
        assert hosts(proxy)["details"] == ["default"]
        (text,) = errors(shop)
        assert "both; the last good version stays" in text


@pytest.mark.envoy
async def test_a_real_envoy_judges_the_shop(shop: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with Taster(tmp_path_factory.mktemp("t")) as taster, judged(shop, taster):
        shop.apply(SUBSETS + "---" + TO_V3)
        proxies = [await joined(shop, name) for name in ("productpage-v1", "reviews-v1")]
        gateway = await joined(shop, "ingressgateway", kind="router")
        assert errors(shop) == []
        assert V1 in names(proxies[0], CDS)
        assert names(gateway, LDS) == {"0.0.0.0_80"}
        assert (taster.stats.refused, taster.stats.untasted) == (0, 0)
        assert EDS in proxies[0].slices
