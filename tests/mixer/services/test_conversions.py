"""What a real Envoy sends, as attributes: the bytes in `captured/` are an Envoy's own (see `capture.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry, ResponseFlags
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from lateen.errors import BadInput, Refused
from lateen.mixer.services.asker import Askers, Asking
from lateen.mixer.services.checks import CheckFiller, query_of
from lateen.mixer.services.descriptors import DescriptorFiller
from lateen.mixer.services.entries import EntryFiller, count_entries, flags_of, parse_entries
from lateen.wire.mixer import ASKER, ORIGIN, PEER, SERVICE, Asker
from lateen.wire.peer_env import peer_environment
from lateen.wire.spiffe import SpiffeId

CAPTURED = Path(__file__).parent / "captured"
RATINGS = SpiffeId("cluster.local", "shop", "ratings")


class Read(NamedTuple):
    attribute: str
    key: str | None = None


def captured(name: str) -> bytes:
    return (CAPTURED / f"{name}.bin").read_bytes()


def asking(**fields: Any) -> Asking:
    return Asking(Asker(**fields), RATINGS, {"workload": "ratings-v1", "workload_namespace": "shop", "app": "ratings"})


def reads(*names: str) -> list[Read]:
    return [Read(*name.partition("|")[::2]) if "|" in name else Read(name) for name in names]


def check(name: str, *wanted: str, who: Asking | None = None) -> tuple[dict[str, Any], bool]:
    return CheckFiller(reads(*wanted))(captured(name), who or asking(), "192.0.2.1", "7")


def test_a_request_over_mutual_tls() -> None:
    bag, tcp = check(
        "check-http-mtls",
        *("source.ip", "source.principal", "source.namespace", "source.serviceAccount", "source.name", "source.uid"),
        *("source.labels", "source.workload.name", "source.workload.namespace", "origin.ip", "connection.id"),
        *("destination.principal", "destination.namespace", "destination.port", "destination.workload.name"),
        *("request.headers|x-client", "request.headers|absent", "request.path", "request.url_path", "request.host"),
        *("request.method", "request.size", "request.query_params", "request.auth.principal", "request.auth.audiences"),
        *("request.auth.presenter", "request.auth.claims|groups", "connection.requested_server_name"),
        *("context.protocol", "context.reporter.kind", "context.reporter.uid", "api.operation", "request.id"),
    )
    assert not tcp
    assert bag == {
        "source": {
            "ip": "127.0.0.1",  # x-forwarded-for said 10.9.9.9
            "principal": "spiffe://cluster.local/ns/front/sa/web",  # x-forwarded-client-cert said another
            "namespace": "front",
            "serviceAccount": "web",
            "name": "web-v1",
            "uid": "web-v1.front",
            "labels": {"app": "web", "version": "v1"},
            "workload": {"name": "web-v1", "namespace": "front"},
        },
        "destination": {
            "principal": "spiffe://cluster.local/ns/shop/sa/ratings",
            "namespace": "shop",
            "port": 19411,
            "workload": {"name": "ratings-v1"},
        },
        "origin": {"ip": "192.0.2.1"},
        "connection": {"id": "7", "mtls": True, "requested_server_name": "ratings.shop.svc.cluster.local"},
        "request": {
            "id": "made-up",
            "headers": {"x-client": "c1"},
            "path": "/items/7?colour=red&colour=blue&q=a%20b",
            "url_path": "/items/7",
            "host": "ratings:9080",
            "method": "POST",
            "size": 5,
            "query_params": {"colour": "red", "q": "a b"},
            "auth": {
                "principal": "staff/ann",
                "audiences": "shop,till",
                "presenter": "app",
                "claims": {"groups": ["interns"]},
            },
        },
        "context": {"protocol": "http", "reporter": {"kind": "inbound", "uid": "ratings-v1.shop"}},
        "api": {"operation": "POST /items/7"},
    }


def test_a_plain_request_has_no_identity() -> None:
    bag, _ = check("check-http-plain", "source.namespace", "source.name", "source.labels", "request.auth.claims")
    assert bag == {"connection": {"mtls": False}}


def test_only_what_is_read_is_filled_in() -> None:
    bag, _ = check("check-http-mtls", "request.method")
    assert bag == {
        "source": {"principal": "spiffe://cluster.local/ns/front/sa/web"},
        "connection": {"mtls": True},
        "request": {"method": "POST"},
    }


def test_a_name_that_the_mesh_does_not_vouch_for_is_none() -> None:
    bag, _ = check("check-http-mtls", "source.principal", "source.namespace", who=asking(vouched=False))
    assert bag == {"connection": {"mtls": True}}


def test_a_connection_over_mutual_tls() -> None:
    bag, tcp = check("check-tcp-mtls", "source.namespace", "connection.requested_server_name", "request.method")
    assert tcp
    assert bag == {
        "source": {"principal": "spiffe://cluster.local/ns/front/sa/web", "namespace": "front"},
        "connection": {"mtls": True, "requested_server_name": "ratings.shop"},
    }


def entries(name: str, *wanted: str) -> list[dict[str, Any]]:
    found, tcp = parse_entries(captured(name))
    filler = EntryFiller(reads(*wanted))
    return [filler(entry, asking(), tcp=tcp) for entry in found]


def test_a_reported_request() -> None:
    [bag] = entries(
        "log-http-mtls",
        *("source.ip", "source.namespace", "source.name", "origin.ip", "request.method", "request.size", "request.id"),
        *(
            "request.headers",
            "response.headers",
            "response.code",
            "response.size",
            "response.flags",
            "response.duration",
        ),
        *("request.auth.principal", "request.useragent", "response.time", "request.time", "connection.received.bytes"),
    )
    assert bag["source"] == {
        "ip": "127.0.0.1",
        "principal": "spiffe://cluster.local/ns/front/sa/web",
        "namespace": "front",
        "name": "web-v1",
    }
    assert bag["origin"] == {"ip": "10.9.9.9"}
    request, response = bag["request"], bag["response"]
    assert request["headers"] == {
        "x-client": "c1",
        ":path": "/items/7?colour=red&colour=blue&q=a%20b",
        ":method": "POST",
        ":authority": "ratings:9080",
        "user-agent": "probe/1",
        "referer": "http://shop/",
        "x-request-id": "made-up",
        "x-forwarded-for": "10.9.9.9",
    }
    assert (request["method"], request["size"], request["useragent"]) == ("POST", 5, "probe/1")
    assert request["auth"] == {"principal": "staff/ann"}
    assert response["headers"] == {"server": "envoy"}
    assert (response["code"], response["size"], response["flags"]) == (200, 2, "-")
    took = response["time"].ToNanoseconds() - request["time"].ToNanoseconds()
    assert took == response["duration"].ToNanoseconds() > 0
    assert bag["connection"] == {"mtls": True}


def test_a_reported_connection() -> None:
    [bag] = entries(
        "log-tcp-mtls",
        *("connection.event", "connection.received.bytes", "connection.sent.bytes", "source.serviceAccount"),
        *("context.protocol", "connection.requested_server_name"),
    )
    assert bag == {
        "source": {"principal": "spiffe://cluster.local/ns/front/sa/web", "serviceAccount": "web"},
        "connection": {"mtls": True, "event": "close", "received": {"bytes": 5}, "sent": {"bytes": 5}},
        "context": {"protocol": "tcp"},
    } | {"connection": bag["connection"]}
    assert bag["connection"]["event"] == "close"
    assert bag["connection"]["received"] == bag["connection"]["sent"] == {"bytes": 5}


@pytest.mark.parametrize("name", ["log-http-mtls", "log-http-plain", "log-tcp-mtls"])
def test_what_is_dropped_is_counted_without_reading(name: str) -> None:
    data = captured(name)
    assert count_entries(data) == len(parse_entries(data)[0]) > 0


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x12\xff", b"\x12\x05ab", b"\x08\x01", b"\x12\x00"])
def test_counting_takes_any_bytes(data: bytes) -> None:
    assert count_entries(data) == 0


def test_a_descriptor_is_no_identity() -> None:
    bag = DescriptorFiller(
        reads("request.descriptors", "request.path", "request.headers|client", "source.principal", "source.namespace")
    )(captured("rate-limit"), asking())
    assert bag.domain == "shop"
    assert bag.hits == [1]
    assert bag.bags == [
        {
            "request": {
                "descriptors": {"client": "c1", "request.path": "/items"},
                "path": "/items",
                "headers": {"client": "c1"},
            }
        }
    ]
    forged = RateLimitRequest(domain="shop")
    entry = forged.descriptors.add().entries.add()
    entry.key, entry.value = "source.principal", "spiffe://cluster.local/ns/shop/sa/admin"
    [own] = DescriptorFiller(reads("source.principal"))(forged.SerializeToString(), asking()).bags
    assert own == {}


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"", b"\x0a\x00\x0a\x80"])
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        CheckFiller(())(data, asking(), None, None)
    with pytest.raises(BadInput):
        DescriptorFiller(())(data, asking())


def test_too_deep_a_token_is_refused() -> None:
    request = CheckRequest()
    request.attributes.request.http.path = "/"
    value = request.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].fields["payload"]
    value = value.struct_value.fields["a"]
    for _ in range(40):
        value = value.list_value.values.add()
    value.string_value = "deep"
    with pytest.raises(BadInput, match="nested"):
        CheckFiller(reads("request.auth.claims"))(request.SerializeToString(), asking(), None, None)


def test_too_many_query_parameters_are_refused() -> None:
    assert query_of("/a?b=1&b=2&c#d?e=3") == {"b": "1", "c": ""}
    request = CheckRequest()
    request.attributes.request.http.path = "/?" + "a=1&" * 1000
    with pytest.raises(BadInput):
        CheckFiller(reads("request.query_params"))(request.SerializeToString(), asking(), None, None)


def test_several_names_in_a_certificate_are_none() -> None:
    entry = HTTPAccessLogEntry()
    peer = entry.common_properties.tls_properties.peer_certificate_properties
    for name in ("a", "b"):
        peer.subject_alt_name.add().uri = f"spiffe://cluster.local/ns/shop/sa/{name}"
    assert EntryFiller(reads("source.principal"))(entry, asking(), tcp=False) == {"connection": {"mtls": True}}


def test_what_is_under_way_is_not_reported() -> None:
    message = StreamAccessLogsMessage.FromString(captured("log-tcp-mtls"))
    message.tcp_logs.log_entry[0].common_properties.access_log_type = 2  # TcpUpstreamConnected
    assert parse_entries(message.SerializeToString()) == ([], True)


def test_flags_have_envoys_names() -> None:
    flags = ResponseFlags(no_healthy_upstream=True, rate_limited=True)
    assert flags_of(flags) == "UH,RL"
    flags.unauthorized_details.reason = ResponseFlags.Unauthorized.EXTERNAL_SERVICE
    assert flags_of(flags) == "UH,RL,UAEX"
    known = {name for name in ResponseFlags.DESCRIPTOR.fields_by_name if name != "unauthorized_details"}
    assert all(flags_of(ResponseFlags(**{name: True})) != "-" for name in known)


# ---------------------------------------------------------------- who asks


def metadata(asker: Asker, **more: str) -> list[tuple[str, str]]:
    return [(ASKER, msgspec.json.encode(asker).decode()), *more.items()]


def test_a_proxy_is_who_its_certificate_says() -> None:
    peer = peer_environment(workload="ratings-v1", namespace="shop", cluster="c", labels={"app": "ratings"})
    found, origin, _ = Askers().asking(
        [
            *metadata(Asker(namespace="shop", rules=("shop/a",))),
            (PEER, peer["LATEEN_PEER"]),
            (SERVICE, "ratings.shop.svc.cluster.local|ratings|shop"),
            (ORIGIN, "10.0.0.9"),
        ],
        RATINGS,
    )
    assert found.asker.rules == ("shop/a",)
    assert found.uid == "ratings-v1.shop"
    assert (found.service.host, found.service.name) == ("ratings.shop.svc.cluster.local", "ratings")
    assert origin == "10.0.0.9"


def test_a_proxy_that_asks_for_another_namespace_is_refused() -> None:
    askers = Askers()
    with pytest.raises(Refused, match="certificate says 'shop'"):
        askers.asking(metadata(Asker(namespace="bank")), RATINGS)
    peer = peer_environment(workload="ratings-v1", namespace="bank", cluster="c", labels={})
    with pytest.raises(Refused, match="that the proxy tells"):
        askers.asking([(PEER, peer["LATEEN_PEER"])], RATINGS)
    assert askers.asking(metadata(Asker(namespace="bank")), None)[0].asker.namespace == "bank"


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(ASKER, "{")], id="no-json"),
        pytest.param([(ASKER, '{"rules": 3}')], id="wrong-type"),
        pytest.param([(ASKER, "x" * 20_000)], id="too-long"),
    ],
)
def test_unreadable_metadata_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(BadInput):
        Askers().asking(pairs, None)
