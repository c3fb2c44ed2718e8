"""Encode chains for nftables and put them in place, in one transaction.

Formats: Linux's `include/uapi/linux/netfilter/nf_tables.h`; the expressions of a rule are those that nft(8) makes
of the same words (`nft --debug=netlink`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import assert_never

from lateen.net.netlink import NETLINK_NETFILTER, Message, Netlink, attribute, nest
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
    Rule,
    SourceIn,
)

__all__ = ["TABLE", "install", "to_messages"]

TABLE = "lateen"

_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _NEWCHAIN, _NEWRULE = _SUBSYSTEM | 0, _SUBSYSTEM | 3, _SUBSYSTEM | 6
_NLM_F_CREATE, _NLM_F_APPEND = 0x400, 0x800
_AF_INET = 2
_HOOKS = {"prerouting": (0, -100), "output": (3, -100), "postrouting": (4, 100)}  # number, priority of its nat chains
_PROTOCOLS = {"tcp": 6, "udp": 17}
_REGISTER = 1
_VERDICT_REGISTER = 0
_NFT_RETURN = -5
_META_MARK, _META_OIFNAME, _META_L4PROTO = 3, 7, 16
_EQUAL, _NOT_EQUAL = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_IFNAME_BYTES = 16


def install(chains: Sequence[Chain]) -> None:
    """Make table `lateen` with `chains` in the current network namespace, all or nothing. Raises `OSError`."""
    batch = struct.pack(">BBH", 0, 0, 10)  # the subsystem
    envelope = Message("begin", _BATCH_BEGIN, 0, batch), Message("commit", _BATCH_END, 0, batch)
    with Netlink(NETLINK_NETFILTER) as netlink:
        netlink.request(to_messages(chains), envelope=envelope)


def to_messages(chains: Sequence[Chain]) -> tuple[Message, ...]:
    """Return what makes the table: itself, its chains, their rules, in order."""
    table = _message(f"nftables table {TABLE}", _NEWTABLE, _NLM_F_CREATE, attribute(1, _text(TABLE)))
    made = (_chain(chain) for chain in chains)
    filled = (_rule(chain, number, rule) for chain in chains for number, rule in enumerate(chain.rules))
    return (table, *made, *filled)


def _chain(chain: Chain) -> Message:
    number, priority = _HOOKS[chain.hook]
    return _message(
        f"nftables chain {chain.hook}",
        _NEWCHAIN,
        _NLM_F_CREATE,
        attribute(1, _text(TABLE)),
        attribute(3, _text(chain.hook)),
        nest(4, attribute(1, struct.pack(">I", number)), attribute(2, struct.pack(">i", priority))),
        attribute(7, _text("nat")),
    )


def _rule(chain: Chain, number: int, rule: Rule) -> Message:
    expressions = [expression for match in rule.matches for expression in _match(match)]
    expressions += _verdict(rule.verdict)
    return _message(
        f"nftables rule {chain.hook}[{number}]",
        _NEWRULE,
        _NLM_F_CREATE | _NLM_F_APPEND,
        attribute(1, _text(TABLE)),
        attribute(2, _text(chain.hook)),
        nest(4, *(nest(1, expression) for expression in expressions)),
    )


def _match(match: Match) -> Iterable[bytes]:
    match match:
        case Mark(value):
            return (_meta(_META_MARK), _compare(_EQUAL, struct.pack("=I", value)))
        case OutBy(name):
            return (_meta(_META_OIFNAME), _compare(_EQUAL, name.encode().ljust(_IFNAME_BYTES, b"\0")))
        case Protocol(name):
            return (_meta(_META_L4PROTO), _compare(_EQUAL, bytes([_PROTOCOLS[name]])))
        case DestinationPort(port):
            return (_payload(_TRANSPORT_HEADER, 2, 2), _compare(_EQUAL, struct.pack(">H", port)))
        case SourceIn(network):
            return _address(12, network, _EQUAL)
        case DestinationIn(network, negated):
            return _address(16, network, _NOT_EQUAL if negated else _EQUAL)
        case _:
            assert_never(match)


def _verdict(verdict: Return | Redirect | Masquerade) -> Iterable[bytes]:
    match verdict:
        case Return():
            code = nest(2, nest(2, attribute(1, struct.pack(">i", _NFT_RETURN))))
            return (_expression("immediate", attribute(1, struct.pack(">I", _VERDICT_REGISTER)), code),)
        case Redirect(port):
            value = nest(2, attribute(1, struct.pack(">H", port)))
            return (
                _expression("immediate", attribute(1, struct.pack(">I", _REGISTER)), value),
                _expression("redir", attribute(1, struct.pack(">I", _REGISTER))),
            )
        case Masquerade():
            return (_expression("masq"),)
        case _:
            assert_never(verdict)


def _address(offset: int, network: IPv4Network, operator: int) -> tuple[bytes, ...]:
    load = _payload(_NETWORK_HEADER, offset, 4)
    compare = _compare(operator, network.network_address.packed)
    if network.prefixlen == network.max_prefixlen:
        return (load, compare)
    mask = _expression(
        "bitwise",
        attribute(1, struct.pack(">I", _REGISTER)),
        attribute(2, struct.pack(">I", _REGISTER)),
        attribute(3, struct.pack(">I", 4)),
        nest(4, attribute(1, network.netmask.packed)),
        nest(5, attribute(1, bytes(4))),
    )
    return (load, mask, compare)


def _meta(key: int) -> bytes:
    return _expression("meta", attribute(1, struct.pack(">I", _REGISTER)), attribute(2, struct.pack(">I", key)))


def _payload(base: int, offset: int, length: int) -> bytes:
    values = (_REGISTER, base, offset, length)
    return _expression(
        "payload", *(attribute(number, struct.pack(">I", value)) for number, value in enumerate(values, 1))
    )


def _compare(operator: int, value: bytes) -> bytes:
    register, operator_ = struct.pack(">I", _REGISTER), struct.pack(">I", operator)
    return _expression("cmp", attribute(1, register), attribute(2, operator_), nest(3, attribute(1, value)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return attribute(1, _text(name)) + nest(2, *attributes)


def _message(what: str, type_: int, flags: int, *attributes: bytes) -> Message:
    return Message(what, type_, flags, struct.pack("=BBH", _AF_INET, 0, 0) + b"".join(attributes))


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
