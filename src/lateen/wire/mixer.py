"""What Pilot and Mixer say to each other: a line of JSON a message on a socketpair, and what Pilot writes into Envoy.

Pilot to Mixer: `Rules` (all that are in force; the whole, each time), `Identity` (Mixer's certificate, and whose
certificates it believes). Mixer to Pilot: `Wish` (a public key to certify), `Report` (every few seconds, and whenever
something changed: a Mixer that says nothing for `SILENCE_SECONDS` is taken to hang). A line is at most `MAX_LINE`.

To Mixer's services a proxy brings metadata that Pilot wrote (`ASKER`, a JSON `Asker`) or had Envoy fill in (the rest):
nothing of it can be set by a client of the proxy. What the proxy itself says must agree with its certificate.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "ASKER",
    "CLUSTER",
    "CONNECTION",
    "MAX_LINE",
    "MIXER_ACCOUNT",
    "MIXER_NAMESPACE",
    "ORIGIN",
    "PEER",
    "REDIS_VARIABLE",
    "SERVICE",
    "SILENCE_SECONDS",
    "Asker",
    "Identity",
    "Message",
    "Report",
    "RuleProblem",
    "RuleText",
    "Rules",
    "Wish",
    "decode_message",
    "encode_message",
]

MAX_LINE: Final = 64 << 20
REPORT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 5.0
CLUSTER: Final = "lateen-mixer"  # of Envoy
MIXER_NAMESPACE: Final = "istio-system"
MIXER_ACCOUNT: Final = "lateen-mixer"
REDIS_VARIABLE: Final = "LATEEN_REDIS_URL"  # of the environment: what is on a command line everybody sees

# Names of gRPC metadata.
ASKER: Final = "lateen-asker"  # JSON of `Asker`, the same for every request of a filter
PEER: Final = "lateen-peer"  # the proxy's own workload, as `wire.peer_env` writes it for other proxies
SERVICE: Final = "lateen-service"  # host|name|namespace of the service that is reached; "-" where there is none
ORIGIN: Final = "lateen-origin"  # the client's address as trusted proxies tell it
CONNECTION: Final = "lateen-connection"  # number of the connection


class Asker(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the operator or Pilot says of the proxies that ask: whose rules apply, and how much they know."""

    namespace: str = ""  # of the workload; "": rules of every namespace
    kind: str = "inbound"  # "inbound" | "outbound": at gateways
    labels: dict[str, str] = {}  # of the workload, for rules with a selector; Pilot names rules instead
    gateway: str = ""  # name of the Gateway, for rules that name one; Pilot names rules instead
    vouched: bool = True  # whether names in clients' certificates are the mesh's word
    rules: tuple[str, ...] | None = None  # "<namespace>/<name>" of those to decide by; None: all that apply
    service: str = ""  # as `SERVICE`, where Envoy cannot fill it in
    host: str = ""


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """Base of the messages; a field that the other side does not know yet is passed over."""


class RuleText(msgspec.Struct, frozen=True, kw_only=True):
    """One resource: where it was written, and what."""

    file: str
    line: int
    resource: dict[str, Any]  # apiVersion, kind, metadata, spec


class Rules(_Message, frozen=True, kw_only=True, tag="rules"):
    version: int  # counts up; `Report.version` says which one is in force
    rules: tuple[RuleText, ...]


class Identity(_Message, frozen=True, kw_only=True, tag="identity"):
    """A certificate for the key that was wished for, and the roots that clients' certificates lead to."""

    public_key: str  # PEM, as in the `Wish`
    chain: str  # PEM, leaf first
    roots: str  # PEM
    trust_domain: str  # of the proxies that may ask
    renew_at: float  # seconds since 1970
    revoked: tuple[str, ...] = ()  # serials of certificates, hexadecimal


class Wish(_Message, frozen=True, kw_only=True, tag="wish"):
    csr: str  # PEM


class RuleProblem(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    line: int
    field: str
    message: str
    level: str = "error"


class Report(_Message, frozen=True, kw_only=True, tag="report"):
    """How Mixer is."""

    version: int  # of the rules in force; 0: none yet
    serving: bool  # the socket is open
    problems: tuple[RuleProblem, ...] = ()
    decisions: int = 0
    denied: int = 0
    failed: int = 0
    entries: int = 0
    dropped: int = 0
    metrics: str = ""  # Prometheus' text format


Message = Rules | Identity | Wish | Report
_DECODER: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_ENCODER: Final = msgspec.json.Encoder()


def encode_message(message: Message) -> bytes:
    """Return the line."""
    return _ENCODER.encode(message) + b"\n"


def decode_message(line: bytes) -> Message:
    """Return the message. Raises `msgspec.MsgspecError`."""
    return _DECODER.decode(line)
