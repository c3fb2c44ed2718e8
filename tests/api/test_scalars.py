"""Durations, frozen maps, protocols, names and hosts."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.api.frozen import FrozenMap, freeze
from lateen.api.hosts import (
    covering_patterns,
    host_covers,
    host_is_subset,
    hosts_overlap,
    most_specific_host,
    resolve_short_name,
    specificity_key,
)
from lateen.api.names import (
    is_dns_label,
    is_fqdn,
    is_ip,
    is_label_key,
    is_label_value,
    is_partial_wildcard,
    is_subnet,
    is_unix_address,
    is_wildcard_domain,
)
from lateen.api.protocol import Protocol, known_protocol, parse_protocol
from lateen.api.scalars import duration_fault, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1h30m", 5_400_000_000),
        ("1.5s", 1_500_000),
        (".5s", 500_000),
        ("1.s", 1_000_000),
        ("250ms", 250_000),
        ("3us", 3),
        ("3µs", 3),
        ("2000ns", 2),
        ("-2s", -2_000_000),
        ("+2s", 2_000_000),
        ("1h1m1s1ms", 3_661_001_000),
        ("2562047h", 2_562_047 * 3_600_000_000),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, microseconds: int) -> None:
    assert parse_duration(text) == timedelta(microseconds=microseconds)


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1d", "1 s", "1s ", "1,5s", "1e3s", "-", ".s", "1s2", "9999999h", "1ns"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=90_000)))
def test_a_duration_is_written_so_that_it_is_read_back(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (timedelta(milliseconds=1), None),
        (timedelta(0), "must be at least 1ms"),
        (timedelta(seconds=-1), "must be at least 1ms"),
        (timedelta(microseconds=1500), "must be a whole number of milliseconds"),
    ],
)
def test_the_common_rule_of_durations(value: timedelta, fault: str | None) -> None:
    assert duration_fault(value) == fault


def test_a_frozen_map_is_a_dict_that_cannot_change() -> None:
    one = freeze({"a": [1, {"b": 2}], "c": None})
    other = freeze({"c": None, "a": [1, {"b": 2}]})
    assert one == other
    assert hash(one) == hash(other)
    assert one == {"a": (1, {"b": 2}), "c": None}
    for change in (lambda: one.update(d=1), lambda: one.pop("a"), one.clear, lambda: one.setdefault("d", 1)):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    with pytest.raises(TypeError, match="cannot be changed"):
        one["a"] = 1
    assert isinstance(pickle.loads(pickle.dumps(one)), FrozenMap)
    assert copy.deepcopy(one) == one


@pytest.mark.parametrize(
    ("name", "app", "number", "l4", "protocol"),
    [
        pytest.param("http", "", 80, "TCP", Protocol.HTTP, id="name"),
        pytest.param("HTTP-admin", "", 80, "TCP", Protocol.HTTP, id="prefix-any-case"),
        pytest.param("http2-x", "", 80, "TCP", Protocol.HTTP2, id="http2"),
        pytest.param("grpc", "", 80, "TCP", Protocol.GRPC, id="grpc"),
        pytest.param("grpc-web-x", "", 80, "TCP", Protocol.GRPC_WEB, id="grpc-web"),
        pytest.param("http_proxy", "", 80, "TCP", Protocol.HTTP_PROXY, id="http-proxy"),
        pytest.param("https", "", 443, "TCP", Protocol.HTTPS, id="https"),
        pytest.param("tcp-x", "", 80, "TCP", Protocol.TCP, id="tcp"),
        pytest.param("mongo", "", 1, "TCP", Protocol.MONGO, id="mongo"),
        pytest.param("http", "tcp", 80, "TCP", Protocol.TCP, id="app-protocol-beats-name"),
        pytest.param("x", "kubernetes.io/h2c", 80, "TCP", Protocol.HTTP2, id="h2c"),
        pytest.param("x", "kubernetes.io/ws", 80, "TCP", Protocol.HTTP, id="ws"),
        pytest.param("x", "kubernetes.io/wss", 80, "TCP", Protocol.HTTPS, id="wss"),
        pytest.param("http", "", 53, "UDP", Protocol.UDP, id="udp-beats-all"),
        pytest.param("metrics", "", 9000, "TCP", Protocol.AUTO, id="unknown-is-sniffed"),
        pytest.param("", "", 9000, "TCP", Protocol.AUTO, id="nameless-is-sniffed"),
        pytest.param("httpx", "", 9000, "TCP", Protocol.AUTO, id="longer-word-is-sniffed"),
        pytest.param("db", "", 3306, "TCP", Protocol.TCP, id="server-first"),
        pytest.param("http", "", 25, "TCP", Protocol.HTTP, id="name-beats-server-first"),
    ],
)
def test_what_a_port_speaks(name: str, app: str, number: int, l4: str, protocol: Protocol) -> None:
    assert parse_protocol(name, app, number, l4) is protocol


def test_each_protocol_is_of_one_family() -> None:
    families = {
        protocol: (protocol.is_http, protocol.is_tcp)
        for protocol in Protocol
        if protocol not in (Protocol.UDP, Protocol.AUTO)
    }
    assert all(http != tcp for http, tcp in families.values())
    assert {protocol for protocol in Protocol if protocol.is_tls} == {Protocol.HTTPS, Protocol.TLS}
    assert {protocol for protocol in Protocol if protocol.is_http2} == {
        Protocol.HTTP2,
        Protocol.GRPC,
        Protocol.GRPC_WEB,
    }
    assert Protocol.HTTPS.after_termination is Protocol.HTTP
    assert Protocol.TLS.after_termination is Protocol.TCP
    assert Protocol.GRPC.after_termination is Protocol.GRPC
    assert known_protocol("Grpc-Web") is Protocol.GRPC_WEB
    assert known_protocol("") is None
    assert known_protocol("http-admin") is None


@pytest.mark.parametrize(
    ("check", "yes", "no"),
    [
        pytest.param(
            is_dns_label, ["a", "A-1", "1", "x" * 63], ["", "-a", "a-", "a.b", "a_b", "x" * 64, "a\n"], id="dns-label"
        ),
        pytest.param(
            is_fqdn,
            ["a", "a.b", "a.b.", "A.b", "1.a"],
            ["", ".", "a..b", "a.1", "*.a", "1.2.3.4", "a.b\n", ".".join(["x" * 63] * 5)],
            id="fqdn",
        ),
        pytest.param(
            is_wildcard_domain,
            ["a.b", "*", "*.a", "*a.b", "*-a.b"],
            ["", "a.*", "*.*", "a*.b", "**.b", "*.", "*.1"],
            id="wildcard",
        ),
        pytest.param(is_partial_wildcard, ["*a.b", "*-a"], ["*", "*.a", "a.b"], id="partial-wildcard"),
        pytest.param(is_ip, ["1.2.3.4", "::1"], ["", "1.2.3", "01.2.3.4", "fe80::1%eth0", "a"], id="ip"),
        pytest.param(
            is_subnet,
            ["1.2.3.4", "10.1.2.3/8", "::/0"],
            ["10.0.0.0/33", "10.0.0.0/255.0.0.0", "a/8", "1.2.3.4/", "1.2.3.4/8/8"],
            id="subnet",
        ),
        pytest.param(is_unix_address, ["@a", "/a/b"], ["", "@", "a", "/a/", "/", "/a\0"], id="unix"),
        pytest.param(
            is_label_key,
            ["app", "a.b/app", "A_1.x", "x" * 63],
            ["", "/a", "a/", "A.b/c", "-a", "a/b/c", "x" * 64],
            id="label-key",
        ),
        pytest.param(is_label_value, ["", "v1", "A_b.c"], ["-a", "a b", "x" * 64, "a/b"], id="label-value"),
    ],
)
def test_names(check: object, yes: list[str], no: list[str]) -> None:
    assert callable(check)
    assert [text for text in yes if not check(text)] == []
    assert [text for text in no if check(text)] == []


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", "reviews.shop.svc.cluster.local"),
        ("reviews.prod", "reviews.prod"),
        ("*", "*"),
        ("::1", "::1"),
        ("1.2.3.4", "1.2.3.4"),
        ("", ""),
    ],
)
def test_short_names(host: str, full: str) -> None:
    assert resolve_short_name(host, "shop") == full


@pytest.mark.parametrize(
    ("pattern", "host", "covers"),
    [
        ("*", "a.b", True),
        ("*", "*.b", True),
        ("*.foo.com", "a.b.foo.com", True),
        ("*.foo.com", "foo.com", False),
        ("*.foo.com", "*.b.foo.com", True),
        ("*.b.foo.com", "*.foo.com", False),
        ("*.foo.com", "*foo.com", False),
        ("*foo.com", "*.foo.com", True),
        ("a.b", "a.b", True),
        ("a.b", "*.b", False),
    ],
)
def test_which_host_covers_which(pattern: str, host: str, covers: bool) -> None:
    assert host_covers(pattern, host) is covers
    assert host_is_subset(host, pattern) is covers
    assert hosts_overlap(pattern, host) is hosts_overlap(host, pattern)


def test_the_most_specific_host_speaks() -> None:
    hosts = ["*", "*.com", "*.foo.com", "a.foo.com", "*.b.foo.com"]
    assert most_specific_host("a.foo.com", hosts) == "a.foo.com"
    assert most_specific_host("x.b.foo.com", hosts) == "*.b.foo.com"
    assert most_specific_host("*.b.foo.com", hosts) == "*.b.foo.com"
    assert most_specific_host("*.c.foo.com", hosts) == "*.foo.com"
    assert most_specific_host("foo.com", hosts) == "*.com"
    assert most_specific_host("a.org", hosts) == "*"
    assert most_specific_host("a.org", hosts[1:]) is None
    assert sorted(hosts, key=specificity_key) == ["a.foo.com", "*.b.foo.com", "*.foo.com", "*.com", "*"]


names = st.text(alphabet="ab.", max_size=6)
hosts = st.one_of(names, names.map(lambda name: f"*{name}"))


@given(hosts, hosts)
def test_covering_patterns_are_all_that_cover(host: str, pattern: str) -> None:
    assert (pattern in {host, *covering_patterns(host)}) is (
        host_covers(pattern, host) if pattern.startswith("*") or pattern == host else False
    )
