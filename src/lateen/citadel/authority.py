"""The certificate authority: signs X.509-SVIDs for identities that somebody else has established.

In:  a CSR, of which only the key counts; the identity that the caller was found to have; a lifetime.
Out: the leaf, what stands between it and the root, the root.
Rules: profiles and checks in `template`; the clamp to the signer's life as Istio's.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from lateen.citadel.store import PrivateKey, load_or_create_root
from lateen.citadel.template import (
    LeafRequest,
    PublicKey,
    build_leaf,
    check_leaf,
    issuer_key_id,
    leaf_validity,
    parse_csr,
)
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.spiffe import SpiffeId, check_trust_domain
from lateen.wire.svid import UNREADABLE
from lateen.wire.trust import normal_roots, signing_path

__all__ = ["Authority", "Clock", "IssuedChain", "LocalSigner", "Signer", "new_serial", "utc_now"]

Clock = Callable[[], datetime]  # aware, UTC


def utc_now() -> datetime:
    """Return the time, as a `Clock`."""
    return datetime.now(UTC)


def new_serial() -> int:
    """Return a random serial number of 128 bits, never 0 (RFC 5280 wants it positive)."""
    return secrets.randbelow(2**128 - 1) + 1


class Signer(Protocol):
    """Who holds the signing key: this process, and later a hardware module or another program."""

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that leaves are signed with."""

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """From the signing certificate up to, but without, the root. Empty when the root itself signs."""

    @property
    def root(self) -> x509.Certificate:
        """What every workload trusts."""

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Return the signed certificate. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """A self-signed root whose key is in this process."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        return ()

    @property
    def root(self) -> x509.Certificate:
        return self.certificate

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedChain:
    """One issued certificate with all that verifying it takes; PEM, one certificate each. No secret in it."""

    leaf: bytes
    chain: tuple[bytes, ...]  # intermediates, the leaf's issuer first; without the root
    root: bytes  # the root, during a rotation all that are believed, in one text
    serial: str  # hexadecimal, lower case
    not_before: datetime
    not_after: datetime

    @property
    def pems(self) -> tuple[bytes, ...]:
        """Everything in the order of Istio's response: leaf, intermediates, root."""
        return (self.leaf, *self.chain, self.root)


