"""A small offline PKI for tests: roots, intermediates below them, and their files in either layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.fakes.certs import key_pem, pem_of

__all__ = ["Link", "crl_of", "make_link", "plug", "swap"]

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Link:
    """A certificate of an authority with its key."""

    certificate: x509.Certificate
    key: Any


def make_link(
    name: str,
    above: Link | None = None,
    *,
    now: datetime | None = None,
    life: timedelta = 365 * DAY,
    authority: bool = True,
    path_length: int | None = None,
    key: Any = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    usage: bool = True,
) -> Link:
    """Return an authority, self-signed or signed by the one `above`."""
    now = now or datetime.now(UTC)
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = subject if above is None else above.certificate.subject
    builder = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .not_valid_before(now - timedelta(minutes=2))
        .not_valid_after(now + life)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(authority, path_length if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if usage:
        bits = x509.KeyUsage(False, False, False, False, False, authority, authority, False, False)
        builder = builder.add_extension(bits if authority else _leaf_usage(), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = key if above is None else above.key
    return Link(builder.sign(signer, hashes.SHA256()), key)


def _leaf_usage() -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, False, False, False, False)


def plug(folder: Path, way: Iterable[Link], roots: Iterable[Link], *, layout: str = "istio", crl: bytes = b"") -> None:
    """Write what signs: `way` from the signing certificate up, without the root."""
    signer, *above = way
    folder.mkdir(mode=0o700, exist_ok=True)
    chain = b"".join(pem_of(link.certificate) for link in above)
    believed = b"".join(pem_of(root.certificate) for root in roots)
    own = pem_of(signer.certificate)
    if layout == "istio":
        files = {"ca-cert.pem": own, "ca-key.pem": key_pem(signer.key), "cert-chain.pem": own + chain}
        files |= {"root-cert.pem": believed, **({"ca-crl.pem": crl} if crl else {})}
    else:
        files = {"tls.crt": own + chain, "tls.key": key_pem(signer.key), "ca.crt": believed}
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)


def swap(folder: Path, way: Iterable[Link], roots: Iterable[Link]) -> None:
    """Replace the set in a folder file by file, each in one step, as a careful person does."""
    fresh = folder.with_name(f"{folder.name}.new")
    plug(fresh, way, roots)
    for file in fresh.iterdir():
        file.replace(folder / file.name)
    fresh.rmdir()


def crl_of(link: Link, *, revoked: Iterable[int] = (), now: datetime | None = None) -> bytes:
    """Return the revocation list of an authority in PEM."""
    now = now or datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(link.certificate.subject)
        .last_update(now - timedelta(minutes=1))
        .next_update(now + 30 * DAY)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(link.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
