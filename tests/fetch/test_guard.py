"""Which addresses may be reached: every range, every spelling, and the operator's word over them."""

from __future__ import annotations

import ipaddress

import pytest

from lateen.errors import BadInput
from lateen.fetch.guard import Guard, parse_networks

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.0.9": "loopback",
    "::1": "loopback",
    "169.254.169.254": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fd00:ec2::254": "unique local",  # a cloud's metadata service
    "10.77.0.12": "private",  # a workload
    "10.96.0.1": "private",  # a Service
    "240.240.0.3": "reserved",  # a ServiceEntry
    "172.31.255.255": "private",
    "192.168.0.1": "private",
    "100.100.100.200": "shared with a carrier (RFC 6598)",  # a cloud's metadata service
    "192.0.0.192": "for protocols (RFC 6890)",  # a cloud's metadata service
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "reserved",
    "198.18.0.1": "for benchmarks",
    "fec0::1": "site-local",
    "2001:db8::1": "for documentation",
    "2001:0:53aa:64c:0:fbff:ae5e:1": "a Teredo tunnel",
    "64:ff9b:1::a00:1": "a translation of local use (RFC 8215)",
    "100::1": "discarded (RFC 6666)",
    "4000::1": "not of the internet",
    "::ffff:127.0.0.1": "a form of 127.0.0.1, which is loopback",
    "::ffff:a9fe:a9fe": "a form of 169.254.169.254, which is link-local",
    "::ffff:10.96.0.1": "a form of 10.96.0.1, which is private",
    "64:ff9b::169.254.169.254": "a form of 169.254.169.254, which is link-local",
    "64:ff9b::a60:1": "a form of 10.96.0.1, which is private",
    "2002:7f00:1::1": "a form of 127.0.0.1, which is loopback",
    "2002:a9fe:a9fe::": "a form of 169.254.169.254, which is link-local",
    "localhost": "no IP address",
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_refused_and_why(address: str) -> None:
    assert Guard().refusal(address) == REFUSED[address]


def test_the_old_spelling_of_an_ipv4_address_in_ipv6_is_refused_whatever_it_holds() -> None:
    assert Guard().refusal("::127.0.0.1") is not None
    assert Guard().refusal("::8.8.8.8") == "not of the internet"


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_addresses_of_the_internet_are_reached(address: str) -> None:
    assert Guard().refusal(address) is None


def test_nothing_that_python_calls_not_global_is_reached() -> None:
    guard = Guard()
    for first in range(256):
        for rest in ("0.0.1", "64.0.1", "168.0.1", "254.169.254", "0.2.9", "18.7.7", "51.100.1", "31.196.9"):
            address = ipaddress.ip_address(f"{first}.{rest}")
            if not address.is_global:
                assert guard.refusal(str(address)) is not None, address


def test_the_operator_opens_networks_and_closes_others() -> None:
    guard = Guard(
        allowed=parse_networks(["10.1.0.0/16", "::1", "fd00::/8"], "--allow-fetch"),
        refused=parse_networks(["10.1.2.0/24", "8.8.8.0/24"], "--refuse-fetch"),
    )
    assert guard.refusal("10.1.9.9") is None
    assert guard.refusal("::ffff:10.1.9.9") is None
    assert guard.refusal("::1") is None
    assert guard.refusal("fd00::7") is None
    assert guard.refusal("10.2.0.1") == "private"
    assert guard.refusal("10.1.2.3") == "refused by --refuse-fetch"  # it stands before what is allowed
    assert guard.refusal("64:ff9b::8.8.8.8") == "refused by --refuse-fetch"


@pytest.mark.parametrize("text", ["10.1.0.0/33", "10.1.0.1/16", "example.com", ""])
def test_a_network_that_is_none_is_told(text: str) -> None:
    with pytest.raises(BadInput, match=r"--allow-fetch wants a CIDR such as 10\.1\.0\.0/16"):
        parse_networks([text], "--allow-fetch")
