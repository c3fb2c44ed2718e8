"""An authority with a real key that signs CSRs, honestly or with one lie at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.fakes.certs import pem_of

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(kw_only=True)
class Lie:
    """What is put in place of what was asked for; None: the truth."""

    names: Sequence[x509.GeneralName] | None = None
    key: Any = None
    authority: bool = False
    usages: Sequence[x509.ObjectIdentifier] | None = BOTH  # None: no extended key usage at all
    key_usage: bool = True  # a leaf's, as it has to be; False: of a signer of certificates
    subject: str = ""
    lifetime: timedelta | None = None
    begins: timedelta = timedelta(minutes=-1)  # from now
    issuer: CsrSigner | None = None  # who signs instead
    extension: x509.ExtensionType | None = None  # critical
    digest: Any = field(default_factory=hashes.SHA256)


@dataclass
class CsrSigner:
    """A root, or an intermediate below `parent`."""

    name: str = "a root"
    parent: CsrSigner | None = None
    path_length: int | None = None
    lifetime: timedelta = timedelta(days=3650)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    authority: bool = True

    def __post_init__(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        parent = self.parent
        builder = (
            x509.CertificateBuilder()
            .serial_number(secrets.randbits(100) + 1)
            .issuer_name(subject if parent is None else parent.certificate.subject)
            .subject_name(subject)
            .not_valid_before(self.clock() - timedelta(minutes=2))
            .not_valid_after(self.clock() + self.lifetime)
            .public_key(self.key.public_key())
            .add_extension(x509.BasicConstraints(self.authority, self.path_length if self.authority else None), True)
        )
        self.certificate = builder.sign(self.key if parent is None else parent.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return pem_of(self.certificate)

    def sign(self, csr_pem: bytes, lifetime: timedelta, lie: Lie | None = None) -> x509.Certificate:
        """Return a certificate with the CSR's key and names."""
        lie = lie or Lie()
        csr = x509.load_pem_x509_csr(csr_pem)
        signer = lie.issuer or self
        now = self.clock()
        names = lie.names if lie.names is not None else _names(csr)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, lie.subject)] if lie.subject else []
        builder = (
            x509.CertificateBuilder()
            .serial_number(secrets.randbits(100) + 1)
            .issuer_name(signer.certificate.subject)
            .subject_name(x509.Name(subject))
            .not_valid_before(now + lie.begins)
            .not_valid_after(now + (lie.lifetime or lifetime))
            .public_key(lie.key.public_key() if lie.key is not None else csr.public_key())
            .add_extension(x509.BasicConstraints(lie.authority, None), critical=True)
            .add_extension(
                x509.KeyUsage(lie.key_usage, False, False, False, False, not lie.key_usage, False, False, False), True
            )
        )
        if lie.usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(lie.usages)), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
        if lie.extension is not None:
            builder = builder.add_extension(lie.extension, critical=True)
        return builder.sign(signer.key, lie.digest)

    def certify_authority(
        self,
        csr_pem: bytes,
        lifetime: timedelta,
        *,
        authority: bool = True,
        path_length: int | None = 0,
        key: Any = None,
    ) -> x509.Certificate:
        """Return an intermediate for the CSR's key."""
        csr = x509.load_pem_x509_csr(csr_pem)
        builder = (
            x509.CertificateBuilder()
            .serial_number(secrets.randbits(100) + 1)
            .issuer_name(self.certificate.subject)
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an intermediate")]))
            .not_valid_before(self.clock() - timedelta(minutes=1))
            .not_valid_after(self.clock() + lifetime)
            .public_key(key.public_key() if key is not None else csr.public_key())
            .add_extension(x509.BasicConstraints(authority, path_length if authority else None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, authority, authority, False, False), True)
        )
        return builder.sign(self.key, hashes.SHA256())


def _names(csr: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
