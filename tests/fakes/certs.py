"""Keys, CSRs and certificates for tests, honest and hostile, and a clock that moves only when told."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
START = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


@dataclass
class ManualClock:
    """A `Clock` that stands still between calls of `advance`."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, delta: timedelta) -> None:
        self.now += delta


def make_csr(
    key: Any = None,
    *,
    subject: str = "",
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    digest: Any = None,
    key_of: Any = None,
) -> bytes:
    """Return a CSR in PEM, signed by `key`; with `key_of` its public key is swapped for that of another key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    csr = builder.sign(key, digest)
    if key_of is None:
        return csr.public_bytes(PEM)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    old = key.public_key().public_bytes(serialization.Encoding.DER, spki)
    new = key_of.public_key().public_bytes(serialization.Encoding.DER, spki)
    der = csr.public_bytes(serialization.Encoding.DER)
    assert old in der
    assert len(old) == len(new)
    return x509.load_der_x509_csr(der.replace(old, new)).public_bytes(PEM)


def p256_csr(**kwargs: Any) -> bytes:
    """Return an honest P-256 CSR, or one with hostile `extensions`."""
    return make_csr(digest=hashes.SHA256(), **kwargs)


@dataclass
class StrangeAuthority:
    """A certificate authority that signs anything, for peers that Citadel would never have made."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.certificate = self.certify(self.key, names=(), authority=True)

    @property
    def root_pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    def certify(
        self,
        key: ec.EllipticCurvePrivateKey,
        *,
        names: Iterable[x509.GeneralName],
        authority: bool = False,
        usages: Iterable[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        issuer_name: x509.Name | None = None,
    ) -> x509.Certificate:
        """Return a certificate for `key`, signed by this authority."""
        organization = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "strange")])
        builder = (
            x509.CertificateBuilder()
            .serial_number(secrets.randbits(100) + 1)
            .issuer_name(organization if issuer_name is None else issuer_name)
            .subject_name(organization if authority else x509.Name([]))
            .not_valid_before(not_before or self.now - timedelta(minutes=2))
            .not_valid_after(not_after or self.now + timedelta(hours=1))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        signs = bool(authority)  # an SVID says that it does not: what says nothing is refused as one
        builder = builder.add_extension(
            x509.KeyUsage(not signs, False, not signs, False, False, signs, signs, False, False), critical=True
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        if list(names):
            builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
        return builder.sign(self.key, hashes.SHA256())


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(PEM)


def key_pem(key: Any) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)
