"""Which workload gets which address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from lateen.errors import Unavailable
from lateen.net.addresses import GATEWAY, AddressPool, mac_address

SMALL = IPv4Network("10.0.0.0/29")  # .1 the bridge, .2 to .6 for workloads
BRIDGE = frozenset({IPv4Address("10.0.0.1")})


def make_pool() -> AddressPool:
    return AddressPool(SMALL, BRIDGE)


def test_addresses_are_handed_out_in_order_beside_the_bridge() -> None:
    pool = AddressPool()
    assert [str(pool.take(name)) for name in "abc"] == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
    assert str(GATEWAY) == "10.77.0.1"
    assert pool.held == {"a": "10.77.0.2", "b": "10.77.0.3", "c": "10.77.0.4"}


def test_a_name_gets_its_address_again() -> None:
    pool = make_pool()
    first = pool.take("a")
    pool.free("a")
    assert pool.take("b") != first
    assert pool.take("a") == first


def test_what_was_free_longest_is_used_again_only_when_all_were_used() -> None:
    pool = make_pool()
    given = {name: pool.take(name) for name in "abcde"}
    assert len(set(given.values())) == 5
    pool.free("c")
    pool.free("a")
    assert pool.take("new") == given["c"]
    assert pool.take("c") == given["a"]  # its own is taken


def test_none_left() -> None:
    pool = make_pool()
    for name in "abcde":
        pool.take(name)
    with pytest.raises(Unavailable, match="no address left for 'f': 5 workloads"):
        pool.take("f")
    pool.free("b")
    assert pool.take("f") == IPv4Address("10.0.0.3")


def test_an_address_always_has_the_same_link_address() -> None:
    assert mac_address(IPv4Address("10.77.1.2")).hex(":") == "02:4c:0a:4d:01:02"
