"""SPIFFE IDs of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, parsed strictly.

Rules: the SPIFFE ID specification (characters and length of trust domain and ID), Istio (the parts of the path),
Kubernetes (a namespace is a DNS label, a service account a DNS subdomain name). Parsing inverts formatting: one
identity has one spelling, so comparing strings is comparing identities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lateen.errors import BadInput

__all__ = [
    "MAX_ID_BYTES",
    "SpiffeId",
    "check_namespace",
    "check_service_account",
    "check_trust_domain",
    "parse_spiffe_id",
    "parse_workload_identity",
    "split_spiffe_id",
]

MAX_ID_BYTES = 2048  # SPIFFE ID specification, section 2.3
_MAX_TRUST_DOMAIN_BYTES = 255  # SPIFFE ID specification, section 2.1
_MAX_LABEL_BYTES = 63  # RFC 1123
_MAX_SUBDOMAIN_BYTES = 253  # Kubernetes: names that are DNS subdomains

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """The identity of a workload. Only valid ones can be made: `BadInput` otherwise."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        check_namespace(self.namespace)
        check_service_account(self.service_account)

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"

    @property
    def principal(self) -> str:
        """The ID as policies name it: without `spiffe://`."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def parse_spiffe_id(text: str) -> SpiffeId:
    """Return the workload identity that `text` spells. Raises `BadInput` for everything else."""
    if len(text) > MAX_ID_BYTES:  # every character that may stand in an ID is one byte
        raise BadInput(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes, got {len(text)} characters")
    match text.split("/"):
        case ["spiffe:", "", trust_domain, "ns", namespace, "sa", service_account]:
            return SpiffeId(trust_domain, namespace, service_account)
    raise BadInput(f"{_shown(text)} is no workload identity, wanted spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")


def parse_workload_identity(text: str, trust_domain: str) -> SpiffeId:
    """Return the identity that `<namespace>/<service account>` names in a trust domain. Raises `BadInput`."""
    match text.split("/"):
        case [namespace, service_account]:
            return SpiffeId(trust_domain, namespace, service_account)
    raise BadInput(f"{_shown(text)} names no identity, wanted NAMESPACE/SERVICE-ACCOUNT")


def split_spiffe_id(text: str) -> tuple[str, str]:
    """Return trust domain and path of any SPIFFE ID, also one that names no workload of a mesh.

    For what others issue: other trust domains are free in what their paths look like (SPIFFE ID specification, section
    2.2; the path may not be empty, nor have segments `.` and `..`). Raises `BadInput`.
    """
    if len(text) > MAX_ID_BYTES:
        raise BadInput(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes, got {len(text)} characters")
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    if not text.startswith("spiffe://") or not _PATH.fullmatch(slash + path) or {".", ".."} & set(path.split("/")):
        raise BadInput(f"{_shown(text)} is no SPIFFE ID, wanted spiffe://TRUST-DOMAIN/PATH")
    check_trust_domain(trust_domain)
    return trust_domain, slash + path


def check_trust_domain(text: str) -> None:
    """Raise `BadInput` unless `text` can be a trust domain. User info, port and upper case have no place in one."""
    if len(text) > _MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(text):
        raise BadInput(
            f"trust domain {_shown(text)}: 1 to {_MAX_TRUST_DOMAIN_BYTES} of a-z, 0-9, '.', '-' and '_' wanted"
        )


def check_namespace(text: str) -> None:
    """Raise `BadInput` unless `text` can be a namespace: one DNS label."""
    if not _is_label(text):
        raise BadInput(
            f"namespace {_shown(text)}: 1 to {_MAX_LABEL_BYTES} of a-z, 0-9 and '-' wanted, no '-' at either end"
        )


def check_service_account(text: str) -> None:
    """Raise `BadInput` unless `text` can be a service account: DNS labels with dots between them."""
    if len(text) > _MAX_SUBDOMAIN_BYTES or not all(_is_label(label) for label in text.split(".")):
        raise BadInput(
            f"service account {_shown(text)}: labels of a-z, 0-9 and '-' with '.' between them wanted, "
            f"{_MAX_SUBDOMAIN_BYTES} characters in all"
        )


def _is_label(text: str) -> bool:
    return len(text) <= _MAX_LABEL_BYTES and _LABEL.fullmatch(text) is not None


def _shown(text: str) -> str:
    # Quoted, so that no control character reaches a terminal or log, and cut, so that no sender fills either.
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."
