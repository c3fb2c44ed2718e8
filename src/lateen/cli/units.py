"""Parse what people type as arguments: durations, ports."""

from __future__ import annotations

import argparse
import ipaddress
import re
from datetime import timedelta

from lateen.wire.local import WorkloadPort

__all__ = [
    "parse_address_argument",
    "parse_duration_argument",
    "parse_listen_argument",
    "parse_port_argument",
    "parse_resolver_argument",
]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration_argument(text: str) -> timedelta:
    """Return `90s`, `1h30m`, `2d` as a duration. Raises argparse's error for anything else, and for zero."""
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 24h, 1h30m or 10s")
    seconds = sum(float(part[1]) * _UNITS[part[2]] for part in parts)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be longer than zero")
    return timedelta(seconds=seconds)


def parse_port_argument(text: str) -> WorkloadPort:
    """Return `[NAME:]PORT[:TARGET]`, as `http:9080`, as a port.

    The name's first part is the protocol, as in a Service. TARGET is where the application listens, if not at PORT.
    """
    parts = text.split(":")
    name = parts.pop(0) if not parts[0].isdecimal() else ""
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and 1 <= int(part) <= 65535 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME:PORT or NAME:PORT:TARGET with ports between 1 and 65535, as http:9080"
        )
    if not text[0].isdecimal() and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise argparse.ArgumentTypeError(f"{text!r}: the port's name must be a DNS label, as http or tcp-redis")
    return WorkloadPort(name=name, number=int(parts[0]), target=int(parts[-1]))


def parse_resolver_argument(text: str) -> tuple[str, int]:
    """Return `IP` or `IP:PORT` (of IPv6: `[IP]:PORT`) as (IP, port); the port of DNS is 53."""
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(\d{1,5}))?", text)
    plain = re.fullmatch(r"([\d.]+):(\d{1,5})", text)
    address, port = (found[1], found[2]) if (found := bracketed or plain) else (text, None)
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        known = None
    if known is None or not 1 <= int(port or 53) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP[:PORT], as 192.0.2.53 or [2001:db8::53]:5353")
    return str(known), int(port or 53)


def parse_address_argument(text: str) -> tuple[str, int, int]:
    """Return `[ADDRESS:]PORT[:TARGET]` as (address, port, target); the address is loopback unless given."""
    parts = text.split(":")
    address = "127.0.0.1" if parts[0].isdecimal() else parts.pop(0)
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and 1 <= int(part) <= 65535 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not [ADDRESS:]PORT[:TARGET], as 127.0.0.1:8080:80")
    return address, int(parts[0]), int(parts[-1] if len(parts) == 2 else "80")


def parse_listen_argument(text: str) -> tuple[str, int]:
    """Return `ADDRESS:PORT`, as 127.0.0.1:8443 or [::]:8443, as (IP, port). Raises argparse's error."""
    address, _, port = text.rpartition(":")
    try:
        known = ipaddress.ip_address(address[1:-1] if address[:1] == "[" and address[-1:] == "]" else address)
        if not port.isdecimal() or not 1 <= int(port) <= 65535 or (known.version == 6) != address.startswith("["):
            raise ValueError(port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP:PORT, as 127.0.0.1:8443 or [::]:8443") from error
    return str(known), int(port)