class Authority:
    """Issues certificates in one trust domain. May be used from several threads.

    `issued` counts certificates; `root_not_after` and `signer_not_after` say when trust ends.
    """

    def __init__(
        self, signer: Signer, trust_domain: str, clock: Clock = utc_now, serial: Callable[[], int] = new_serial
    ) -> None:
        check_trust_domain(trust_domain)
        self.trust_domain = trust_domain
        self.created = False  # whether `load_or_create` has made a new root
        self.issued = 0
        self._clock = clock
        self._new_serial = serial
        self._counting = threading.Lock()
        self.latest_not_after: datetime | None = None  # of all leaves issued since the start
        self.use(signer)

    @classmethod
    def load_or_create(cls, folder: Path, trust_domain: str, clock: Clock = utc_now) -> Authority:
        """Return the authority whose root is kept in `folder`; an absent or empty folder gets a new root.

        Raises `BadInput`, naming the file, when what is there must not be used; nothing is changed then.
        """
        check_trust_domain(trust_domain)
        material, created = load_or_create_root(folder, trust_domain, clock(), new_serial)
        authority = cls(LocalSigner(material.certificate, material.key), trust_domain, clock)
        authority.created = created
        return authority

    def use(self, signer: Signer, trusted: Iterable[x509.Certificate] = ()) -> None:
        """Sign by `signer` from now on; `trusted` are roots that are believed besides its own."""
        roots = normal_roots((_pem(each).decode("ascii") for each in (signer.root, *trusted)), "roots")
        path = signing_path(issuer_key_id(signer.certificate), signer.intermediates)
        chain = tuple(_pem(certificate) for certificate in signer.intermediates)
        # In one step: a call in another thread has either all of the old or all of the new.
        self._in_use = _InUse(signer, chain, "".join(roots).encode("ascii"), roots, path)

    @property
    def signer(self) -> Signer:
        """Who signs now."""
        return self._in_use.signer

    @property
    def root_pem(self) -> bytes:
        """All roots that are believed for this trust domain, one after the other."""
        return self._in_use.root_pem

    @property
    def roots(self) -> tuple[str, ...]:
        """The same, each on its own, as a `TrustBundle` has them."""
        return self._in_use.roots

    @property
    def signing_path(self) -> str:
        """By which way leaves are signed now (`lateen.wire.trust`)."""
        return self._in_use.path

    def __repr__(self) -> str:
        return f"Authority(trust_domain={self.trust_domain!r}, issued={self.issued})"

    @property
    def root_not_after(self) -> datetime:
        """When the root expires."""
        return self.signer.root.not_valid_after_utc

    @property
    def signer_not_after(self) -> datetime:
        """When the certificate that signs expires: no leaf outlives it."""
        return self.signer.certificate.not_valid_after_utc

    def issue(self, csr_pem: bytes, spiffe_id: SpiffeId, lifetime: timedelta) -> IssuedChain:
        """Sign a certificate for the key in `csr_pem` and the identity `spiffe_id`, whatever the CSR says of itself.

        Raises `BadInput` (the CSR, the lifetime), `Refused` (an identity of another trust domain), `Unavailable` (the
        signer has expired or gave back something else than it was asked for).
        """
        return self.issue_for_key(parse_csr(csr_pem), spiffe_id, lifetime)

    def issue_for_key(
        self, public_key: PublicKey, spiffe_id: SpiffeId, lifetime: timedelta, dns_names: tuple[str, ...] = ()
    ) -> IssuedChain:
        """Sign a certificate for a key that is known to be its asker's. Raises as `issue` does."""
        if spiffe_id.trust_domain != self.trust_domain:
            raise Refused(f"identity {spiffe_id} is not of trust domain {self.trust_domain!r}")
        if lifetime < timedelta(seconds=1):
            raise BadInput(f"lifetime of {lifetime}, at least one second wanted")
        in_use = self._in_use
        signer = in_use.signer.certificate
        now = self._clock()
        if not signer.not_valid_before_utc <= now < signer.not_valid_after_utc - timedelta(seconds=1):
            raise Unavailable(
                f"signing certificate holds from {signer.not_valid_before_utc} to {signer.not_valid_after_utc}, "
                f"and it is {now:%Y-%m-%d %H:%M:%S%z} now"
            )
        request = LeafRequest(
            public_key=public_key,
            spiffe_id=spiffe_id,
            validity=leaf_validity(now, lifetime, signer.not_valid_after_utc),
            serial=self._new_serial(),
            dns_names=dns_names,
        )
        leaf = in_use.signer.sign(build_leaf(request, signer))
        _check(leaf, request, signer)
        with self._counting:
            self.issued += 1
            self.latest_not_after = max(self.latest_not_after or leaf.not_valid_after_utc, leaf.not_valid_after_utc)
        return IssuedChain(
            leaf=_pem(leaf),
            chain=in_use.chain,
            root=in_use.root_pem,
            serial=f"{leaf.serial_number:x}",
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


@dataclass(frozen=True, slots=True)
class _InUse:
    signer: Signer
    chain: tuple[bytes, ...]
    root_pem: bytes
    roots: tuple[str, ...]
    path: str


def _check(leaf: x509.Certificate, request: LeafRequest, signer: x509.Certificate) -> None:
    try:
        problems = list(check_leaf(leaf, request, signer))
    except UNREADABLE as error:
        problems = [str(error)]
    if problems:
        raise Unavailable(f"signer gave a certificate that must not be used: {'; '.join(problems)}")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
