"""What an authority signs with: certificate, key, the way up to its root, and the roots that are believed with it.

In:  a folder, in either layout. Out: `Material`, checked in full, which is a `Signer`; or `BadInput` that names the
     file.

    ca-cert.pem     the certificate that signs               tls.crt   the same, and what stands between it and the root
    ca-key.pem      its key, for its owner's eyes only       tls.key
    cert-chain.pem  from ca-cert.pem up; the root may be in  ca.crt    the roots
    root-cert.pem   the roots: one or several
    ca-crl.pem      what they have revoked; may be absent

Layouts are Istio's `cacerts` and Kubernetes' TLS Secret (cert-manager's). Rules: RFC 5280; what BoringSSL, which is in
Envoy and gRPC, verifies, is refused here rather than by every proxy later.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from lateen.citadel.store import CERTIFICATE_FILE, KEY_FILE, PrivateKey, parse_key
from lateen.citadel.template import check_key
from lateen.errors import BadInput, Expired
from lateen.wire.svid import UNREADABLE
from lateen.wire.trust import MAX_ROOTS

__all__ = [
    "CHAIN_FILE",
    "CRL_FILE",
    "ROOTS_FILE",
    "Material",
    "file_stamps",
    "load_material",
    "material_files",
    "revoked_in",
    "signature_hash",
    "write_material",
]

CHAIN_FILE = "cert-chain.pem"
ROOTS_FILE = "root-cert.pem"
CRL_FILE = "ca-crl.pem"
_TLS_CERTIFICATE, _TLS_KEY, _TLS_ROOTS = "tls.crt", "tls.key", "ca.crt"
_ISTIO = (CERTIFICATE_FILE, KEY_FILE, CHAIN_FILE, ROOTS_FILE)
_KUBERNETES = (_TLS_CERTIFICATE, _TLS_KEY, _TLS_ROOTS)

MAX_FILE_BYTES = 1 << 20  # a revocation list may be long
MAX_OWN_ROOTS = MAX_ROOTS // 2  # in a rotation those of two sets are believed
MAX_CHAIN = 10  # certificates between a leaf and its root; BoringSSL takes no more than 100

Stamps = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A signing certificate with its key, and whom it leads to. Implements `authority.Signer`."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = ()  # the signing one first; () when the root itself signs
    root: x509.Certificate  # where the way up ends
    roots: tuple[x509.Certificate, ...]  # all that are believed with it; `root` among them
    crl: bytes = b""  # PEM; b"" when nothing says what is revoked

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, signature_hash(self.key))

    @property
    def digest(self) -> str:
        """A short name for all that is public in it."""
        digest = hashlib.sha256(self.crl)
        for part in ((self.certificate,), self.intermediates, sorted_roots(self.roots)):
            digest.update(b"|")
            for certificate in part:
                digest.update(certificate.fingerprint(hashes.SHA256()))
        return digest.hexdigest()[:12]

    @property
    def root_set(self) -> frozenset[bytes]:
        """The roots' fingerprints."""
        return frozenset(root.fingerprint(hashes.SHA256()) for root in self.roots)

    @property
    def self_signed(self) -> bool:
        """Whether the root itself signs."""
        return self.certificate == self.root

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """Every link from the signing certificate to the root."""
        return (self.certificate,) if self.self_signed else (*self.intermediates, self.root)

    @property
    def lists_until(self) -> datetime | None:
        """When the first revocation list is out of date; None when there are none, or they do not say."""
        ends = [each.next_update_utc for each in _lists(self.crl) if each.next_update_utc is not None]
        return min(ends, default=None)

    @property
    def not_after(self) -> datetime:
        """When the first link of the chain expires."""
        return min(link.not_valid_after_utc for link in self.chain)


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """Return the hash to sign with: of the strength of the key."""
    wide = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256
    return hashes.SHA384() if wide else hashes.SHA256()


