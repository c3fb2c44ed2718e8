"""Where the capture rules send a packet, judged without a kernel. `test_capture` asks the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from lateen.errors import BadInput
from lateen.net.capture import Capture, check_capture
from lateen.net.rules import (
    Chain,
    DestinationIn,
    DestinationPort,
    Mark,
    Masquerade,
    Match,
    OutBy,
    Protocol,
    Redirect,
    Return,
    SourceIn,
    capture_chains,
    gateway_chains,
    outside_chains,
)

OWN, OTHER, VIRTUAL = "10.77.0.2", "10.77.0.3", "10.96.0.10"


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The first packet of a connection."""

    to: str
    port: int = 9080
    source: str = OWN
    protocol: str = "tcp"
    mark: int = 0

    @property
    def link(self) -> str:
        return "lo" if self.to.startswith("127.") or self.to == OWN else "eth0"


def holds(match: Match, packet: Packet) -> bool:
    match match:
        case Mark(value):
            return packet.mark == value
        case OutBy(name):
            return packet.link == name
        case Protocol(name):
            return packet.protocol == name
        case DestinationPort(number):
            return packet.port == number
        case SourceIn(network):
            return IPv4Address(packet.source) in network
        case DestinationIn(network, negated):
            return (IPv4Address(packet.to) in network) is not negated


def judge(chains: tuple[Chain, ...], hook: str, packet: Packet) -> int | None:
    """Return the port that the packet is redirected to, None for left alone."""
    for chain in chains:
        if chain.hook != hook:
            continue
        for rule in chain.rules:
            if all(holds(match, packet) for match in rule.matches):
                return rule.verdict.port if isinstance(rule.verdict, Redirect) else None
    return None


DEFAULT = Capture()
PROXY = 1337


@pytest.mark.parametrize(
    ("capture", "packet", "port"),
    [
        pytest.param(DEFAULT, Packet(to=VIRTUAL), 15001, id="app-to-service"),
        pytest.param(DEFAULT, Packet(to=OTHER), 15001, id="app-to-workload"),
        pytest.param(DEFAULT, Packet(to="93.184.216.34", port=443), 15001, id="app-to-outside"),
        pytest.param(DEFAULT, Packet(to=VIRTUAL, protocol="udp"), None, id="udp-is-untouched"),
        pytest.param(DEFAULT, Packet(to="127.0.0.1"), None, id="app-to-localhost"),
        pytest.param(DEFAULT, Packet(to="127.1.2.3"), None, id="app-to-any-loopback"),
        pytest.param(DEFAULT, Packet(to=OWN), None, id="app-to-itself"),
        pytest.param(DEFAULT, Packet(to="8.8.8.8", port=53, protocol="udp"), 15053, id="lookup"),
        pytest.param(DEFAULT, Packet(to="8.8.8.8", port=53), 15053, id="lookup-by-tcp"),
        pytest.param(DEFAULT, Packet(to="127.0.0.53", port=53, protocol="udp"), 15053, id="lookup-at-stub-resolver"),
        pytest.param(DEFAULT, Packet(to="127.0.0.2", port=53, protocol="udp"), 15054, id="proxys-lookup"),
        pytest.param(DEFAULT, Packet(to="127.0.0.2", port=53), 15054, id="proxys-lookup-by-tcp"),
        pytest.param(DEFAULT, Packet(to=OTHER, mark=PROXY), None, id="proxy-to-workload"),
        pytest.param(DEFAULT, Packet(to="8.8.8.8", port=53, mark=PROXY), None, id="proxy-to-port-53"),
        pytest.param(DEFAULT, Packet(to=OWN, mark=PROXY), 15006, id="proxy-to-own-workload-is-a-self-call"),
        pytest.param(DEFAULT, Packet(to=OWN, mark=PROXY, source="127.0.0.6"), None, id="proxy-hands-on-to-app"),
        pytest.param(DEFAULT, Packet(to="127.0.0.1", mark=PROXY), None, id="proxy-to-app-on-localhost"),
        pytest.param(DEFAULT, Packet(to=OTHER, mark=7), 15001, id="another-mark-is-none"),
        pytest.param(Capture(mark=7), Packet(to=OTHER, mark=7), None, id="mark-of-choice"),
        pytest.param(Capture(outbound_port=1), Packet(to=OTHER), 1, id="port-of-choice"),
        pytest.param(Capture(dns_port=2), Packet(to=OTHER, port=53), 2, id="dns-port-of-choice"),
        pytest.param(Capture(exclude_outbound_ports=(9080,)), Packet(to=OTHER), None, id="excluded-port"),
        pytest.param(
            Capture(exclude_outbound_ports=(53,)),
            Packet(to=OTHER, port=53, protocol="udp"),
            None,
            id="excluded-lookups",
        ),
        pytest.param(Capture(exclude_outbound_cidrs=("10.77.0.0/16",)), Packet(to=OTHER), None, id="excluded-range"),
        pytest.param(Capture(exclude_outbound_cidrs=("10.77.0.3/32",)), Packet(to=VIRTUAL), 15001, id="other-range"),
        pytest.param(Capture(include_outbound_cidrs=()), Packet(to=OTHER), None, id="nothing-included"),
        pytest.param(Capture(include_outbound_cidrs=("10.96.0.0/12",)), Packet(to=VIRTUAL), 15001, id="included-range"),
        pytest.param(Capture(include_outbound_cidrs=("10.96.0.0/12",)), Packet(to=OTHER), None, id="not-included"),
        pytest.param(
            Capture(include_outbound_cidrs=(), include_outbound_ports=(9080,)), Packet(to=OTHER), 15001, id="port-wins"
        ),
        pytest.param(
            Capture(exclude_outbound_cidrs=("10.77.0.0/16",), include_outbound_ports=(9080,)),
            Packet(to=OTHER),
            None,
            id="exclusion-before-included-port",
        ),
    ],
)
def test_what_leaves(capture: Capture, packet: Packet, port: int | None) -> None:
    check_capture(capture)
    assert judge(capture_chains(capture), "output", packet) == port


