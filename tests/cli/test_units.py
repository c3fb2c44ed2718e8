"""What people type as arguments, read and refused."""

from __future__ import annotations

import argparse
from datetime import timedelta

import pytest

from lateen.cli.run import parse_labels
from lateen.cli.units import (
    parse_address_argument,
    parse_duration_argument,
    parse_port_argument,
    parse_resolver_argument,
)
from lateen.errors import BadInput
from lateen.wire.local import WorkloadPort


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_argument(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "0s", "1h 30m", "1w", "ten seconds"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_duration_argument(text)


@pytest.mark.parametrize(
    ("text", "name", "number", "target"),
    [
        ("http:9080", "http", 9080, 9080),
        ("9080", "", 9080, 9080),
        ("tcp-redis:6379", "tcp-redis", 6379, 6379),
        ("http:80:8080", "http", 80, 8080),
        ("80:8080", "", 80, 8080),
    ],
)
def test_ports(text: str, name: str, number: int, target: int) -> None:
    assert parse_port_argument(text) == WorkloadPort(name=name, number=number, target=target)


@pytest.mark.parametrize(
    "text",
    ["", "http", "http:", "http:0", "http:65536", "HTTP:80", "a_b:80", ":80", "http:8o", "http:1:2:3", "http:80:"],
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_port_argument(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080", ("127.0.0.1", 8080, 80)),
        ("8443:443", ("127.0.0.1", 8443, 443)),
        ("0.0.0.0:8080:80", ("0.0.0.0", 8080, 80)),
        ("192.0.2.1:8080", ("192.0.2.1", 8080, 80)),
    ],
)
def test_addresses_are_loopback_unless_named(text: str, wanted: tuple[str, int, int]) -> None:
    assert parse_address_argument(text) == wanted


@pytest.mark.parametrize("text", ["", "localhost", "1:2:3:4", "0:80", "127.0.0.1:99999", "127.0.0.1:http"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_address_argument(text)


def test_labels() -> None:
    assert parse_labels(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}


@pytest.mark.parametrize("text", ["a", "=b", ""])
def test_what_is_no_label(text: str) -> None:
    with pytest.raises(BadInput, match="KEY=VALUE"):
        parse_labels([text])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
        ("[::1]", ("::1", 53)),
    ],
)
def test_resolvers(text: str, wanted: tuple[str, int]) -> None:
    assert parse_resolver_argument(text) == wanted


@pytest.mark.parametrize("text", ["", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "[::1", "1.2.3:53"])
def test_what_is_no_resolver(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_resolver_argument(text)
