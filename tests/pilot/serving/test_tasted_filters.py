"""EnvoyFilters that Envoy would refuse: the bad patch is left out alone, found, and told; the others act."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pilot.serving.conftest import Bench
from tests.pilot.serving.test_envoy_filters import cluster, envoy_filter, http_filters, lua, merge_cluster
from tests.pilot.serving.test_tasting import FakeJudge, errors, joined, judged

from lateen.pilot.model.envoy_filters import PatchId
from lateen.pilot.serving.gate import Gate, Place
from lateen.pilot.serving.memory import Memory
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.patches.outcome import Mark, MarkedResource
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import LDS, RDS

CHOSEN = "workloadSelector: {labels: {app: productpage}}"
BAD = "{alt_stat_name: never-taken}"

DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
"""


def vhost(name: str, host: str = "reviews") -> str:
    return (
        "{applyTo: VIRTUAL_HOST, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: "
        f"{{name: '{host}.default.svc.cluster.local:9080'}}}}}}, patch: {{operation: MERGE, value: "
        f"{{response_headers_to_add: [{{header: {{key: {name}, value: x}}}}]}}}}}}"
    )


def timeout_of(proxy: MeshProxy) -> int:
    return int(cluster(proxy).connect_timeout.seconds)


async def test_a_bad_patch_of_a_new_view_is_left_out_and_good_ones_act(shop: Bench) -> None:
    async with judged(shop, FakeJudge()):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(
            envoy_filter(merge_cluster("{connect_timeout: 3s}"), name="before", spec=CHOSEN)
            + "---"
            + envoy_filter(
                merge_cluster(BAD), merge_cluster("{per_connection_buffer_limit_bytes: 77}"), name="half", spec=CHOSEN
            )
        )
        await shop.pilot.source.settled()
        # Chosen proxies see another view now, in which no cluster was good before.
        found = cluster(proxy)
        assert (found.connect_timeout.seconds, found.per_connection_buffer_limit_bytes.value) == (3, 77)
        assert found.alt_stat_name != "never-taken"
        told = errors(shop)
        assert told
        assert all("EnvoyFilter default/half spec.configPatches[0]" in text for text in told)
        assert not any("before" in text for text in told)
        # The rest goes on changing while the bad patch stands.
        shop.apply(envoy_filter(merge_cluster("{connect_timeout: 4s}"), name="before", spec=CHOSEN))
        await shop.pilot.source.settled()
        assert timeout_of(proxy) == 4
        shop.apply(envoy_filter(merge_cluster("{connect_timeout: 5s}"), name="half", spec=CHOSEN))
        await shop.pilot.source.settled()
        assert timeout_of(proxy) == 5
        assert errors(shop) == []


async def test_a_filter_that_turns_bad_keeps_its_last_good_version(shop: Bench) -> None:
    async with judged(shop, FakeJudge()):
        proxy = await joined(shop, "productpage-v1")
        shop.apply(envoy_filter(lua("good"), name="lua"))
        await shop.pilot.source.settled()
        assert http_filters(proxy)[0] == "good"
        shop.apply(envoy_filter(lua("never-taken"), name="lua"))
        await shop.pilot.source.settled()
        assert http_filters(proxy)[0] == "good"
        told = errors(shop)
        assert told
        assert all("the last good version stays" in text for text in told)


async def test_a_bad_filter_holds_up_no_policy(shop: Bench) -> None:
    async with judged(shop, FakeJudge()):
        proxy = await joined(shop, "reviews-v1")
        shop.apply(envoy_filter(lua("good", "{context: SIDECAR_INBOUND}"), name="a-good"))
        await shop.pilot.source.settled()
        shop.apply(envoy_filter(lua("never-taken", "{context: SIDECAR_INBOUND}"), name="bad"))
        await shop.pilot.source.settled()
        names = http_filters(proxy, "virtualInbound")
        assert "good" in names
        assert "envoy.filters.http.rbac" not in names
        shop.apply(DENY)
        await shop.pilot.source.settled()
        names = http_filters(proxy, "virtualInbound")
        assert "good" in names
        assert "envoy.filters.http.rbac" in names
        assert "never-taken" not in names
        told = errors(shop)
        assert told
        assert all("EnvoyFilter default/bad" in text for text in told)


def test_what_acts_in_a_last_good_version_is_known_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lateen.pilot.serving.memory.judge_identity", lambda: "this one")
    before, after = Gate(), Gate()
    patched, plain = Place("workload a", LDS, "virtualInbound"), Place("workload b", LDS, "virtualInbound")
    mark = Mark("virtualInbound", (PatchId("default", "lua", 3),))
    before.last_good[patched] = MarkedResource("virtualInbound", "1", b"x", mark)
    before.last_good[plain] = Resource("virtualInbound", "2", b"y")
    Memory(tmp_path / "tasted", before).save()
    Memory(tmp_path / "tasted", after).load()
    assert after.last_good == before.last_good


@pytest.mark.parametrize("spec", [CHOSEN, ""], ids=["new view", "same view"])
async def test_a_bad_virtual_host_loses_its_patch_and_not_its_routes(shop: Bench, spec: str) -> None:
    async with judged(shop, FakeJudge()):
        proxy = await joined(shop, "productpage-v1")
        if spec:
            shop.apply(envoy_filter(vhost("good"), vhost("never-taken"), spec=spec))
        else:
            shop.apply(envoy_filter(vhost("never-taken")))
        await shop.pilot.source.settled()
        resource = proxy.slices[RDS][0].get("9080")
        assert resource is not None
        assert b"reviews.default.svc.cluster.local:9080" in resource.body
        assert b"never-taken" not in resource.body
        assert (b"good" in resource.body) == bool(spec)
        assert any("never" in text for text in errors(shop))