def sorted_roots(roots: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return each root once, in an order that depends on nothing else."""
    return tuple(sorted(dict.fromkeys(roots), key=lambda root: root.fingerprint(hashes.SHA256())))


def material_files(folder: Path) -> tuple[Path, ...]:
    """Return the files in a folder that matter, whichever layout it has; () when there are none."""
    names = (*_ISTIO, CRL_FILE, *_KUBERNETES)
    return tuple(folder / name for name in names if (folder / name).exists())


def file_stamps(folder: Path) -> Stamps:
    """Return what tells that a set of files changed. Does not raise: what cannot be looked at has no stamp."""
    stamps = []
    for path in material_files(folder):
        try:
            status = path.stat()
        except OSError:
            continue
        stamps.append((path.name, status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode))
    return tuple(stamps)


def load_material(folder: Path, now: datetime, trust_domain: str, *, kept: bool = False) -> Material:
    """Return what a folder holds. Raises `BadInput`, naming the file and the reason, and `OSError`.

    A root that has expired is left out, unless the way up ends there: it vouches for nobody any more. What is `kept`
    because it was good once may have revocation lists that are out of date by now: without it, newer ones could not
    be put in their place.
    """
    try:
        return _load(folder, now, trust_domain, kept=kept)
    except UNREADABLE as error:  # `cryptography` reads keys, names and numbers only when they are asked for
        raise BadInput(f"{folder}: a certificate or list cannot be read: {error}") from error


def _load(folder: Path, now: datetime, trust_domain: str, *, kept: bool) -> Material:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        raise BadInput(f"{folder}: mode {mode:04o} lets others put files there, 0700 or 0755 wanted")
    names = _KUBERNETES if not (folder / CERTIFICATE_FILE).exists() and (folder / _TLS_KEY).exists() else _ISTIO
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise BadInput(f"{folder / missing[0]}: is missing; the whole set is wanted: {', '.join(names)}")
    certificate_path, key_path, roots_path = folder / names[0], folder / names[1], folder / names[-1]
    first, *rest = _certificates(certificate_path)
    chain = rest if names is _KUBERNETES else [*rest, *_certificates(folder / CHAIN_FILE, empty=True)]
    roots = sorted_roots(_certificates(roots_path))
    if len(roots) > MAX_OWN_ROOTS:
        raise BadInput(f"{roots_path}: {len(roots)} roots, at most {MAX_OWN_ROOTS} wanted")
    key = parse_key(key_path)
    if isinstance(key, str):
        raise BadInput(f"{key_path}: {key}")
    if key.public_key() != first.public_key():
        raise BadInput(f"{key_path}: does not belong to {certificate_path}")
    way = _way_up(first, chain, roots, certificate_path)
    roots = tuple(root for root in roots if root in way or now < root.not_valid_after_utc)
    for root in roots:
        _check_authority(root, roots_path, now, trust_domain, below=0)
    for below, link in enumerate(way):
        place = certificate_path if not below else roots_path if link in roots else folder / names[-2]
        _check_authority(link, place, now, trust_domain, below=below)
    crl = _read(folder / CRL_FILE) if names is _ISTIO and (folder / CRL_FILE).exists() else b""
    if crl:
        crl = _check_crl(crl, way, folder / CRL_FILE, None if kept else now)
    return Material(certificate=first, key=key, intermediates=tuple(way[:-1]), root=way[-1], roots=roots, crl=crl)


def _way_up(
    first: x509.Certificate, chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], path: Path
) -> list[x509.Certificate]:
    """Return the certificates from the signing one to a root. Raises `BadInput` when there is no way."""
    way = [first]
    while way[-1] not in roots:
        link = way[-1]
        above = next((other for other in (*roots, *chain) if other != link and _issued(link, other)), None)
        if above is None or above in way or len(way) > MAX_CHAIN:
            raise BadInput(
                f"{path}: {_name(link)} is not signed by any certificate of its chain or roots; "
                f"it says that it is of {link.issuer.rfc4514_string()!r}"
            )
        way.append(above)
    return way


def _issued(link: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        link.verify_directly_issued_by(above)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _check_authority(link: x509.Certificate, path: Path, now: datetime, trust_domain: str, *, below: int) -> None:
    """Raise `BadInput` unless a certificate may stand `below` others over leaves of the trust domain."""
    where = f"{path}: {_name(link)}"
    try:
        check_key(link.public_key())
        constraints = _extension(link, x509.BasicConstraints)
        usage = _extension(link, x509.KeyUsage)
        extended = _extension(link, x509.ExtendedKeyUsage)
        names = _extension(link, x509.NameConstraints)
    except (BadInput, *UNREADABLE) as error:
        raise BadInput(f"{where}: {error}") from error
    if constraints is None or not constraints.ca:
        raise BadInput(f"{where} is no certificate of an authority: basic constraints with CA true wanted")
    if usage is not None and not usage.key_cert_sign:
        raise BadInput(f"{where} may not sign certificates: its key usage lacks keyCertSign")
    if constraints.path_length is not None and constraints.path_length < below:
        raise BadInput(f"{where} has {below} authorities below it, and a path length of {constraints.path_length}")
    if extended is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in extended:
        lacks = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} - set(extended)
        if lacks:
            raise BadInput(f"{where} has an extended key usage without serverAuth and clientAuth: TLS would refuse it")
    if names is not None:
        _check_names(names, trust_domain, where)
    if now >= link.not_valid_after_utc:
        raise Expired(f"{where} expired at {link.not_valid_after_utc}, and it is {now:%Y-%m-%d %H:%M:%S%z} now")
    if now < link.not_valid_before_utc:
        raise BadInput(
            f"{where} holds only from {link.not_valid_before_utc} on, and it is {now:%Y-%m-%d %H:%M:%S%z} now: "
            "is this machine's clock right?"
        )


def _check_names(constraints: x509.NameConstraints, trust_domain: str, where: str) -> None:
    permitted = [each.value for each in constraints.permitted_subtrees or () if _is_uri(each)]
    excluded = [each.value for each in constraints.excluded_subtrees or () if _is_uri(each)]
    if (permitted and not any(_covers(each, trust_domain) for each in permitted)) or any(
        _covers(each, trust_domain) for each in excluded
    ):
        raise BadInput(f"{where} has name constraints that do not allow identities of trust domain {trust_domain!r}")


def _is_uri(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.UniformResourceIdentifier)


def _covers(constraint: str, host: str) -> bool:
    return host.endswith(constraint) if constraint.startswith(".") else host == constraint


def _lists(data: bytes) -> list[x509.CertificateRevocationList]:
    end = b"-----END X509 CRL-----"
    return [x509.load_pem_x509_crl(block.lstrip() + end + b"\n") for block in data.split(end)[:-1]]


@lru_cache(maxsize=4)  # those of one mesh, asked for with each call from afar
def revoked_in(crl: bytes) -> frozenset[tuple[bytes, int]]:
    """Return what lists in PEM revoke: the issuer's name in DER and the serial number of each certificate."""
    return frozenset((each.issuer.public_bytes(), entry.serial_number) for each in _lists(crl) for entry in each)


def _check_crl(data: bytes, way: Sequence[x509.Certificate], path: Path, now: datetime | None) -> bytes:
    """Return the lists and nothing else. Raises `BadInput` unless there is one of every authority of the chain.

    Without `now`, none is out of date.

    Envoy refuses every peer of an authority that it has no list of, or one whose time is over.
    """
    try:
        lists = _lists(data)
    except UNREADABLE as error:
        raise BadInput(f"{path}: cannot be read as revocation lists in PEM: {error}") from error
    for link in way:
        own = [each for each in lists if each.issuer == link.subject and each.is_signature_valid(_signing_key(link))]
        if not own:
            raise BadInput(
                f"{path}: no revocation list of {_name(link)}; one of every authority of the chain is wanted"
            )
        if now is not None and any(each.next_update_utc is not None and each.next_update_utc <= now for each in own):
            raise BadInput(f"{path}: the revocation list of {_name(link)} is out of date; put a newer one there")
        serials = {each.serial_number for each in way}
        if any(each.get_revoked_certificate_by_serial_number(serial) for each in own for serial in serials):
            raise BadInput(f"{path}: revokes a certificate of its own chain")
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)


