"""Patches to the bootstrap: merged as plain values like the messages they are, and tried before they are used."""

from __future__ import annotations

from typing import Any

import pytest
from tests.pilot.serving.conftest import Bench, make_workload
from tests.pilot.serving.test_envoy_filters import envoy_filter

from lateen.agent.bootstrap_patches import apply_patch, patched_bootstrap
from lateen.wire.local import BootstrapPatch


def read(*values: str, operation: str = "MERGE", match: str = "{}") -> tuple[BootstrapPatch, ...]:
    """Return what an agent is told of BOOTSTRAP patches with these values."""
    bench = Bench()
    listed = [
        f"{{applyTo: BOOTSTRAP, match: {match}, patch: {{operation: {operation}, value: {value}}}}}" for value in values
    ]
    bench.apply(envoy_filter(*listed))
    return bench.pilot.bootstrap_for(make_workload("app-v1", "app", "v1", "10.77.0.2"))


@pytest.mark.parametrize(
    ("base", "value", "after"),
    [
        pytest.param({}, "{statsFlushInterval: 5s}", {"stats_flush_interval": "5s"}, id="spelling"),
        pytest.param(
            {"static_resources": {"clusters": [{"name": "a"}]}},
            "{static_resources: {clusters: [{name: b}]}}",
            {"static_resources": {"clusters": [{"name": "a"}, {"name": "b"}]}},
            id="list-appends",
        ),
        pytest.param(
            {"stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"prefix": "a"}]}}, "x": 1}},
            "{stats_config: {stats_matcher: {reject_all: true}}}",
            {"stats_config": {"stats_matcher": {"reject_all": True}, "x": 1}},
            id="one-of-is-exchanged",
        ),
        pytest.param(
            {"enable_dispatcher_stats": True}, "{enable_dispatcher_stats: false}", {}, id="written-default-clears"
        ),
        pytest.param(
            {"admin": {"address": {"pipe": {"path": "p"}}, "access_log": []}},
            "{admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}}",
            {
                "admin": {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}},
                    "access_log": [],
                }
            },
            id="one-of-deep-inside",
        ),
    ],
)
def test_how_it_merges(base: dict[str, Any], value: str, after: dict[str, Any]) -> None:
    (patch,) = read(value)
    before = repr(base)
    assert apply_patch(base, patch) == after
    assert repr(base) == before


def test_lists_are_replaced_when_asked_for() -> None:
    (patch,) = read("{static_resources: {clusters: [{name: b}]}}", operation="MERGE_AND_REPLACE_LIST")
    assert apply_patch({"static_resources": {"clusters": [{"name": "a"}]}}, patch) == {
        "static_resources": {"clusters": [{"name": "b"}]}
    }


def test_a_faulty_value_is_not_told_to_agents() -> None:
    patches = read("{stats_flush_interval: soon}", "{stats_flush_interval: 5s}")
    assert [patch.id for patch in patches] == ["default/mine#1"]


@pytest.mark.parametrize(("match", "count"), [("{context: GATEWAY}", 0), ("{context: SIDECAR_OUTBOUND}", 1), ("{}", 1)])
def test_a_bootstrap_is_of_one_kind_of_proxy(match: str, count: int) -> None:
    assert len(read("{stats_flush_interval: 5s}", match=match)) == count


def test_a_patch_may_ask_for_the_version_that_starts() -> None:
    assert len(read("{stats_flush_interval: 5s}", match="{proxy: {proxyVersion: '^0\\.'}}")) == 1
    assert read("{stats_flush_interval: 5s}", match="{proxy: {proxyVersion: '^9\\.'}}") == ()


async def test_one_bad_patch_leaves_the_others() -> None:
    asked = []

    async def judge(document: dict[str, Any]) -> str:
        asked.append(document)
        return "no" if "b" in document else ""

    patches = [BootstrapPatch(id=name, value={name: 1}) for name in "abc"]
    document, verdicts = await patched_bootstrap({}, patches, judge)
    assert document == {"a": 1, "c": 1}
    assert verdicts == {"a": "", "b": "no", "c": ""}
    assert await patched_bootstrap({"x": 1}, (), judge) == ({"x": 1}, {})
    assert len(asked) == 4
