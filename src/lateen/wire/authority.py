"""What the command line says to the authority on `run/ca.sock`: JSON over gRPC, as `wire/control.py` speaks it.

/lateen.local.v1.Authority/Report   ReportQuery -> AuthorityReport     what `lateen ca status` and `root` show
/lateen.local.v1.Authority/Rotate   RotateOrder -> AuthorityReport     `lateen ca rotate`
"""

from __future__ import annotations

from typing import Final

import msgspec

from lateen.wire.control import Methods

__all__ = [
    "AUTHORITY_METHODS",
    "AUTHORITY_SERVICE",
    "AuthorityReport",
    "LinkInfo",
    "ReportQuery",
    "RotateOrder",
    "RotationInfo",
    "WaitingInfo",
]

AUTHORITY_SERVICE: Final = "lateen.local.v1.Authority"


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the messages: strict, because the other side may be another version."""


class ReportQuery(_Message, frozen=True, kw_only=True):
    """Nothing to say: there is one report."""


class RotateOrder(_Message, frozen=True, kw_only=True):
    action: str  # "root" | "abort" | "finish" | "without"
    without: tuple[str, ...] = ()  # workloads that are not to be waited for


class LinkInfo(_Message, frozen=True, kw_only=True):
    """One certificate of the authority. No secret in it."""

    role: str  # "signer" | "intermediate" | "root"
    subject: str
    serial: str  # hexadecimal
    key: str  # "P-256", "RSA 2048"
    not_before: str  # RFC 3339, UTC
    not_after: str
    fingerprint: str  # SHA-256, hexadecimal
    pem: str


class WaitingInfo(_Message, frozen=True, kw_only=True):
    workload: str
    reason: str


class RotationInfo(_Message, frozen=True, kw_only=True):
    phase: str  # "steady" | "distributing" | "reissuing"
    reason: str = ""
    since: str = ""  # of the phase, RFC 3339
    settles_until: str = ""  # distributing: before, nothing is signed by the new root in any case
    leaves_until: str = ""  # when the last certificate of the old kind expires
    waits_for: tuple[WaitingInfo, ...] = ()
    without: tuple[str, ...] = ()  # workloads that are left behind


class AuthorityReport(_Message, frozen=True, kw_only=True):
    trust_domain: str
    source: str  # "self-signed", "elsewhere", or the folder that was plugged in
    elsewhere: dict[str, str] = {}  # what is known of an authority elsewhere, for people
    problem: str = ""  # why what is plugged in is not in force
    chain: tuple[LinkInfo, ...]  # what signs now, up to its root
    roots: tuple[LinkInfo, ...]  # all that are believed now
    signing_path: str  # by which way certificates are signed now (`lateen.wire.trust`)
    bundle_version: str
    trusting: int  # workloads that have proven to use this bundle
    workloads: int  # all that are registered
    unproven: tuple[str, ...] = ()  # connected clients that read their roots elsewhere: nothing is known of them
    rotation: RotationInfo
    issued: int  # certificates, since the control plane started


AUTHORITY_METHODS: Final[Methods] = {
    "Report": ("report", ReportQuery, AuthorityReport),
    "Rotate": ("rotate", RotateOrder, AuthorityReport),
}
