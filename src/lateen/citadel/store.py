"""The folder that keeps a self-signed root: made once, kept for good, never repaired or replaced behind anyone's back.

    ca-key.pem   0600  private key, PKCS #8
    ca-cert.pem  0600  the root certificate (names as in Istio's own Secret)

The folder itself is 0700. Both files appear together: they are written to a folder beside it, which is then renamed,
so neither a crash nor a second control plane that starts at the same time leaves half of a root. A new root would cut
every workload off from every other; so material that is damaged, incomplete, expired or open to others is an error
that names the file, and a person decides.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.citadel.template import ROOT_LIFETIME, build_root, check_key
from lateen.errors import BadInput, Expired
from lateen.wire.files import write_atomically
from lateen.wire.svid import UNREADABLE

__all__ = [
    "CERTIFICATE_FILE",
    "KEY_FILE",
    "KEY_KINDS",
    "PrivateKey",
    "RootMaterial",
    "RootWish",
    "load_or_create_root",
    "load_root",
    "make_root",
    "parse_key",
]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

KEY_FILE = "ca-key.pem"
CERTIFICATE_FILE = "ca-cert.pem"

_MAX_FILE_BYTES = 64 * 1024  # an RSA 8192 key has 6.5 kB


@dataclass(frozen=True, slots=True)
class RootMaterial:
    """A root certificate and its private key, which match."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


KEY_KINDS: dict[str, Callable[[], PrivateKey]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}


@dataclass(frozen=True, slots=True)
class RootWish:
    """What a self-signed root that is made shall be like; those that exist stay as they are."""

    key: str = "p256"  # of KEY_KINDS
    lifetime: timedelta = ROOT_LIFETIME

    def __post_init__(self) -> None:
        if self.key not in KEY_KINDS:
            raise BadInput(f"key of the root: one of {', '.join(KEY_KINDS)} wanted, got {self.key!r}")


def make_root(wish: RootWish, trust_domain: str, now: datetime, serial: int) -> RootMaterial:
    """Return a new root with a new key."""
    key = KEY_KINDS[wish.key]()
    wide = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256
    builder = build_root(key.public_key(), trust_domain, now, serial, wish.lifetime)
    return RootMaterial(builder.sign(key, hashes.SHA384() if wide else hashes.SHA256()), key)


def load_or_create_root(
    folder: Path, trust_domain: str, now: datetime, new_serial: Callable[[], int], wish: RootWish | None = None
) -> tuple[RootMaterial, bool]:
    """Return the root kept in `folder`, and whether it was made just now because the folder was absent or empty.

    Raises `BadInput`, naming the file, for material that must not be used; nothing is changed then. `OSError` when the
    folder cannot be read or written.
    """
    if _is_absent_or_empty(folder):
        made = _create(folder, make_root(wish or RootWish(), trust_domain, now, new_serial()))
        if made is not None:
            return made, True
    return load_root(folder, now), False


def load_root(folder: Path, now: datetime) -> RootMaterial:
    """Return the root kept in `folder`. Raises `BadInput` or `OSError` as `load_or_create_root` does."""
    _check_private(folder, folder.stat(), "0700")
    key_path, certificate_path = folder / KEY_FILE, folder / CERTIFICATE_FILE
    for path, other in ((key_path, certificate_path), (certificate_path, key_path)):
        if not path.exists():
            beside = f"{other.name} is there" if other.exists() else "its folder is not empty"
            raise BadInput(
                f"{path} is missing though {beside}: restore it; only when the root is lost for good, move {folder} "
                "away to get a new one, which every workload has to be restarted for"
            )
    certificate = _load_certificate(certificate_path, now)
    key = parse_key(key_path)
    if isinstance(key, str):
        raise BadInput(f"{key_path}: {key}")
    if key.public_key() != certificate.public_key():
        raise BadInput(f"{key_path} does not belong to {certificate_path}: they are halves of two different roots")
    return RootMaterial(certificate, key)


def _is_absent_or_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True


def _create(folder: Path, root: RootMaterial) -> RootMaterial | None:
    """Put a new root in place, unless another process was faster: None then."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # 0700
    try:
        _write_key(fresh / KEY_FILE, root.key)
        write_atomically(fresh / CERTIFICATE_FILE, root.certificate.public_bytes(serialization.Encoding.PEM))
        try:
            os.rename(fresh, folder)  # fails on a folder that is not empty
        except OSError:
            if _is_absent_or_empty(folder):
                raise
            return None
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return root


def _write_key(path: Path, key: PrivateKey) -> None:
    write_atomically(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_certificate(path: Path, now: datetime) -> x509.Certificate:
    """Return the one self-signed authority certificate in a file. Raises `BadInput`."""
    with path.open("rb") as file:
        pem = file.read(_MAX_FILE_BYTES + 1)
    if len(pem) > _MAX_FILE_BYTES:
        raise BadInput(f"{path}: more than {_MAX_FILE_BYTES} bytes, one certificate in PEM wanted")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        if len(certificates) != 1:
            raise BadInput(
                f"{path}: one certificate in PEM wanted, got {len(certificates)} in {len(pem)} bytes or more"
            )
        certificate = certificates[0]
        public_key = certificate.public_key()
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        may_sign = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        if not (is_authority and may_sign):
            raise BadInput(f"{path}: no certificate of an authority: basic constraints or key usage do not let it sign")
        certificate.verify_directly_issued_by(certificate)
    except x509.ExtensionNotFound as error:
        raise BadInput(f"{path}: no certificate of an authority: {error}") from error
    except InvalidSignature as error:
        raise BadInput(f"{path}: not signed by its own key, so no root") from error
    except UNREADABLE as error:
        raise BadInput(f"{path}: cannot be read as a certificate: {error}") from error
    try:
        check_key(public_key)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if now >= certificate.not_valid_after_utc:
        raise Expired(
            f"{path}: expired at {certificate.not_valid_after_utc}, and it is {now:%Y-%m-%d %H:%M:%S%z} now: move "
            f"{path.parent} away to get a new root, then restart every workload"
        )
    if now < certificate.not_valid_before_utc:
        raise BadInput(
            f"{path}: holds only from {certificate.not_valid_before_utc} on, and it is {now:%Y-%m-%d %H:%M:%S%z} now: "
            "is this machine's clock right?"
        )
    return certificate


def parse_key(path: Path) -> PrivateKey | str:
    """Return the key in a file, or what is wrong with it.

    Returned, not raised: the bytes of a damaged key are still its secret, and a frame that holds them must not be part
    of a traceback, which some loggers print with all local variables.
    """
    with path.open("rb") as file:
        problem = _privacy_problem(os.fstat(file.fileno()), "0600")
        if problem:
            return problem
        pem = file.read(_MAX_FILE_BYTES + 1)
    if len(pem) > _MAX_FILE_BYTES:
        return f"more than {_MAX_FILE_BYTES} bytes, a private key in PEM wanted"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        return "the private key is encrypted, one without a pass phrase wanted"
    except (ValueError, UnsupportedAlgorithm):
        return "cannot be read as a private key in PEM"
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    return "private key of another type, P-256, P-384 or RSA wanted"


def _check_private(path: Path, status: os.stat_result, wanted: str) -> None:
    problem = _privacy_problem(status, wanted)
    if problem:
        raise BadInput(f"{path}: {problem}")


def _privacy_problem(status: os.stat_result, wanted: str) -> str:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return (
            f"mode {mode:04o} lets others in, {wanted} wanted; if others may have read it, the root is no longer safe"
        )
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {status.st_uid}, wanted this process's user {os.geteuid()}"
    return ""
