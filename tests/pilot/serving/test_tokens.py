"""Tokens in a whole Pilot without an Envoy: what a change costs, who is told what, and what EnvoyFilters may do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.fakes.tokens import jwks
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_tasting import BAD, FakeJudge, judged

from lateen.pilot.model.jwks import JwksSource, parse_key_set
from lateen.pilot.serving.scopes import ECDS, LDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.matches import JWT_FILTER

REMOTE = JwksSource("uri", "https://id.test/jwks")
ONE = {"issuer": "https://id.test", "jwksUri": REMOTE.url}


def known(*names: str) -> str:
    return parse_key_set(jwks(*names).encode()).text


def policy(*rules: dict[str, Any], name: str = "tokens", **spec: Any) -> str:
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": name, "namespace": spec.pop("namespace", "default")},
        "spec": {**spec, "jwtRules": list(rules)},
    }
    return json.dumps(document)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.run(
        make_workload("reviews-v1", "reviews", "v1", "10.77.0.3"),
        make_workload("ratings-v1", "ratings", "v1", "10.77.0.4"),
        make_workload("far-v1", "far", "v1", "10.77.0.5", namespace="other"),
    )
    return bench


def follow(bench: Bench, name: str, namespace: str = "default") -> MeshProxy:
    """Connect a proxy that asks for the filter, as an Envoy with a listener that names it does."""
    proxy = bench.connect(name, namespace)
    for part in proxy.slices[ECDS]:
        part.get(JWT_FILTER)
    return proxy


def tokens_of(proxy: MeshProxy) -> JwtAuthentication:
    (found,) = [one for part in proxy.slices[ECDS] if (one := part.all().get(JWT_FILTER)) is not None]
    config = TypedExtensionConfig.FromString(AnyMessage.FromString(found.body).value)
    return JwtAuthentication.FromString(config.typed_config.value)


def filters_of(proxy: MeshProxy) -> list[set[str]]:
    """Return the names of the HTTP filters of each chain of what arrives."""
    (found,) = [one for part in proxy.slices[LDS] if (one := part.all().get("virtualInbound")) is not None]
    listener = Listener.FromString(AnyMessage.FromString(found.body).value)
    chains = []
    for chain in listener.filter_chains:
        manager = HttpConnectionManager()
        if chain.filters[-1].typed_config.Unpack(manager):
            chains.append({one.name for one in manager.http_filters})
    assert chains
    return chains


def test_a_policy_changes_the_listeners_of_those_that_it_is_for(bench: Bench) -> None:
    reviews, ratings = follow(bench, "reviews-v1"), follow(bench, "ratings-v1")
    bench.apply(policy(ONE, selector={"matchLabels": {"app": "reviews"}}))
    assert bench.recorder.take() == {
        "Listener": (["virtualInbound"], []),
        "TypedExtensionConfig": ([JWT_FILTER], []),
    }
    assert all(JWT_FILTER in names for names in filters_of(reviews))
    assert not any(JWT_FILTER in names for names in filters_of(ratings))
    assert [one.issuer for one in tokens_of(reviews).providers.values()] == ["https://id.test"]
    assert not tokens_of(ratings).providers


def test_keys_that_change_are_all_that_is_sent(bench: Bench) -> None:
    reviews = follow(bench, "reviews-v1")
    bench.apply(policy(ONE))
    assert tokens_of(reviews).providers["origins-0"].HasField("remote_jwks")
    bench.recorder.take()
    bench.pilot.take_keys({REMOTE: known("ec")})
    assert bench.recorder.take() == {"TypedExtensionConfig": ([JWT_FILTER], [])}
    assert tokens_of(reviews).providers["origins-0"].local_jwks.inline_string == known("ec")
    bench.pilot.take_keys({REMOTE: known("ec")})
    bench.pilot.take_keys({JwksSource("uri", "https://elsewhere.test/"): known("rsa")})
    assert bench.recorder.take() == {}
    bench.pilot.take_keys({REMOTE: ""})
    assert bench.recorder.take() == {"TypedExtensionConfig": ([JWT_FILTER], [])}
    assert tokens_of(reviews).providers["origins-0"].HasField("remote_jwks")


def test_without_policies_nothing_of_tokens_is_sent(bench: Bench) -> None:
    reviews = bench.connect("reviews-v1")
    assert not any(JWT_FILTER in names for names in filters_of(reviews))
    assert [one for part in reviews.slices[ECDS] for one in part.all()] == []


def test_a_proxy_that_still_asks_when_the_last_policy_goes_is_told_to_look_at_nothing(bench: Bench) -> None:
    reviews = follow(bench, "reviews-v1")
    bench.apply(policy(ONE))
    bench.delete("RequestAuthentication", "tokens")
    assert not any(JWT_FILTER in names for names in filters_of(reviews))
    assert tokens_of(reviews) == JwtAuthentication(bypass_cors_preflight=True)


def test_the_filter_of_one_name_is_each_proxys_own(bench: Bench) -> None:
    reviews, far = follow(bench, "reviews-v1"), follow(bench, "far-v1", "other")
    bench.apply(policy(ONE))
    bench.apply(policy({"issuer": "https://far.test", "jwks": jwks("ec")}, namespace="other"))
    assert [one.issuer for one in tokens_of(reviews).providers.values()] == ["https://id.test"]
    assert [one.issuer for one in tokens_of(far).providers.values()] == ["https://far.test"]


def test_rules_are_sorted_by_issuer_whatever_wrote_them(bench: Bench) -> None:
    reviews = follow(bench, "reviews-v1")
    inline = jwks("ec")
    bench.apply(policy({"issuer": "c", "jwks": inline}, {"issuer": "a", "jwks": inline}, name="first"))
    bench.apply(policy({"issuer": "b", "jwks": inline}, name="second", namespace="istio-system"))
    assert [tokens_of(reviews).providers[f"origins-{i}"].issuer for i in range(3)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (jwks("ec"), []),
        ('{"keys": []}', ["error: holds no usable key, so every token is refused"]),
        (
            '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}',
            [
                "error: holds no usable key, so every token is refused",
                "warning: key 0 is not used: n: 2048 to 8192 bits wanted, got 17",
            ],
        ),
    ],
)
def test_keys_in_a_rule_that_are_no_use_are_told(bench: Bench, keys: str, told: list[str]) -> None:
    bench.apply(policy({"issuer": "a", "jwks": keys}))
    problems = [problem for problem in bench.pilot.problems() if problem.field == "spec.jwtRules[0].jwks"]
    assert [f"{problem.level}: {problem.message}" for problem in problems] == told


# ---------------------------------------------------------------- EnvoyFilters


def patch(operation: str, value: Any, match: str = JWT_FILTER) -> str:
    chain = {"filter": {"name": "envoy.filters.network.http_connection_manager", "subFilter": {"name": match}}}
    return json.dumps(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "mine", "namespace": "default"},
            "spec": {
                "configPatches": [
                    {
                        "applyTo": "HTTP_FILTER",
                        "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": chain}},
                        "patch": {"operation": operation, "value": value},
                    }
                ]
            },
        }
    )


LUA = {
    "name": "mine.lua",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"},
}


def test_what_a_patch_merges_into_the_filter_is_left_out_and_told(bench: Bench) -> None:
    """Merged into a filter whose configuration comes apart, it would be all of it, and no token would be checked."""
    reviews = follow(bench, "reviews-v1")
    bench.apply(policy(ONE))
    kind = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
    bench.apply(patch("MERGE", {"typed_config": {"@type": kind, "bypass_cors_preflight": False}}))
    (found,) = [one for part in reviews.slices[LDS] if (one := part.all().get("virtualInbound")) is not None]
    assert found.body.count(b"envoy.filters.http.jwt_authn") == found.body.count(kind.encode())  # as discovered
    told = [str(problem) for problem in bench.pilot.problems()]
    assert any("its configuration comes apart (ECDS)" in line for line in told), told


def test_patches_find_their_place_beside_the_filter(bench: Bench) -> None:
    reviews = follow(bench, "reviews-v1")
    bench.apply(policy(ONE))
    bench.apply(patch("INSERT_BEFORE", LUA))
    assert all({"mine.lua", JWT_FILTER} <= names for names in filters_of(reviews))
    bench.apply(patch("REMOVE", None))
    assert not any(JWT_FILTER in names for names in filters_of(reviews))


# ---------------------------------------------------------------- what an Envoy would refuse


async def test_a_rule_that_envoy_would_refuse_leaves_the_last_good_ones_and_is_told(bench: Bench) -> None:
    async with judged(bench, FakeJudge()):
        reviews = follow(bench, "reviews-v1")
        bench.apply(policy(ONE))
        await bench.pilot.source.settled()
        assert [one.issuer for one in tokens_of(reviews).providers.values()] == ["https://id.test"]
        bench.apply(policy(ONE, {"issuer": BAD.decode(), "jwks": jwks("ec")}))
        await bench.pilot.source.settled()
        assert [one.issuer for one in tokens_of(reviews).providers.values()] == ["https://id.test"]
        assert all(JWT_FILTER in names for names in filters_of(reviews))
        (told,) = [problem for problem in bench.pilot.problems() if "envoy would refuse" in problem.message]
        assert str(told.resource) == "RequestAuthentication default/tokens"
        assert told.message.endswith("no, never; the last good version stays")
        bench.pilot.take_keys({REMOTE: known("ec")})
        bench.apply(policy(ONE))
        await bench.pilot.source.settled()
        assert tokens_of(reviews).providers["origins-0"].local_jwks.inline_string == known("ec")
        assert not [problem for problem in bench.pilot.problems() if "envoy would refuse" in problem.message]


async def test_a_filter_is_judged_with_the_listener_that_names_it(bench: Bench) -> None:
    judge = FakeJudge()
    async with judged(bench, judge):
        bench.connect("reviews-v1")  # which has not asked for it yet
        await bench.pilot.source.settled()
        judge.asked.clear()
        bench.apply(policy(ONE))
        await bench.pilot.source.settled()
        assert sorted(judge.asked) == [JWT_FILTER, "virtualInbound"]
