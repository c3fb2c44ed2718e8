"""A throwaway authority and SVIDs for tests of mutual TLS."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Svid", "make_authority", "make_svid"]


@dataclass(frozen=True)
class Authority:
    key: Any
    issuer: x509.Certificate
    certificate: bytes  # PEM


@dataclass(frozen=True)
class Svid:
    pair: tuple[bytes, bytes]  # key and certificate, PEM


def make_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    issuer = builder.sign(key, hashes.SHA256())
    return Authority(key, issuer, issuer.public_bytes(serialization.Encoding.PEM))


def make_svid(authority: Authority, uri: str, *, dns: str = "") -> Svid:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    if dns:
        names.append(x509.DNSName(dns))
    builder = _builder(x509.Name([]), authority.issuer.subject, key)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    certificate = builder.sign(authority.key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Svid((pem, certificate.public_bytes(serialization.Encoding.PEM)))


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
    )
