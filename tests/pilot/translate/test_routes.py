"""Route configurations put together from virtual hosts that are serialised already; names; secrets of TLS."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.pilot.translate.cases import host, route

from lateen.pilot.model.values import REGISTRY_ONLY, RouteConfigInput, VirtualHostInput
from lateen.pilot.translate import names
from lateen.pilot.translate.matches import claim_path
from lateen.pilot.translate.pack import resource_of, unpack
from lateen.pilot.translate.routes import build_route_config, build_virtual_host, splice_route_config
from lateen.pilot.xds.source import Resource

HOSTS = tuple(host(route(), name=f"h{number}:80", domains=(f"h{number}", f"h{number}.ns")) for number in range(3))


def splice(shell: RouteConfigInput, hosts: tuple[VirtualHostInput, ...]) -> Resource:
    return splice_route_config(
        shell, [(entry.domains, build_virtual_host(entry).SerializeToString(deterministic=True)) for entry in hosts]
    )


def content(resource: Resource) -> RouteConfiguration:
    return unpack(AnyMessage.FromString(resource.body), RouteConfiguration)


@pytest.mark.parametrize("hosts", [(), HOSTS[:1], HOSTS], ids=["none", "one", "many"])
@pytest.mark.parametrize("catch_all", ["", "ALLOW_ANY", REGISTRY_ONLY])
def test_spliced_is_what_would_be_built(hosts: tuple[VirtualHostInput, ...], catch_all: str) -> None:
    shell = RouteConfigInput(name="80", virtual_hosts=(), catch_all=catch_all)
    whole = RouteConfigInput(name="80", virtual_hosts=hosts, catch_all=catch_all)
    assert splice(shell, hosts) == resource_of(build_route_config(whole))


def test_a_domain_belongs_to_the_first_host_that_has_it() -> None:
    shell = RouteConfigInput(name="80", virtual_hosts=())
    second = host(route(), name="second", domains=("H0", "own"))
    left_out = host(route(), name="left out", domains=("h0.ns", "OWN"))
    spliced = content(splice(shell, (HOSTS[0], second, left_out)))
    assert [(entry.name, list(entry.domains)) for entry in spliced.virtual_hosts] == [
        ("h0:80", ["h0", "h0.ns"]),
        ("second", ["own"]),
    ]


def test_a_large_host_keeps_its_length() -> None:
    large = host(*(route(name=f"{number}" * 50) for number in range(9)), name="large", domains=("large",))
    assert len(build_virtual_host(large).SerializeToString()) > 0x80
    shell = RouteConfigInput(name="80", virtual_hosts=())
    assert content(splice(shell, (large,))).virtual_hosts[0] == build_virtual_host(large)


def test_names_are_those_that_tools_read() -> None:
    assert names.outbound_cluster_name("a.ns", 80) == "outbound|80||a.ns"
    assert names.outbound_cluster_name("a.ns", 80, "v1") == "outbound|80|v1|a.ns"
    assert names.outbound_sni("a.ns", 80, "v1") == "outbound_.80_.v1_.a.ns"
    assert names.inbound_cluster_name(80) == "inbound|80||"
    assert names.listener_name("10.0.0.1", 80) == "10.0.0.1_80"
    assert names.listener_name("unix:///run/a.sock", 0) == "/run/a.sock"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("@request.auth.claims.a.b", ("a", "b")),
        ("@Request.Auth.Claims[a][b.c]", ("a", "b.c")),
        ("x-header", None),
        (":method", None),
    ],
)
def test_which_headers_are_claims(key: str, path: tuple[str, ...] | None) -> None:
    assert claim_path(key) == path


def test_unpack_tells_what_it_found() -> None:
    packed = AnyMessage.FromString(resource_of(build_virtual_host(HOSTS[0])).body)
    with pytest.raises(TypeError, match=r"VirtualHost.*where.*RouteConfiguration.*was wanted"):
        unpack(packed, RouteConfiguration)
