"""Responses that are spliced by hand read like those that protobuf writes."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.xds import make_cluster, make_listener, make_route

from lateen.pilot.xds.absent import ABSENT_VERSION, absent_parts
from lateen.pilot.xds.frames import delta_prefix, delta_response, sotw_prefix, sotw_response
from lateen.pilot.xds.references import references
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS, rank, short_name

resources = st.dictionaries(st.text(min_size=1), st.tuples(st.text(), st.binary(max_size=300)), max_size=5)


@given(resources, st.text(), st.text(min_size=1), st.lists(st.text(min_size=1)))
def test_delta(entries: dict[str, tuple[str, bytes]], version: str, nonce: str, removed: list[str]) -> None:
    expected = DeltaDiscoveryResponse(system_version_info=version, type_url=CDS, nonce=nonce, removed_resources=removed)
    parts = []
    for name, (held, value) in entries.items():
        packed = AnyMessage(type_url=CDS, value=value)
        expected.resources.add(name=name, version=held, resource=packed)
        body = packed.SerializeToString()
        parts += [delta_prefix(name, held, len(body)), body]
    data = delta_response(type_url=CDS, nonce=nonce, version=version, parts=parts, removed=removed)
    assert DeltaDiscoveryResponse.FromString(data) == expected


@given(st.lists(st.binary(max_size=300)), st.text(), st.text())
def test_state_of_the_world(values: list[bytes], version: str, nonce: str) -> None:
    expected = DiscoveryResponse(version_info=version, type_url=LDS, nonce=nonce)
    parts = []
    for value in values:
        packed = expected.resources.add(type_url=LDS, value=value)
        body = packed.SerializeToString()
        parts += [sotw_prefix(len(body)), body]
    data = sotw_response(type_url=LDS, nonce=nonce, version=version, parts=parts)
    assert DiscoveryResponse.FromString(data) == expected


def test_bodies_of_some_size() -> None:
    body = AnyMessage(type_url=CDS, value=b"x" * 3_000_000).SerializeToString()
    parts = [delta_prefix("big", "1", len(body)), body]
    data = delta_response(type_url=CDS, nonce="1", version="", parts=parts, removed=())
    assert len(DeltaDiscoveryResponse.FromString(data).resources[0].resource.value) == 3_000_000


def test_an_absent_route_is_an_empty_one() -> None:
    parts = absent_parts(RDS, "r")
    assert parts is not None
    data = delta_response(type_url=RDS, nonce="1", version="", parts=parts, removed=())
    (entry,) = DeltaDiscoveryResponse.FromString(data).resources
    assert (entry.name, entry.version, entry.resource.type_url) == ("r", ABSENT_VERSION, RDS)
    assert entry.resource.value == b"\n\x01r"  # nothing but its name
    assert absent_parts(EDS, "a") is None


@pytest.mark.parametrize(
    ("type_url", "body", "expected"),
    [
        pytest.param(CDS, make_cluster("a").body, ("a",), id="endpoints by the cluster's name"),
        pytest.param(CDS, make_cluster("a", service_name="b").body, ("b",), id="endpoints by a name of their own"),
        pytest.param(CDS, make_cluster("a", eds=False).body, (), id="no endpoints over ADS"),
        pytest.param(LDS, make_listener("in", route="r").body, ("r",), id="routes"),
        pytest.param(LDS, make_listener("in").body, (), id="no routes"),
        pytest.param(RDS, make_route("r", "a").body, (), id="routes refer to nothing that is waited for"),
        pytest.param(CDS, b"\xff\xff", (), id="does not parse"),
    ],
)
def test_references(type_url: str, body: bytes, expected: tuple[str, ...]) -> None:
    assert references(type_url, body) == expected


def test_the_order_and_names_of_types() -> None:
    other = "type.googleapis.com/istio.workload.Address"
    assert sorted([other, RDS, LDS, EDS, CDS], key=rank) == [CDS, EDS, LDS, RDS, other]
    assert [short_name(t) for t in (CDS, other)] == ["CDS", "Address"]
