"""Clients and servers of TLS for tests: who answered, with which certificate, and what was refused."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.fakes.certs import PEM, StrangeAuthority, key_pem, pem_of

SECONDS = 8.0


@dataclass
class Pair:
    """A certificate and its key, as bytes and, once written, as files."""

    certificate: x509.Certificate
    key: Any = field(repr=False)

    @property
    def chain(self) -> bytes:
        return pem_of(self.certificate)

    @property
    def private_key(self) -> bytes:
        return key_pem(self.key)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write both; return the paths of certificate and key."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        paths[0].write_bytes(self.chain)
        paths[1].write_bytes(self.private_key)
        return paths


def make_pair(authority: StrangeAuthority, *names: str, key: Any = None) -> Pair:
    """Return a certificate for DNS names (or URIs), signed by `authority`; on P-256 unless a key is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    entries: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name) for name in names
    ]
    return Pair(authority.certify(key, names=entries), key)


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def revoke(authority: StrangeAuthority, *pairs: Pair) -> bytes:
    """Return a revocation list, in PEM, with these certificates."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - timedelta(minutes=1))
        .next_update(now + timedelta(hours=1))
    )
    for pair in pairs:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(pair.serial)
            .revocation_date(now - timedelta(minutes=1))
            .build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(PEM)


@dataclass
class TlsClient:
    """How a client greets: whom it trusts, what it shows, which versions and ciphers it takes."""

    roots: bytes
    shows: tuple[Path, Path] | None = None
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    ciphers: str = ""
    alpn: Iterable[str] = ("http/1.1",)
    check_name: bool = True

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.roots.decode())
        context.minimum_version, context.maximum_version = self.versions
        context.check_hostname = self.check_name
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        if self.shows is not None:
            context.load_cert_chain(*self.shows)
        if protocols := list(self.alpn):
            context.set_alpn_protocols(protocols)
        return context

    def connect(self, port: int, name: str, *, host: str = "127.0.0.1") -> ssl.SSLSocket:
        """Return a connection, its handshake done. Raises `OSError` (`ssl.SSLError`) when it is refused."""
        raw = socket.create_connection((host, port), timeout=SECONDS)
        try:
            return self.context().wrap_socket(raw, server_hostname=name)
        except BaseException:
            raw.close()
            raise


def serial_of(sock: ssl.SSLSocket) -> int:
    """Return the serial number of the certificate that the other side showed."""
    der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def secret_yaml(
    name: str,
    pair: Pair | None = None,
    *,
    roots: bytes = b"",
    crl: bytes = b"",
    namespace: str = "default",
    generic: bool = False,
) -> str:
    """Return a Secret as YAML, of kubernetes.io/tls or with the keys of a generic one."""
    keys = ("cert", "key", "cacert", "crl") if generic else ("tls.crt", "tls.key", "ca.crt", "ca.crl")
    values = (pair.chain if pair else b"", pair.private_key if pair else b"", roots, crl)
    lines = [f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}"]
    lines.append(f"type: {'Opaque' if generic or pair is None else 'kubernetes.io/tls'}\nstringData:")
    for key, value in zip(keys, values, strict=True):
        if value:
            lines.append(f"  {key}: |\n" + "\n".join(f"    {line}" for line in value.decode().splitlines()))
    return "\n".join(lines) + "\n"
