"""What a Secret must satisfy to be a credential. No message holds a value, or what a parser said about one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lateen.api.base import Object, Problem
from lateen.api.names import is_dns_label
from lateen.api.secret import GRANT, TLS_TYPE, Credential, SecretBody, credential_of, granted_to
from lateen.api.suggest import seen

__all__ = ["check_secret"]

MIN_RSA_BITS: Final = 2048  # Envoy refuses shorter ones
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # those that Envoy takes for certificates


def check_secret(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a Secret. A certificate that ran out is a warning: it may be renewed any moment."""
    body: SecretBody = obj.spec
    for namespace in sorted(granted_to(obj)):
        if not (is_dns_label(namespace) and namespace == namespace.lower()):
            place = f"metadata.annotations[{GRANT}]"
            yield obj.problem(place, f"must be namespaces, joined by commas, got {seen(namespace)}")
    found = credential_of(body)
    if body.type == TLS_TYPE:
        for key in ("tls.crt", "tls.key"):
            if key not in body.data and key not in body.string_data:
                yield obj.problem("data", f"must have {key} for {TLS_TYPE}")
                return
    if not found.chain_key and not found.roots_key and not found.crl_key:
        message = "has neither a certificate (tls.crt, cert) nor roots (ca.crt, cacert): nothing reads it"
        yield obj.problem("data", message, "warning")
    leaf = yield from _check_chain(obj, found)
    yield from _check_key(obj, found, leaf)
    if found.roots_key:
        roots = _certificates(found.roots)
        if not roots:
            yield obj.problem(_place(obj, found.roots_key), "must be certificates in PEM")
        for root in roots or ():
            yield from _check_dates(obj, found.roots_key, root)
    if found.crl_key and not _is_crl(found.crl):
        yield obj.problem(_place(obj, found.crl_key), "must be revocation lists in PEM")


def _check_chain(obj: Object, found: Credential) -> Generator[Problem, None, x509.Certificate | None]:
    if not found.chain_key:
        return None
    place = _place(obj, found.chain_key)
    if not found.chain:
        yield obj.problem(_place(obj, found.private_key_key), f"wants {found.chain_key} beside it")
        return None
    chain = _certificates(found.chain)
    if not chain:
        yield obj.problem(place, "must be certificates in PEM, the server's own first")
        return None
    yield from _check_dates(obj, found.chain_key, chain[0])
    return chain[0]


def _check_key(obj: Object, found: Credential, leaf: x509.Certificate | None) -> Iterator[Problem]:
    if not found.private_key_key:
        return
    place = _place(obj, found.private_key_key)
    if not found.private_key:
        yield obj.problem(_place(obj, found.chain_key), f"wants {found.private_key_key} beside it")
        return
    try:
        key = serialization.load_pem_private_key(found.private_key, password=None)
    except (ValueError, TypeError):  # TypeError: it wants a password
        yield obj.problem(place, "must be a private key in PEM, without a password")
        return
    except Exception:  # an algorithm that the library does not know has an exception of its own
        key = None
    match key:
        case rsa.RSAPrivateKey():
            if key.key_size < MIN_RSA_BITS:
                yield obj.problem(place, f"must have {MIN_RSA_BITS} bits or more for RSA, has {key.key_size}")
        case ec.EllipticCurvePrivateKey():
            if not isinstance(key.curve, CURVES):
                yield obj.problem(place, f"must be on P-256, P-384 or P-521, is on {key.curve.name}")
        case _:
            yield obj.problem(place, "must be an RSA or an ECDSA key: Envoy takes no other")
            return
    if leaf is not None and _public(key) != _public_of(leaf):
        yield obj.problem(place, f"is not the key of the certificate in {found.chain_key}")


def _check_dates(obj: Object, key: str, certificate: x509.Certificate) -> Iterator[Problem]:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        moment = certificate.not_valid_after_utc.isoformat(timespec="seconds")
        yield obj.problem(_place(obj, key), f"ran out at {moment}", "warning")
    elif certificate.not_valid_before_utc > now:
        moment = certificate.not_valid_before_utc.isoformat(timespec="seconds")
        yield obj.problem(_place(obj, key), f"is valid from {moment} on only", "warning")


def _place(obj: Object, key: str) -> str:
    body: SecretBody = obj.spec
    return f"spec.{'stringData' if key in body.string_data else 'data'}[{key}]"


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _is_crl(pem: bytes) -> bool:
    blocks = pem.count(b"-----BEGIN X509 CRL-----")
    try:
        for part in pem.split(b"-----BEGIN X509 CRL-----")[1:]:
            x509.load_pem_x509_crl(b"-----BEGIN X509 CRL-----" + part)
    except ValueError:
        return False
    return blocks > 0


def _public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