def _signing_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    return certificate.public_key()  # type: ignore[return-value]  # checked before: of a kind that signs


def _certificates(path: Path, *, empty: bool = False) -> list[x509.Certificate]:
    data = _read(path)
    if empty and not data.strip():
        return []
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE as error:
        raise BadInput(f"{path}: cannot be read as certificates in PEM: {error}") from error
    if len(found) > MAX_CHAIN * 4:
        raise BadInput(f"{path}: {len(found)} certificates, at most {MAX_CHAIN * 4} wanted")
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o022:
            raise BadInput(f"{path}: others may write it; mode 0600 or 0644 wanted")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{path}: more than {MAX_FILE_BYTES} bytes")
    return data


_E = TypeVar("_E", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(certificate: x509.Certificate) -> str:
    return f"certificate {certificate.subject.rfc4514_string()!r} (serial {certificate.serial_number:x})"


def write_material(material: Material) -> dict[str, bytes]:
    """Return the files that `load_material` reads back, by name."""
    pem = serialization.Encoding.PEM
    files = {
        CERTIFICATE_FILE: material.certificate.public_bytes(pem),
        KEY_FILE: material.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        CHAIN_FILE: b"".join(link.public_bytes(pem) for link in material.intermediates),
        ROOTS_FILE: b"".join(root.public_bytes(pem) for root in material.roots),
    }
    return {**files, CRL_FILE: material.crl} if material.crl else files
