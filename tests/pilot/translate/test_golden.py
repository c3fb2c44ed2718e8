"""Every golden case: what is built is what is written down, and what a real Envoy takes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from tests.fakes.proxies import envoy_binary
from tests.pilot.translate.cases import CASES
from tests.pilot.translate.golden import CONSTANTS, dump

from lateen.pilot.translate.pack import TYPE_PREFIX, pack, resource_of
from lateen.pilot.translate.parts import address
from lateen.wire.peer_env import peer_environment

GOLDEN = Path(__file__).parent / "golden"


def _expected(name: str, text: str, request: pytest.FixtureRequest) -> str:
    path = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_what_is_built(name: str, request: pytest.FixtureRequest) -> None:
    text = dump(CASES[name]())
    assert text == _expected(name, text, request)


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_constants_hold(name: str, request: pytest.FixtureRequest) -> None:
    text = dump(CONSTANTS[name], shorten=False)
    assert text == _expected(f"constant/{name.lower()}", text, request)


def test_every_golden_file_is_used() -> None:
    used = {*CASES, *(f"constant/{name.lower()}" for name in CONSTANTS)}
    assert {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob("*.yaml")} == used


@pytest.mark.parametrize("name", CASES)
def test_same_input_gives_the_same_bytes(name: str) -> None:
    first, second = resource_of(CASES[name]()), resource_of(CASES[name]())
    assert first == second
    assert re.fullmatch("[0-9a-f]{20}", first.version)


def test_other_input_gives_another_version() -> None:
    names = ("cluster/http", "cluster/http2", "outbound/tcp", "outbound/mongo")
    assert len({resource_of(CASES[name]()).version for name in names}) == len(names)


@pytest.mark.envoy
def test_envoy_takes_every_case(tmp_path: Path) -> None:
    bootstrap = Bootstrap()
    bootstrap.node.id = bootstrap.node.cluster = "golden"
    bootstrap.layered_runtime.layers.add(
        name="capture",
        static_layer=Struct(),
    ).static_layer.update(
        {"envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": True}
    )
    for number, (name, build) in enumerate(CASES.items()):
        _add(bootstrap, build(), name, number)
    bootstrap.static_resources.clusters.extend(_named(name) for name in ("sds-grpc", "ads"))
    bootstrap.dynamic_resources.ads_config.api_type = 2  # GRPC
    bootstrap.dynamic_resources.ads_config.transport_api_version = 2  # V3
    bootstrap.dynamic_resources.ads_config.grpc_services.add().envoy_grpc.cluster_name = "ads"
    path = tmp_path / "bootstrap.pb"
    path.write_bytes(bootstrap.SerializeToString())
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(path), "--disable-hot-restart", "-l", "warning"],
        env={**os.environ, **peer_environment(workload="w-v1", namespace="default", cluster="c", labels={})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Envoy 1.40 says OK and then trips over a shared stats scope while it tears down: only its word counts.
    assert f"configuration '{path}' OK" in done.stdout, done.stderr[-3000:]
    deprecated = [line for line in done.stderr.splitlines() if "Deprecated field" in line]
    assert [line for line in deprecated if "use_original_dst" not in line] == []


def _named(name: str) -> Cluster:
    cluster = Cluster(name=name, type=Cluster.STATIC, connect_timeout=Duration(seconds=1))
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    any_options = cluster.typed_extension_protocol_options[options]
    any_options.type_url = TYPE_PREFIX + options
    any_options.value = b"\x1a\x02\x12\x00"  # explicit_http_config { http2_protocol_options {} }
    return cluster


def _add(bootstrap: Bootstrap, message: Message, name: str, number: int) -> None:
    """Put one resource where a static configuration has room for its kind, under a name and address of its own."""
    static = bootstrap.static_resources
    match message:
        case Cluster():
            message.name = name
            static.clusters.append(message)
        case ClusterLoadAssignment():
            message.cluster_name = name
            static.clusters.add(
                name=name,
                type=Cluster.STATIC,
                connect_timeout=Duration(seconds=1),
                load_assignment=message,
            ).lb_policy = Cluster.ROUND_ROBIN
        case RouteConfiguration():
            manager = HttpConnectionManager(
                stat_prefix=name,
                route_config=message,
                http_filters=[HttpFilter(name="router", typed_config=pack(Router()))],
            )
            filters = [Filter(name="http", typed_config=pack(manager))]
            static.listeners.append(_at(Listener(name=name, filter_chains=[FilterChain(filters=filters)]), number))
        case TypedExtensionConfig():
            manager = HttpConnectionManager(
                stat_prefix=name,
                route_config=RouteConfiguration(),
                http_filters=[
                    HttpFilter(name=message.name, typed_config=message.typed_config),
                    HttpFilter(name="router", typed_config=pack(Router())),
                ],
            )
            filters = [Filter(name="http", typed_config=pack(manager))]
            static.listeners.append(_at(Listener(name=name, filter_chains=[FilterChain(filters=filters)]), number))
        case Listener():
            message.name = name
            static.listeners.append(_at(message, number))
        case _:
            raise AssertionError(name)


def _at(listener: Listener, number: int) -> Listener:
    protocol = listener.address.socket_address.protocol
    listener.address.CopyFrom(address(f"127.1.{number // 250}.{number % 250 + 1}", 10_000))
    listener.address.socket_address.protocol = protocol
    return listener


def test_every_kind_has_cases() -> None:
    kinds = {name.partition("/")[0] for name in CASES}
    assert kinds == {path.name for path in _folders()} - {"constant"}


def _folders() -> Iterator[Path]:
    return (path for path in GOLDEN.iterdir() if path.is_dir())


def test_the_documentation_names_every_case_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api" / "translation.md").read_text()
    kinds = "|".join(path.name for path in _folders())
    named = set(re.findall(rf"`((?:{kinds})/[\w-]+)`", text))
    files = {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob("*.yaml")}
    assert named - files == set()
    assert {name for name in files - named if not name.startswith("constant/")} == set()
