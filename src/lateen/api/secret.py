"""core/v1 Secret, as written, and what of it is a credential for TLS.

Shapes of Kubernetes 1.34; the names of keys are those Istio reads. Rules beyond them: `lateen.api.check_secret`.
Nothing in here prints a value: a Secret shows the names of its keys only, and so does every fault of one.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Final

from lateen.api.base import EMPTY, Object, Spec
from lateen.api.scalars import Bytes, Mapping

__all__ = ["CA_SUFFIX", "GRANT", "TLS_TYPE", "Credential", "SecretBody", "credential_of", "granted_to", "secret_values"]

TLS_TYPE: Final = "kubernetes.io/tls"
GRANT: Final = "gateway.lateen.dev/credential-for"  # annotation: other namespaces whose proxies may have it
CA_SUFFIX: Final = "-cacert"  # of the Secret that holds the roots of one that has none

# Where each part of a credential stands: the first key that is there counts.
_PAIRS: Final = (("cert", "key"), ("tls.crt", "tls.key"))
_ROOTS: Final = ("cacert", "ca.crt")
_CRLS: Final = ("crl", "ca.crl")
_STAPLE: Final = "tls.ocsp-staple"


class SecretBody(Spec, frozen=True, kw_only=True):
    """What stands beside `metadata`: a Secret has no `spec`."""

    type: str = "Opaque"
    data: Mapping[str, Bytes] = EMPTY
    string_data: Mapping[str, str] = EMPTY  # beats `data`, as in Kubernetes
    immutable: bool | None = None

    def __repr__(self) -> str:
        return f"SecretBody(type={self.type!r}, keys={sorted({*self.data, *self.string_data})})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The parts of one Secret that TLS uses, in PEM (the staple in DER); b"" for what it has not."""

    chain_key: str = ""  # names of the keys they were found under, to tell faults by
    private_key_key: str = ""
    roots_key: str = ""
    crl_key: str = ""
    chain: bytes = field(default=b"", repr=False)
    private_key: bytes = field(default=b"", repr=False)
    staple: bytes = field(default=b"", repr=False)
    roots: bytes = field(default=b"", repr=False)
    crl: bytes = field(default=b"", repr=False)


def granted_to(obj: Object) -> frozenset[str]:
    """Return the namespaces, beside its own, to whose proxies a Secret's owner has granted it."""
    return frozenset(word for part in obj.annotations.get(GRANT, "").split(",") if (word := part.strip()))


def secret_values(body: SecretBody) -> AnyMapping[str, bytes]:
    """Return every value by its key."""
    return {**body.data, **{key: text.encode() for key, text in body.string_data.items()}}


def credential_of(body: SecretBody) -> Credential:
    """Return what TLS finds in a Secret of any type."""
    values = secret_values(body)
    chain, private_key = next(
        (pair for pair in _PAIRS if pair[0] in values or pair[1] in values),
        ("", ""),
    )
    roots = next((key for key in _ROOTS if key in values), "")
    crl = next((key for key in _CRLS if key in values), "")
    return Credential(
        chain_key=chain,
        private_key_key=private_key,
        roots_key=roots,
        crl_key=crl,
        chain=values.get(chain, b""),
        private_key=values.get(private_key, b""),
        staple=values.get(_STAPLE, b""),
        roots=values.get(roots, b""),
        crl=values.get(crl, b""),
    )