@pytest.mark.parametrize(
    ("capture", "number", "port"),
    [
        pytest.param(DEFAULT, 9080, 15006, id="any-port"),
        pytest.param(DEFAULT, 15001, 15006, id="even-the-proxys-own"),
        pytest.param(DEFAULT, 15008, 15006, id="no-way-around-by-the-tunnel-port"),
        pytest.param(DEFAULT, 15020, None, id="metrics"),
        pytest.param(DEFAULT, 15021, None, id="health"),
        pytest.param(DEFAULT, 15090, None, id="envoy-metrics"),
        pytest.param(Capture(exclude_inbound_ports=(22,)), 22, None, id="excluded"),
        pytest.param(Capture(include_inbound_ports=(80,)), 80, 15006, id="included"),
        pytest.param(Capture(include_inbound_ports=(80,)), 9080, None, id="not-included"),
        pytest.param(Capture(include_inbound_ports=(15020,)), 15020, 15006, id="inclusion-ignores-exclusions"),
        pytest.param(Capture(include_inbound_ports=()), 9080, None, id="none-included"),
        pytest.param(Capture(inbound_port=3), 9080, 3, id="port-of-choice"),
    ],
)
def test_what_arrives(capture: Capture, number: int, port: int | None) -> None:
    chains = capture_chains(capture)
    assert judge(chains, "prerouting", Packet(to=OWN, source=OTHER, port=number)) == port
    assert judge(chains, "prerouting", Packet(to=OWN, source=OTHER, port=number, protocol="udp")) is None


def test_a_gateway_has_only_its_lookups_captured() -> None:
    chains = gateway_chains()
    assert judge(chains, "output", Packet(to=OTHER)) is None
    assert judge(chains, "prerouting", Packet(to=OWN, port=80)) is None
    assert judge(chains, "output", Packet(to="8.8.8.8", port=53, protocol="udp")) == 15053
    assert judge(chains, "output", Packet(to="127.0.0.2", port=53, protocol="udp")) == 15054


def test_what_goes_outside_takes_the_links_address() -> None:
    (chain,) = outside_chains("outside")
    assert [(rule.matches, rule.verdict) for rule in chain.rules] == [((OutBy("outside"),), Masquerade())]
    assert Return() not in [rule.verdict for rule in chain.rules]


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        pytest.param(Capture(outbound_port=0), "outbound_port: must be between 1 and 65535, got 0", id="port"),
        pytest.param(Capture(mark=0), "mark: must be between", id="mark"),
        pytest.param(Capture(exclude_inbound_ports=(70000,)), "exclude_inbound_ports.*70000", id="list"),
        pytest.param(
            Capture(include_outbound_cidrs=("10.0.0.0/33",)), "include_outbound_cidrs.*10.0.0.0/33", id="mask"
        ),
        pytest.param(Capture(exclude_outbound_cidrs=("*",)), "exclude_outbound_cidrs.*got '\\*'", id="star"),
        pytest.param(Capture(exclude_outbound_cidrs=("::1/128",)), "exclude_outbound_cidrs", id="ipv6"),
    ],
)
def test_a_capture_that_cannot_be(capture: Capture, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_capture(capture)
